"""The twin and the robot's description: everything that a real G1's bringup would show."""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """twin_node with its parameter file, and robot_state_publisher."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and topics."),
            DeclareLaunchArgument(
                "frame_prefix",
                default_value="",
                description="Put before frames on /tf and of pictures, with its slash: keeps several robots apart.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                description="Let the twin make time and publish <namespace>/clock.",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare("agibot_twin"), "config", "twin.yaml"]),
                description="Parameters of the twin.",
            ),
            DeclareLaunchArgument("seed", default_value="0", description="Seed of the objects' places."),
            DeclareLaunchArgument(
                "hardware_topics",
                default_value="false",
                description="Be the hardware of a ros2_control outside, without own controllers.",
            ),
            DeclareLaunchArgument("viewer", default_value="false", description="Open MuJoCo's viewer."),
            Node(
                package="agibot_twin",
                executable="twin_node",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "frame_prefix": ParameterValue(LaunchConfiguration("frame_prefix"), value_type=str),
                        "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                        "hardware_topics": ParameterValue(LaunchConfiguration("hardware_topics"), value_type=bool),
                        "viewer": ParameterValue(LaunchConfiguration("viewer"), value_type=bool),
                        "publish_clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    },
                ],
                remappings=[("/clock", "clock")],
                output="screen",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(
                    PathJoinSubstitution([FindPackageShare("agibot_bringup"), "launch", "description.launch.py"])
                ),
                launch_arguments={
                    "hardware": "twin",
                    "prefix": "",
                    "frame_prefix": LaunchConfiguration("frame_prefix"),
                    "namespace": LaunchConfiguration("namespace"),
                    "use_sim_time": LaunchConfiguration("use_sim_time"),
                }.items(),
            ),
        ]
    )
