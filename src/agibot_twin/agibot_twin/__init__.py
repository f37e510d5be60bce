"""A MuJoCo twin of the AgiBot G1: the shipped URDF on a table scene, with the robot's own ROS 2 interface.

Everything but `twin_node` is free of ROS.
"""
