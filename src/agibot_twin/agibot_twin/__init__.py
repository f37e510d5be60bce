"""A MuJoCo twin of the AgiBot G1: the robot's topics, without the robot."""
