"""The policy on a server, seen from the robot. `policy.py` is a `runtime.policy.Policy`; none of this knows torch.

    node ─► policy ─► link: one thread, one websocket, back-off, silence ─► server
                       ├── desk: which server, where a fleet has many
                       └── dialogue: what is sent and what came means, without a socket
                             sessions.py    this runtime's own protocol
                             roboarena.py   that of DreamZero's released server

Whatever goes wrong is a `ServerTrouble` with the name of its fault, raised where it is known; `link.py` alone decides
what follows: to connect anew, or to give up.
"""
