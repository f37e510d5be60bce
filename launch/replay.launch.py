"""A bag in the place of a robot, and the policy that watches it: nothing that is commanded reaches anybody.

ros2 launch dreamzero replay.launch.py bag:=/path/of/a/bag prompt:="touch the red cube with the left hand"

Both nodes live in a namespace of their own, with the bag's time as their clock: cameras, joint states and trajectories
are those of the replay alone, whatever robot is there too.
"""

from collections.abc import Callable

from launch.actions import DeclareLaunchArgument, Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = (
    ("bag", "", "The bag: a folder with metadata.yaml, or one .mcap or .db3 file. Must be given."),
    ("namespace", "replay", "Namespace of both nodes and of all topics, the clock too. One that no robot has."),
    ("player", "auto", "ros2: ros2 bag play; own: replay_node itself; auto: the first where it is installed."),
    ("rate", "1.0", "Times real time."),
    ("loop", "false", "Begin anew at the bag's end; else everything is shut down there."),
    ("start_s", "0.0", "Where to begin behind the bag's begin [s]."),
    ("prompt", "", "Instruction to follow from the start; empty waits for ~/prompt of policy_node."),
    ("image_transport", "compressed", "How the bag holds images: compressed or raw."),
    ("contract", PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "agibot_g1.yaml"]), "Contract file."),
    (
        "checkpoint",
        PathJoinSubstitution([FindPackageShare("dreamzero"), "checkpoints", "agibot_g1_tiny"]),
        "Checkpoint folder.",
    ),
    (
        "params_file",
        PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "policy.yaml"]),
        "Parameters of policy_node. Those that the other arguments name have the arguments' values.",
    ),
    ("log_level", "info", "Log level of the nodes."),
)


def generate_launch_description() -> LaunchDescription:
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    logging = ["--ros-args", "--log-level", argument["log_level"]]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            Node(
                package="dreamzero_policy",
                executable="policy_node",
                name="policy_node",
                namespace=argument["namespace"],
                output="screen",
                arguments=logging,
                additional_env={"OMP_WAIT_POLICY": "PASSIVE"},
                remappings=[("/clock", "clock")],
                parameters=[
                    argument["params_file"],
                    {
                        "use_sim_time": True,
                        "autostart": True,
                        "require_controllers": False,
                        "require_estop": False,
                        "prompt": ParameterValue(argument["prompt"], value_type=str),
                        "image_transport": argument["image_transport"],
                        "contract": argument["contract"],
                        "checkpoint": argument["checkpoint"],
                    },
                ],
            ),
            Node(
                package="dreamzero_policy",
                executable="replay_node",
                name="replay_node",
                namespace=argument["namespace"],
                output="screen",
                arguments=logging,
                parameters=[
                    {
                        "bag": ParameterValue(argument["bag"], value_type=str),
                        "contract": argument["contract"],
                        "player": argument["player"],
                        "rate_share": ParameterValue(argument["rate"], value_type=float),
                        "loop": ParameterValue(argument["loop"], value_type=bool),
                        "start_s": ParameterValue(argument["start_s"], value_type=float),
                    }
                ],
                on_exit=_end_all("the bag has been played"),
            ),
        ]
    )


def _end_all(reason: str) -> Callable[[object, object], list[object]]:
    """What follows the end of a process without which nothing goes on; nothing, where all is being ended already."""

    def on_exit(_: object, context: object) -> list[object]:
        return [] if context.is_shutdown else [Shutdown(reason=reason)]

    return on_exit
