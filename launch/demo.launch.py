"""The demo on a real ROS 2: the twin, the policy and a bag recorder. Numbers and film are `dreamzero demo`'s alone.

ros2 launch dreamzero demo.launch.py prompt:="touch the red cube with the left hand"
"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, Shutdown, TimerAction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("use_sim_time", "false", "Run on the twin's <namespace>/clock instead of the wall clock."),
    ("seed", "0", "Seed of the scene."),
    ("viewer", "false", "Open MuJoCo's viewer."),
    ("prompt", "touch the red cube with the left hand", "Instruction to follow from the start."),
    ("seconds", "60.0", "Everything is shut down after so long, start-up included [s]."),
    ("contract", PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "agibot_g1.yaml"]), "Contract file."),
    (
        "checkpoint",
        PathJoinSubstitution([FindPackageShare("dreamzero"), "checkpoints", "agibot_g1_tiny"]),
        "Checkpoint folder.",
    ),
    ("denoise_steps", "0", "Solver steps per chunk; 0: as many as the checkpoint says."),
    ("record", "true", "Record the run with ros2 bag."),
    ("bag", "demo_bag", "Folder of the bag."),
    ("log_level", "info", "Log level of the nodes."),
)


def generate_launch_description() -> LaunchDescription:
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    clock = [("/clock", "clock")]  # the namespace's own
    logging = ["--ros-args", "--log-level", argument["log_level"]]
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            Node(
                package="agibot_twin",
                executable="twin_node",
                name="twin",
                namespace=argument["namespace"],
                output="screen",
                arguments=logging,
                remappings=clock,
                parameters=[
                    {"seed": argument["seed"], "viewer": argument["viewer"], "publish_clock": argument["use_sim_time"]}
                ],
            ),
            Node(
                package="dreamzero_policy",
                executable="policy_node",
                name="policy_node",
                namespace=argument["namespace"],
                output="screen",
                arguments=logging,
                additional_env={"OMP_WAIT_POLICY": "PASSIVE"},
                remappings=clock,
                parameters=[
                    PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "policy.yaml"]),
                    {
                        "use_sim_time": argument["use_sim_time"],
                        "autostart": True,
                        "prompt": ParameterValue(argument["prompt"], value_type=str),
                        "contract": argument["contract"],
                        "checkpoint": argument["checkpoint"],
                        "denoise_steps": argument["denoise_steps"],
                    },
                ],
            ),
            ExecuteProcess(
                cmd=["ros2", "bag", "record", "--all", "--storage", "mcap", "--output", argument["bag"]],
                condition=IfCondition(argument["record"]),
                output="screen",
            ),
            TimerAction(period=argument["seconds"], actions=[Shutdown(reason="the demo's time is over")]),
        ]
    )
