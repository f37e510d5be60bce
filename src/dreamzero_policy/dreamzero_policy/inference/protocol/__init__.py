"""What goes over the wire between a robot and a policy server. Both sides import this room; it knows no torch.

Two protocols on one transport, websockets with msgpack: our own sessions (`messages.py`, path ``/v1/session``) and that
of the released server (`official.py`, every other path). `arrays.py` is the encoding of both, `frames.py` that of
images. Whatever is not exactly what a message may be raises `ProtocolError` and nothing else, before anyone acts on it.
"""

SESSION_PATH = "/v1/session"
