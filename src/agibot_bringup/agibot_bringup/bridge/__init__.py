"""The bridge to the robot: ros2_control's two topics on one side, the robot's own vectors and units on the other.

`units.py` is the one table of units, `guard.py` decides what may pass, `latch.py` keeps the stops that somebody called
for, an adapter (`topics.py`, `sdk.py`) speaks to the robot, `node.py` is the ROS 2 node. Tried against a fake robot
alone: no robot was at hand.
"""
