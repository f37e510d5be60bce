"""A policy on a server: many robots' sessions on one model, over the protocols of `inference/protocol`.

Reading order: `settings.py` (what an operator chooses), `capacity.py` (who is let in), `turns.py` (whose turn it is),
`branches.py` and `gathering.py` (what the model does for a client of either protocol), `session_desk.py` and
`released_desk.py` (a connection of either protocol), `front_door.py` (HTTP, tokens), `service.py` (all of it together,
from loading to the drain). One thread computes, the event loop talks; a defect in one session ends that session alone.
"""
