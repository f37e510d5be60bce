"""The security policies give every node what it declares at run time, and nothing else."""

import socket
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import psutil
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from dreamzero_policy.runtime.contract import load_contract

from .declared import Declared, running, settled
from .security_policies import FILE, allowed, profiles

ROOT = Path(__file__).parents[1]
TESTS_OF_BRINGUP = ROOT / "src" / "agibot_bringup" / "test"
built_messages = module_from_spec(
    spec := spec_from_file_location("built_messages", TESTS_OF_BRINGUP / "built_messages.py")
)
spec.loader.exec_module(built_messages)
CONTRACT_FILE = ROOT / "config" / "agibot_g1.yaml"
CONTROLLERS = load_contract(CONTRACT_FILE).site.controllers
COMMANDS = {f"/{controller.name}/joint_trajectory" for controller in CONTROLLERS}
CONTRACT = ["-p", f"contract:={CONTRACT_FILE}"]
# node: module, arguments, a topic that it publishes on once it is complete
NODES = {
    "twin": ("agibot_twin.twin_node", [], "/diagnostics"),
    "safety_gate": ("agibot_bringup.safety_gate.node", CONTRACT, "/diagnostics"),
    "go_home": (
        "agibot_bringup.go_home.node",
        [*CONTRACT, "-p", "output:=gate", "-p", "wait_s:=600.0"],
        "/wanted/joint_trajectory",
    ),
    "nudge": ("agibot_bringup.nudge", [], "/wanted/joint_trajectory"),
    "await_hardware": (
        "agibot_bringup.await_joint_states",
        ["-r", "__node:=await_hardware", "-r", "joint_states:=robot_joint_states"],
        "/rosout",
    ),
    "await_controllers": ("agibot_bringup.await_joint_states", ["-r", "__node:=await_controllers"], "/rosout"),
    "policy_node": (
        "dreamzero_policy.ros.policy_node",
        [
            *CONTRACT,
            *("-p", f"checkpoint:={ROOT / 'checkpoints' / 'agibot_g1_tiny'}", "-p", "autostart:=true"),
            *("-p", "output:=gate"),
        ],
        "/diagnostics",
    ),
}

NUDGED = ("idx11_head_joint1", "0.05", "--wait-s", "240")

# Said by nodes that have no enclave here: the robot, ros2_control, and nobody (a joystick that rumbles).
NOT_OURS = {
    *("/hal/arm_joint_state", "/hal/left_ee_data", "/hal/right_ee_data", "/hal/neck_state", "/hal/waist_state"),
    *("/MotionControlService/SafeStop/request", "/robot_joint_commands", "/joy/set_feedback"),
    *(f"/wanted{topic}" for topic in COMMANDS),  # the gate's, for sources that send to single controllers
}


@pytest.mark.stack
@pytest.mark.parametrize("name", NODES)
def test_a_node_may_do_what_it_declares_and_nothing_else(name: str) -> None:
    module, arguments, last = NODES[name]
    with running(module, arguments, NUDGED if name == "nudge" else ()) as (watcher, process):
        declared = settled(watcher, process, name, last)
    compare(name, declared)


@pytest.mark.stack
@pytest.mark.timeout(900)  # the first time the robot's messages are built
def test_the_bridge_may_do_what_it_declares_once_it_is_connected_and_nothing_else() -> None:
    built_messages.use(built_messages.installed(TESTS_OF_BRINGUP / "bridge" / "genie_msgs"))
    arguments = [*CONTRACT, "-p", "safe_stop_type:=std_msgs/msg/Empty"]
    with running("agibot_bringup.bridge.node", arguments) as (watcher, process):
        configure(watcher, "/bridge/change_state")
        declared = settled(watcher, process, "bridge", "/robot_joint_states")
    compare("bridge", declared)


@pytest.mark.stack
@pytest.mark.timeout(900)  # where MoveIt's messages are not installed, they are built the first time
def test_the_lookout_may_do_what_it_declares_and_nothing_else() -> None:
    if find_spec("moveit_msgs") is None:
        built_messages.use(built_messages.installed(TESTS_OF_BRINGUP / "state_validity" / "moveit_msgs"))
    with running("agibot_bringup.state_validity.node", CONTRACT) as (watcher, process):
        declared = settled(watcher, process, "state_validity", "/diagnostics")
    compare("state_validity", declared)


def configure(watcher: Node, service: str) -> None:
    client, executor = watcher.create_client(ChangeState, service), SingleThreadedExecutor(context=watcher.context)
    executor.add_node(watcher)
    assert client.wait_for_service(60.0)
    answer = client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    executor.spin_until_future_complete(answer, 60.0)
    executor.remove_node(watcher)
    assert answer.result().success


def compare(name: str, declared: Declared) -> None:
    may = allowed()[name]
    # Which services about types there are differs between distributions; offering none is no danger.
    for own in (declared, may):
        own.reply.discard(f"/{name}/get_type_description")
    for what in ("publish", "subscribe", "reply", "request"):
        assert getattr(declared, what) == getattr(may, what), f"{name}: {what}, declared against {FILE.name}"


@pytest.mark.stack
@pytest.mark.parametrize("reach", ["LOCALHOST", "SUBNET"])
def test_a_node_opens_no_tcp_port_and_hears_strangers_only_where_it_is_to_be_found(
    reach: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers announce themselves by multicast, on a port that follows from the domain (DDSI-RTPS)."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", reach)
    module, arguments, last = NODES["safety_gate"]
    with running(module, arguments) as (watcher, process):
        settled(watcher, process, "safety_gate", last)
        sockets = psutil.Process(process.pid).net_connections("inet")
        assert sockets and {connection.type for connection in sockets} == {socket.SOCK_DGRAM}
        multicast = 7400 + 250 * watcher.context.get_domain_id()
    assert (multicast in {connection.laddr.port for connection in sockets}) == (reach == "SUBNET")


def test_only_the_gate_may_command_a_controller() -> None:
    for topic in COMMANDS:
        assert {enclave for enclave, may in allowed().items() if topic in may.publish} == {"safety_gate"}


def test_only_the_operator_may_ask_a_node_of_ours_for_something() -> None:
    asked = {enclave: may.request for enclave, may in allowed().items() if may.request}
    assert set(asked) == {"operator", "state_validity"}
    assert asked["state_validity"] == {"/check_state_validity"}, "of MoveIt's move_group"
    calls = {path for path, profile in profiles() if profile.find("actions[@call='ALLOW']") is not None}
    assert calls == {"/operator"}


def test_what_an_operator_asks_for_is_offered() -> None:
    offered = set().union(*(may.reply for may in allowed().values()))
    assert allowed()["operator"].request <= offered


def test_what_is_heard_is_said_by_somebody() -> None:
    said = set().union(*(may.publish for may in allowed().values())) | NOT_OURS
    for enclave, may in allowed().items():
        assert may.subscribe <= said, enclave


def test_no_rule_is_a_pattern_and_every_node_has_an_enclave_of_its_own() -> None:
    text = FILE.read_text()
    assert not {"*", "?"} & set(text.partition("<enclaves>")[2])
    paths = [path for path, _ in profiles()]
    assert len(paths) == len(set(paths)) and {f"/{name}" for name in NODES} <= set(paths)
