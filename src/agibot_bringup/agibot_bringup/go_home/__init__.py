"""Going home without a planner: a straight way in joint space to the pose in which a policy starts.

`motion.py` decides and is without ROS; `node.py` listens, sends and watches.
"""
