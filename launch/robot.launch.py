"""The G1 and its policy: hardware, controllers, safety gate, policy, in this order; a bag, if it is wanted.

ros2 launch dreamzero robot.launch.py hardware:=mock
ros2 launch dreamzero robot.launch.py hardware:=robot deadman:=heartbeat deadman_topic:=operator_present record:=true

Nothing moves by itself: the policy is configured when the controllers are up and waits for `ros2 lifecycle set
/policy_node activate` (or activate:=true), and the gate for ~/open and a person who holds on. Several robots: a
namespace and a frame_prefix each.
"""

from collections.abc import Callable

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

STACK = FindPackageShare("dreamzero")
BRINGUP = FindPackageShare("agibot_bringup")
ARGUMENTS = (
    ("twin", "true", "With hardware:=topic: start the twin as that hardware."),
    ("namespace", "", "Namespace of all nodes and topics."),
    (
        "frame_prefix",
        "",
        "Put before every frame on /tf and of the twin's pictures, with its slash: keeps the frames of several robots "
        "apart.",
    ),
    ("use_sim_time", "false", "Take time from <namespace>/clock; a twin that is started here makes it."),
    (
        "contract",
        PathJoinSubstitution([STACK, "config", "agibot_g1.yaml"]),
        "Contract file of policy, gate and bridge, whatever their parameter files say.",
    ),
    (
        "checkpoint",
        PathJoinSubstitution([STACK, "checkpoints", "agibot_g1_tiny"]),
        "Checkpoint folder, whatever policy_params_file says.",
    ),
    (
        "policy_params_file",
        PathJoinSubstitution([STACK, "config", "policy.yaml"]),
        "Parameters of the policy. contract, checkpoint and prompt have the values of these arguments.",
    ),
    (
        "prompt",
        "",
        "Instruction that is followed from the policy's activation on, whatever policy_params_file says; empty waits "
        "for one.",
    ),
    ("activate", "false", "Activate the policy as soon as it is configured."),
    ("gate", "true", "Put the safety gate between policy and controllers."),
    ("gate_params_file", PathJoinSubstitution([BRINGUP, "config", "safety_gate.yaml"]), "Parameters of the gate."),
    ("deadman", "joy", "Who holds on while the gate is open: joy, heartbeat or none."),
    ("deadman_topic", "joy", "Topic of the deadman."),
    ("controllers_timeout_s", "120.0", "Longest wait for the controllers' first joint states [s]."),
    ("record", "false", "Record everything with ros2 bag."),
    (
        "bag",
        PythonExpression(["'_'.join('robot_bag/", LaunchConfiguration("namespace"), "'.replace('/', ' ').split())"]),
        "Folder of the bag: by default robot_bag, and for a robot in a namespace robot_bag_<namespace>.",
    ),
    ("log_level", "info", "Log level of the nodes."),
)


def generate_launch_description() -> LaunchDescription:
    """Hardware and controllers at once; the policy when joint states come from them."""
    hardware = LaunchConfiguration("hardware")
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    clock = ("/clock", "clock")  # the namespace's own
    logging = ["--ros-args", "--log-level", argument["log_level"]]
    use_sim_time = ParameterValue(argument["use_sim_time"], value_type=bool)
    of_the_robot = {name: argument[name] for name in ("namespace", "frame_prefix", "use_sim_time")}
    is_twin = PythonExpression(["'", hardware, "' == 'twin'"])
    is_not_twin = PythonExpression(["'", hardware, "' != 'twin'"])
    is_topic = PythonExpression(["'", hardware, "' == 'topic'"])
    needs_twin = PythonExpression(
        ["'", hardware, "' == 'twin' or '", hardware, "' == 'topic' and '", argument["twin"], "' == 'true'"]
    )
    output = PythonExpression(["'gate' if '", argument["gate"], "' == 'true' else 'controllers'"])

    policy = LifecycleNode(
        package="dreamzero_policy",
        executable="policy_node",
        name="policy_node",
        namespace=argument["namespace"],
        arguments=logging,
        additional_env={"OMP_WAIT_POLICY": "PASSIVE"},
        parameters=[
            argument["policy_params_file"],
            {
                "use_sim_time": use_sim_time,
                "contract": ParameterValue(argument["contract"], value_type=str),
                "checkpoint": ParameterValue(argument["checkpoint"], value_type=str),
                "prompt": ParameterValue(argument["prompt"], value_type=str),
                "output": ParameterValue(output, value_type=str),
            },
        ],
        remappings=[clock],
        output="screen",
    )

    def change(transition: int, condition: IfCondition | None = None) -> EmitEvent:
        event = ChangeState(lifecycle_node_matcher=matches_action(policy), transition_id=transition)
        return EmitEvent(event=event, condition=condition)

    await_controllers = Node(
        package="agibot_bringup",
        executable="await_joint_states",
        name="await_controllers",
        namespace=argument["namespace"],
        parameters=[{"timeout_s": ParameterValue(argument["controllers_timeout_s"], value_type=float)}],
        output="screen",
    )

    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "hardware",
                default_value="mock",
                choices=["mock", "twin", "topic", "robot"],
                description="Who drives the joints: mock, twin (its own controllers inside), topic (ros2_control, and "
                "the twin or another simulator on two topics), or robot (ros2_control and the bridge).",
            ),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([BRINGUP, "launch", "control.launch.py"])),
                launch_arguments=(
                    of_the_robot
                    | {"hardware": hardware, "contract": argument["contract"], "log_level": argument["log_level"]}
                ).items(),
                condition=IfCondition(is_not_twin),
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([BRINGUP, "launch", "description.launch.py"])),
                launch_arguments=(of_the_robot | {"hardware": hardware, "prefix": ""}).items(),
                condition=IfCondition(is_twin),
            ),
            Node(
                package="agibot_twin",
                executable="twin_node",
                name="twin",
                namespace=argument["namespace"],
                arguments=logging,
                parameters=[
                    PathJoinSubstitution([FindPackageShare("agibot_twin"), "config", "twin.yaml"]),
                    {
                        "frame_prefix": ParameterValue(argument["frame_prefix"], value_type=str),
                        "publish_clock": use_sim_time,
                        "hardware_topics": ParameterValue(is_topic, value_type=bool),
                    },
                ],
                remappings=[clock],
                output="screen",
                condition=IfCondition(needs_twin),
                on_exit=_end_all("the twin has ended"),
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([BRINGUP, "launch", "safety_gate.launch.py"])),
                launch_arguments={
                    "namespace": argument["namespace"],
                    "use_sim_time": argument["use_sim_time"],
                    "params_file": argument["gate_params_file"],
                    "contract": argument["contract"],
                    "deadman": argument["deadman"],
                    "deadman_topic": argument["deadman_topic"],
                    "log_level": argument["log_level"],
                }.items(),
                condition=IfCondition(argument["gate"]),
            ),
            policy,
            await_controllers,
            RegisterEventHandler(
                OnProcessExit(
                    target_action=await_controllers,
                    on_exit=_after_success(change(Transition.TRANSITION_CONFIGURE)),
                )
            ),
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=policy,
                    start_state="configuring",
                    goal_state="inactive",
                    entities=[change(Transition.TRANSITION_ACTIVATE, IfCondition(argument["activate"]))],
                )
            ),
            ExecuteProcess(
                cmd=["ros2", "bag", "record", "--all", "--storage", "mcap", "--output", argument["bag"]],
                condition=IfCondition(argument["record"]),
                output="screen",
            ),
        ]
    )


def _after_success(*actions: object) -> Callable[[object, object], list[object]]:
    """What follows a process that was waited for; if it failed, everything ends."""

    failed = _end_all("no joint states come from the controllers: see what bridge, spawner or twin said above")
    return lambda event, context: list(actions) if event.returncode == 0 else failed(event, context)


def _end_all(reason: str) -> Callable[[object, object], list[object]]:
    """What follows the end of a process without which nothing goes on; nothing, where all is being ended already."""

    def on_exit(_: object, context: object) -> list[object]:
        return [] if context.is_shutdown else [Shutdown(reason=reason)]

    return on_exit
