"""Publishes the robot's description and its transforms: robot_state_publisher with the expanded xacro.

Mimic joints are derived from the joint they follow, so twenty joint states give all frames.
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import Command, FindExecutable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """robot_state_publisher with the G1's URDF."""
    urdf = Command(
        [
            FindExecutable(name="xacro"),
            " ",
            PathJoinSubstitution([FindPackageShare("agibot_bringup"), "urdf", "agibot_g1.urdf.xacro"]),
            " prefix:=",
            LaunchConfiguration("prefix"),
            " hardware:=",
            LaunchConfiguration("hardware"),
        ]
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("prefix", default_value="", description="Put before every link and joint name."),
            DeclareLaunchArgument(
                "hardware",
                default_value="mock",
                choices=["mock", "twin", "topic", "robot"],
                description="Who drives the joints: chooses the description's ros2_control block.",
            ),
            DeclareLaunchArgument(
                "frame_prefix",
                default_value="",
                description="Put before every frame on /tf, with its slash: keeps the frames of several robots apart.",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Take time from <namespace>/clock."
            ),
            Node(
                package="robot_state_publisher",
                executable="robot_state_publisher",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    {
                        "robot_description": ParameterValue(urdf, value_type=str),
                        "frame_prefix": ParameterValue(LaunchConfiguration("frame_prefix"), value_type=str),
                        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    }
                ],
                remappings=[("/clock", "clock")],
                output="screen",
            ),
        ]
    )
