"""DreamZero as a ROS 2 policy: the model, the loop around it, and the node. One room a sub-package."""
