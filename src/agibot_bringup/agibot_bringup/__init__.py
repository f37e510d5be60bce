"""The AgiBot G1 as ROS 2 sees it: description, controllers, their start-up, and the safety gate before them."""
