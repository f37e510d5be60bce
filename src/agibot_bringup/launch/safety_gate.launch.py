"""The safety gate before the controllers. Sources publish on wanted/…, or are remapped to it.

ros2 launch agibot_bringup safety_gate.launch.py deadman:=heartbeat deadman_topic:=operator_present
ros2 launch agibot_bringup safety_gate.launch.py state_validity:=true      with MoveIt's move_group running
"""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """safety_gate with its parameter file, and state_validity beside it on request."""
    config = [FindPackageShare("agibot_bringup"), "config"]
    of_both = {
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "contract": ParameterValue(LaunchConfiguration("contract"), value_type=str),
    }
    clock = [("/clock", "clock")]  # the namespace's own
    logging = ["--ros-args", "--log-level", LaunchConfiguration("log_level")]
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Take time from <namespace>/clock."
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([*config, "safety_gate.yaml"]),
                description="Parameters of the gate.",
            ),
            DeclareLaunchArgument(
                "contract",
                default_value=PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "agibot_g1.yaml"]),
                description="Contract file with joints, limits and controllers.",
            ),
            DeclareLaunchArgument("deadman", default_value="joy", description="joy, heartbeat or none."),
            DeclareLaunchArgument("deadman_topic", default_value="joy", description="Topic of the deadman."),
            DeclareLaunchArgument(
                "state_validity",
                default_value="false",
                description="Ask MoveIt about the states ahead; the gate is open only while all are valid.",
            ),
            DeclareLaunchArgument(
                "state_validity_params_file",
                default_value=PathJoinSubstitution([*config, "state_validity.yaml"]),
                description="Parameters of who asks.",
            ),
            DeclareLaunchArgument("log_level", default_value="info", description="Log level of the node."),
            Node(
                package="agibot_bringup",
                executable="safety_gate",
                name="safety_gate",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                arguments=logging,
                parameters=[
                    LaunchConfiguration("params_file"),
                    of_both
                    | {
                        "deadman": ParameterValue(LaunchConfiguration("deadman"), value_type=str),
                        "deadman_topic": ParameterValue(LaunchConfiguration("deadman_topic"), value_type=str),
                        "require_state_validity": ParameterValue(
                            LaunchConfiguration("state_validity"), value_type=bool
                        ),
                    },
                ],
                remappings=clock,
            ),
            Node(
                package="agibot_bringup",
                executable="state_validity",
                name="state_validity",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                arguments=logging,
                parameters=[LaunchConfiguration("state_validity_params_file"), of_both],
                remappings=clock,
                condition=IfCondition(LaunchConfiguration("state_validity")),
            ),
        ]
    )
