"""ros2_control of the G1: description, hardware, controllers, in this order.

ros2 launch agibot_bringup control.launch.py hardware:=mock

    mock     nothing but ros2_control: states mirror commands
    topic    something else answers on robot_joint_commands and robot_joint_states: controllers start after its first
             state
    robot    the bridge does: it is configured, activated once the robot reports, and then the controllers start. With
             activate_hardware:=false states pass and nothing moves, until `ros2 lifecycle set /bridge activate`

Several robots: a namespace and a frame_prefix each.
"""

import os
from collections.abc import Callable

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

CLOCK = ("/clock", "clock")  # the namespace's own
# Humble's spawner has no such option; there controllers have the remappings of the manager's process.
CONTROLLERS_CLOCK = [] if os.environ.get("ROS_DISTRO") == "humble" else ["--controller-ros-args", "-r /clock:=clock"]
CONFIG = [FindPackageShare("agibot_bringup"), "config"]
CONTROLLERS = [
    "joint_state_broadcaster",
    "dual_arm_controller",
    "left_gripper_controller",
    "right_gripper_controller",
    "head_controller",
    "waist_controller",
]
ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("frame_prefix", "", "Put before every frame on /tf, with its slash: keeps the frames of several robots apart."),
    ("use_sim_time", "false", "Take time from <namespace>/clock."),
    ("controllers_file", PathJoinSubstitution([*CONFIG, "controllers.yaml"]), "Parameters of the controllers."),
    (
        "controllers_overlay",
        [PathJoinSubstitution([*CONFIG, "controllers."]), EnvironmentVariable("ROS_DISTRO"), ".yaml"],
        "What differs on this distribution, given after controllers_file.",
    ),
    (
        "contract",
        PathJoinSubstitution([FindPackageShare("dreamzero"), "config", "agibot_g1.yaml"]),
        "Contract file with the joints' ranges, for the bridge.",
    ),
    (
        "bridge_site_file",
        PathJoinSubstitution([*CONFIG, "bridge.yaml"]),
        "Parameters of the bridge at this site, given after the shipped bridge.yaml; bridge_sdk.yaml for the SDK.",
    ),
    ("activate_hardware", "true", "Activate the bridge once the robot reports; false leaves that to a person."),
    ("robot_timeout_s", "60.0", "Longest wait for the first states of the hardware [s]."),
    ("log_level", "info", "Log level of the nodes."),
)


def generate_launch_description() -> LaunchDescription:
    """Description and ros2_control_node at once; controllers when the hardware's states are known."""
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS} | {
        "hardware": LaunchConfiguration("hardware")
    }
    logging = ["--ros-args", "--log-level", argument["log_level"]]
    use_sim_time = {"use_sim_time": ParameterValue(argument["use_sim_time"], value_type=bool)}

    def hardware_is(*words: str) -> PythonExpression:
        return PythonExpression(["'", argument["hardware"], f"' in {words!r}"])

    def spawner(condition: IfCondition | None = None) -> Node:
        return Node(
            package="controller_manager",
            executable="spawner",
            namespace=argument["namespace"],
            arguments=[
                *CONTROLLERS,
                *("--controller-manager", "controller_manager", "--activate-as-group"),
                # From Lyrical on the manager no longer hands its own parameter files and remappings on to controllers.
                *("--param-file", argument["controllers_file"], "--param-file", argument["controllers_overlay"]),
                *CONTROLLERS_CLOCK,
            ],
            output="screen",
            condition=condition,
        )

    bridge = LifecycleNode(
        package="agibot_bringup",
        executable="bridge",
        name="bridge",
        namespace=argument["namespace"],
        arguments=logging,
        parameters=[
            PathJoinSubstitution([*CONFIG, "bridge.yaml"]),
            argument["bridge_site_file"],
            {"contract": ParameterValue(argument["contract"], value_type=str)} | use_sim_time,
        ],
        remappings=[CLOCK],
        output="screen",
        condition=IfCondition(hardware_is("robot")),
        on_exit=_end_all("the bridge to the robot has ended"),
    )

    def change(transition: int, condition: IfCondition | None = None) -> EmitEvent:
        event = ChangeState(lifecycle_node_matcher=matches_action(bridge), transition_id=transition)
        return EmitEvent(event=event, condition=condition)

    await_hardware = Node(
        package="agibot_bringup",
        executable="await_joint_states",
        name="await_hardware",
        namespace=argument["namespace"],
        # The listener is the hardware: controllers that start before it has heard a state begin at no number.
        parameters=[
            {"timeout_s": ParameterValue(argument["robot_timeout_s"], value_type=float), "require_listener": True}
        ],
        remappings=[("joint_states", "robot_joint_states")],
        output="screen",
        condition=IfCondition(hardware_is("topic", "robot")),
    )
    activate = PythonExpression(
        ["'", argument["hardware"], "' == 'robot' and '", argument["activate_hardware"], "' == 'true'"]
    )

    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "hardware",
                default_value="mock",
                choices=["mock", "topic", "robot"],
                description="Who drives the joints: mock, topic (something else on two topics), or robot (the bridge).",
            ),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(
                    PathJoinSubstitution([FindPackageShare("agibot_bringup"), "launch", "description.launch.py"])
                ),
                launch_arguments={
                    "hardware": argument["hardware"],
                    "prefix": "",  # controllers and contract have none
                    "namespace": argument["namespace"],
                    "frame_prefix": argument["frame_prefix"],
                    "use_sim_time": argument["use_sim_time"],
                }.items(),
            ),
            Node(
                package="controller_manager",
                executable="ros2_control_node",
                namespace=argument["namespace"],
                parameters=[argument["controllers_file"], argument["controllers_overlay"], use_sim_time],
                # Humble listens for the description on the private name.
                remappings=[("~/robot_description", "robot_description"), CLOCK],
                output="screen",
                on_exit=_end_all("ros2_control has ended"),
            ),
            bridge,
            await_hardware,
            spawner(IfCondition(hardware_is("mock"))),
            RegisterEventHandler(
                OnProcessStart(target_action=bridge, on_start=[change(Transition.TRANSITION_CONFIGURE)])
            ),
            RegisterEventHandler(
                OnProcessExit(
                    target_action=await_hardware,
                    on_exit=_after_success(
                        change(Transition.TRANSITION_ACTIVATE, IfCondition(activate)),
                        spawner(IfCondition(hardware_is("topic"))),
                    ),
                )
            ),
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=bridge,
                    start_state="activating",
                    goal_state="active",
                    entities=[spawner()],
                    handle_once=True,  # whoever activates the bridge again finds the controllers there
                )
            ),
        ]
    )


def _after_success(*actions: object) -> Callable[[object, object], list[object]]:
    """What follows a process that was waited for; if it failed, everything ends."""

    failed = _end_all(
        "the hardware reports no joint states, or ros2_control hears none: see what await_hardware and bridge said"
    )
    return lambda event, context: list(actions) if event.returncode == 0 else failed(event, context)


def _end_all(reason: str) -> Callable[[object, object], list[object]]:
    """What follows the end of a process without which nothing goes on; nothing, where all is being ended already."""

    def on_exit(_: object, context: object) -> list[object]:
        return [] if context.is_shutdown else [Shutdown(reason=reason)]

    return on_exit
