"""State validity: MoveIt asked about the states ahead, as one more thing that must be good for the gate to be open.

`lookout.py` is the place to begin. What decides (ahead, lookout) is without ROS; node and parameters connect it.
"""
