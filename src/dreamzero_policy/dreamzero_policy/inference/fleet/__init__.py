"""Many policy servers as one: who serves the next robot. `roster.py` decides, `ray_serve.py` runs it on Ray Serve.

A session's memory is on one server, so a robot talks to that server directly and stays with it: only the question where
to go is asked of the fleet.
"""
