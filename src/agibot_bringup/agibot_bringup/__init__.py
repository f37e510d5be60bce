"""The AgiBot G1 as ROS 2 sees it: description, controllers and their start-up. No rclpy in this package's modules."""
