"""The safety gate: it stands between whoever sends trajectories and the controllers, and lets through what it may.

`gate.py` is the place to begin. What decides (trajectory, engage, channel, interlocks, gate) is without ROS; node,
parameters, messages and reports connect it.
"""
