"""The launch files start what they say, in the order they say, with parameters that the nodes know."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from catkin_pkg.package import parse_package
from lifecycle_msgs.msg import Transition

from .stand_in import ROOT, SHARES, ChangeState, ExecuteProcess, Node, Run, Shutdown

ROBOT = ROOT / "launch" / "robot.launch.py"
DEMO = ROOT / "launch" / "demo.launch.py"
REPLAY = ROOT / "launch" / "replay.launch.py"
BRINGUP = SHARES["agibot_bringup"]
CONTROL = BRINGUP / "launch" / "control.launch.py"
TWIN = SHARES["agibot_twin"] / "launch" / "twin.launch.py"
FILES = [
    *sorted((ROOT / "launch").glob("*.launch.py")),
    *sorted(file for share in SHARES.values() if share != ROOT for file in share.glob("launch/*.launch.py")),
]
CONTROLLERS = {
    "joint_state_broadcaster",
    "dual_arm_controller",
    "left_gripper_controller",
    "right_gripper_controller",
    "head_controller",
    "waist_controller",
}
# As the spawner's own sources have them; versions and commits stand in the file.
SPAWNER = json.loads((Path(__file__).parent / "spawner_options.json").read_text())
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE


@pytest.fixture(autouse=True)
def distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")


def owner(file: Path) -> str:
    return "dreamzero" if file.parent == ROOT / "launch" else file.parents[1].name


def executables(package: str) -> set[str]:
    """Console scripts of one of our packages, from its setup.py."""
    scripts = set()
    for node in ast.walk(ast.parse((SHARES[package] / "setup.py").read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " = " in node.value:
            scripts.add(node.value.partition(" = ")[0])
    return scripts


def known_parameters(node: Node) -> set[str] | None:
    """Names that one of our nodes declares; None for another's."""
    if node.executable == "safety_gate":
        from agibot_bringup.safety_gate.parameters import PARAMETERS
    elif node.executable == "state_validity":
        from agibot_bringup.state_validity.parameters import PARAMETERS
    elif node.executable == "bridge":
        from agibot_bringup.bridge.parameters import PARAMETERS
    elif node.executable == "policy_node":
        from dreamzero_policy.ros.parameters import PARAMETERS
    elif node.executable == "replay_node":
        from dreamzero_policy.ros.replay_node import PARAMETERS
    elif node.executable == "twin_node":
        from agibot_twin.twin_node import PARAMETERS
    elif node.executable == "await_joint_states":
        PARAMETERS = ("timeout_s", "require_listener")
    else:
        return None
    return {getattr(parameter, "name", parameter) for parameter in PARAMETERS} | {"use_sim_time"}


def whole(run: Run) -> Run:
    """With all that follows when everything goes well."""
    everything = list(run.context.started)
    for node in run.nodes:
        everything += run.process_starts(node).context.started
        everything += run.process_exits(node, 0).context.started
        everything += run.state_changes(node, "activating", "active").context.started
    run.context.started = everything
    return run


def all_runs() -> list[Run]:
    """Every file with every choice of hardware."""
    runs = []
    for file in FILES:
        declared = Run(file).context.declared
        for hardware in declared["hardware"][1] if "hardware" in declared else ("",):
            runs.append(whole(Run(file, {"hardware": hardware} if hardware else {})))
    return runs


def changes(run: Run) -> list[tuple[str, int]]:
    return [(e.lifecycle_node_matcher.name, e.transition_id) for e in run.context.events if isinstance(e, ChangeState)]


# Every launch file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_argument_is_described(file: Path) -> None:
    declared = Run(file).context.declared
    assert declared
    for name, (description, _) in declared.items():
        assert description.endswith("."), f"{name}: {description!r}"


def test_every_package_executable_parameter_and_file_exists() -> None:
    runs = all_runs()
    assert {node.executable for run in runs for node in run.nodes} >= {
        "bridge",
        "await_joint_states",
        "safety_gate",
        "twin_node",
        "policy_node",
        "robot_state_publisher",
        "ros2_control_node",
        "spawner",
    }
    for run in runs:
        described = parse_package(SHARES[owner(run.file)] / "package.xml")
        reached = {owner(run.file)} | {dependency.name for dependency in described.exec_depends}
        for package in list(reached & set(SHARES)):  # included files bring what their packages depend on
            reached |= {d.name for d in parse_package(SHARES[package] / "package.xml").exec_depends}
        for node in run.nodes:
            assert node.package in reached, f"{run.file.name}: {node.package} is no dependency"
            if node.package in SHARES:
                assert node.executable in executables(node.package)
            known = known_parameters(node)
            assert known is None or set(node.parameters) <= known, f"{run.file.name}: {node.executable}"
            assert all(file.is_file() for file in node.files), f"{run.file.name}: {node.files}"


def test_parameter_files_reach_their_nodes_in_a_namespace_too() -> None:
    run = Run(ROBOT, {"hardware": "robot", "namespace": "left_lab"})
    for node in run.nodes:
        assert node.namespace == "left_lab", node.executable
        for file in node.files:
            assert all(name.startswith("/**") for name in yaml.safe_load(file.read_text())), file


# Hardware


@pytest.mark.parametrize("release", SPAWNER)
def test_the_spawner_knows_its_options_on_every_distribution(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", release)
    options = {argument for argument in Run(CONTROL).node("spawner").arguments if argument.startswith("--")}
    assert options <= set(SPAWNER[release]["options"])


def test_mock_hardware_needs_nothing_but_its_controllers() -> None:
    run = Run(CONTROL, {"hardware": "mock"})
    assert run.executables() == ["robot_state_publisher", "ros2_control_node", "spawner"]
    spawner = run.node("spawner")
    assert (spawner.package, set(spawner.arguments) & CONTROLLERS) == ("controller_manager", CONTROLLERS)
    options = spawner.arguments[len(CONTROLLERS) :]
    assert options[:3] == ["--controller-manager", "controller_manager", "--activate-as-group"]
    # Not by the manager alone: from Lyrical on it keeps its parameter files to itself (ros2_control pull request 3016).
    given = [str(file) for file in run.node("ros2_control_node").files]
    assert options[3:7] == [part for file in given for part in ("--param-file", file)] and len(given) == 2
    assert options[7:] == ["--controller-ros-args", "-r /clock:=clock"]  # nor does it hand on its remappings
    manager = run.node("ros2_control_node")
    config = BRINGUP / "config"
    assert manager.files == [config / "controllers.yaml", config / "controllers.jazzy.yaml"]
    assert manager.remappings == {"~/robot_description": "robot_description", "/clock": "clock"}
    assert "hardware:=mock" in run.node("robot_state_publisher").parameters["robot_description"]
    assert run.ends_all(manager)


@pytest.mark.parametrize("distribution", ["humble", "jazzy", "kilted", "lyrical"])
def test_the_overlay_is_that_of_the_distribution(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    assert Run(CONTROL).node("ros2_control_node").files[-1] == BRINGUP / "config" / f"controllers.{distribution}.yaml"


def test_controllers_of_topic_hardware_start_once_it_reports() -> None:
    run = Run(CONTROL, {"hardware": "topic"})
    assert run.executables() == ["robot_state_publisher", "ros2_control_node", "await_joint_states"]
    waiting = run.node("await_joint_states")
    assert waiting.remappings == {"joint_states": "robot_joint_states"} and waiting.parameters["timeout_s"] == 60.0
    assert waiting.parameters["require_listener"] is True  # the hardware itself
    assert run.process_exits(waiting, 0).executables() == ["spawner"] and changes(run) == []


def test_the_bridge_is_configured_then_activated_then_the_controllers_start() -> None:
    run = Run(CONTROL, {"hardware": "robot", "contract": "/site/contract.yaml"})
    assert run.executables() == ["robot_state_publisher", "ros2_control_node", "bridge", "await_joint_states"]
    bridge, waiting = run.node("bridge"), run.node("await_joint_states")
    assert bridge.parameters == {"contract": "/site/contract.yaml", "use_sim_time": False}
    assert bridge.files[0] == BRINGUP / "config" / "bridge.yaml"
    assert changes(run.process_starts(bridge)) == [("bridge", CONFIGURE)]
    assert changes(run.process_exits(waiting, 0)) == [("bridge", ACTIVATE)] and run.nodes == []
    assert run.state_changes(bridge, "activating", "active").executables() == ["spawner"]
    assert run.ends_all(bridge)


def test_a_bridge_that_is_activated_again_finds_its_controllers_and_starts_no_others() -> None:
    run = Run(CONTROL, {"hardware": "robot"})
    bridge = run.node("bridge")
    assert run.state_changes(bridge, "activating", "active").executables() == ["spawner"]
    assert run.state_changes(bridge, "activating", "active").executables() == []


def test_with_the_hardware_left_to_a_person_nothing_is_activated() -> None:
    run = Run(CONTROL, {"hardware": "robot", "activate_hardware": "false"})
    waiting = run.node("await_joint_states")
    assert changes(run.process_exits(waiting, 0)) == [] and run.nodes == []


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (
            CONTROL,
            "no joint states, or ros2_control hears none: see what await_hardware and bridge said",
        ),
        (ROBOT, "no joint states come from the controllers: see what bridge, spawner or twin said"),
    ],
)
def test_what_does_not_come_ends_everything_and_the_reason_says_who_knows_more(file: Path, what: str) -> None:
    run = Run(file, {"hardware": "topic"})
    waiting = [node for node in run.nodes if node.executable == "await_joint_states"][-1]
    run.process_exits(waiting, 1)
    assert run.nodes == [] and changes(run) == []
    assert [type(event) for event in run.context.events] == [Shutdown] and what in run.context.events[0].reason


@pytest.mark.parametrize("hardware", ["mock", "twin", "topic", "robot"])
def test_when_a_person_ends_everything_no_process_asks_for_it_again(hardware: str) -> None:
    """launch takes a second request for an error, and `ros2 launch` then ends with 1."""
    run = Run(ROBOT, {"hardware": hardware})
    run.context.is_shutdown = True
    for node in run.nodes:
        assert not run.process_exits(node, 1).context.events, node.executable


# The robot and its policy


def names(run: Run) -> set[str]:
    return {node.name or node.executable for node in run.nodes}


@pytest.mark.parametrize(
    ("hardware", "started"),
    [
        ("mock", {"robot_state_publisher", "ros2_control_node", "spawner"}),
        ("twin", {"robot_state_publisher", "twin"}),
        ("topic", {"robot_state_publisher", "ros2_control_node", "await_hardware", "twin"}),
        ("robot", {"robot_state_publisher", "ros2_control_node", "await_hardware", "bridge"}),
    ],
)
def test_each_hardware_starts_its_own_and_the_rest_is_the_same(hardware: str, started: set[str]) -> None:
    assert names(Run(ROBOT, {"hardware": hardware})) == started | {"safety_gate", "policy_node", "await_controllers"}


def test_the_twin_is_hardware_where_ros2_control_has_the_controllers() -> None:
    twin = Run(ROBOT, {"hardware": "topic", "use_sim_time": "true"}).node("twin_node")
    assert twin.parameters == {"publish_clock": True, "hardware_topics": True, "frame_prefix": ""}
    assert Run(ROBOT, {"hardware": "twin"}).node("twin_node").parameters["hardware_topics"] is False
    assert "twin" not in names(Run(ROBOT, {"hardware": "topic", "twin": "false"}))


def test_the_policy_is_configured_when_the_controllers_report_and_activated_on_request() -> None:
    for asked, activated in (("false", []), ("true", [("policy_node", ACTIVATE)])):
        run = Run(ROBOT, {"activate": asked})
        policy = run.node("policy_node")
        (waiting,) = (node for node in run.nodes if node.name == "await_controllers")
        assert changes(run) == [] and waiting.remappings == {}
        assert changes(run.process_exits(waiting, 0)) == [("policy_node", CONFIGURE)]
        assert changes(run.state_changes(policy, "configuring", "inactive")) == activated
        assert changes(run.state_changes(policy, "deactivating", "inactive")) == []  # a person's word is kept


def test_the_gate_stands_between_policy_and_controllers_unless_it_is_left_out() -> None:
    gate = yaml.safe_load((BRINGUP / "config" / "safety_gate.yaml").read_text())["/**/safety_gate"]["ros__parameters"]
    assert "wanted/joint_trajectory" in gate["inputs"]
    assert Run(ROBOT).node("policy_node").parameters["output"] == "gate"
    without = Run(ROBOT, {"gate": "false"})
    assert "safety_gate" not in names(without)
    assert without.node("policy_node").parameters["output"] == "controllers"


def test_moveit_is_asked_about_the_states_ahead_on_request_and_the_gate_waits_for_it() -> None:
    without, asked = Run(ROBOT), Run(ROBOT, {"state_validity": "true", "contract": "/site/contract.yaml"})
    assert without.node("safety_gate").parameters["require_state_validity"] is False
    assert asked.node("safety_gate").parameters["require_state_validity"] is True
    lookout = asked.node("state_validity")
    assert lookout.parameters == {"use_sim_time": False, "contract": "/site/contract.yaml"}
    assert lookout.files == [BRINGUP / "config" / "state_validity.yaml"]
    assert names(asked) == names(without) | {"state_validity"}


def test_arguments_reach_the_nodes_they_are_for() -> None:
    arguments = {
        "hardware": "robot",
        "namespace": "lab",
        "frame_prefix": "lab/",
        "contract": "/site/contract.yaml",
        "checkpoint": "/site/checkpoint",
        "prompt": "tidy up",
        "deadman": "heartbeat",
        "deadman_topic": "operator_present",
        "log_level": "debug",
    }
    run = Run(ROBOT, arguments)
    assert run.node("robot_state_publisher").parameters["frame_prefix"] == "lab/"
    policy, gate, bridge = (run.node(name) for name in ("policy_node", "safety_gate", "bridge"))
    assert policy.parameters == {
        "use_sim_time": False,
        "contract": "/site/contract.yaml",
        "checkpoint": "/site/checkpoint",
        "prompt": "tidy up",
        "output": "gate",
    }
    assert (gate.parameters["deadman"], gate.parameters["deadman_topic"]) == ("heartbeat", "operator_present")
    assert gate.parameters["contract"] == bridge.parameters["contract"] == "/site/contract.yaml"
    assert all(node.arguments[-1] == "debug" for node in (policy, gate, bridge))


def test_arguments_of_the_included_files_can_be_given_too() -> None:
    site = BRINGUP / "config" / "bridge_sdk.yaml"
    arguments = {"activate_hardware": "false", "robot_timeout_s": "3600.0", "bridge_site_file": str(site)}
    run = Run(ROBOT, {"hardware": "robot"} | arguments)
    (waiting,) = (node for node in run.nodes if node.name == "await_hardware")
    assert waiting.parameters["timeout_s"] == 3600.0
    assert run.node("bridge").files == [BRINGUP / "config" / "bridge.yaml", site]
    assert changes(run.process_exits(waiting, 0)) == []


def test_simulated_time_reaches_every_node() -> None:
    for hardware in ("mock", "twin", "topic", "robot"):
        for node in Run(ROBOT, {"hardware": hardware, "use_sim_time": "true"}).nodes:
            if node.executable not in ("spawner", "await_joint_states"):  # these live outside of time
                assert node.parameters["use_sim_time" if node.name != "twin" else "publish_clock"] is True


@pytest.mark.parametrize("hardware", ["mock", "twin", "topic", "robot"])
def test_a_prefix_of_joints_that_no_controller_knows_does_not_reach_the_description(hardware: str) -> None:
    for run in (whole(Run(ROBOT, {"hardware": hardware, "prefix": "x_"})), Run(TWIN, {"prefix": "x_"})):
        assert " prefix:= " in run.node("robot_state_publisher").parameters["robot_description"]


def test_every_node_makes_or_takes_the_time_of_its_namespace() -> None:
    for run in all_runs():
        for node in run.nodes:
            if {"use_sim_time", "publish_clock"} & set(node.parameters):
                assert node.remappings.get("/clock") == "clock", f"{run.file.name}: {node.executable}"


@pytest.mark.parametrize("hardware", ["mock", "twin", "topic", "robot"])
def test_two_robots_have_no_node_topic_clock_frame_or_bag_in_common(hardware: str) -> None:
    def robot(name: str) -> Run:
        own = {"namespace": name, "frame_prefix": f"{name}/"}
        return whole(Run(ROBOT, own | {"hardware": hardware, "use_sim_time": "true", "record": "true"}))

    left, right = robot("left_lab"), robot("right_lab")
    assert names(left) == names(right)
    for run, name in ((left, "left_lab"), (right, "right_lab")):
        assert recorders(run)[0][-1] == f"robot_bag_{name}"
        for node in run.nodes:
            assert node.namespace == name, node.executable
            assert not any(topic.startswith("/") for topic in node.remappings.values()), node.executable
            assert node.parameters.get("frame_prefix", f"{name}/") == f"{name}/", node.executable
    framed = {node.executable for node in left.nodes if "frame_prefix" in node.parameters}
    assert framed == {"robot_state_publisher"} | ({"twin_node"} & set(left.executables()))


def recorders(run: Run) -> list[list[str]]:
    return [process.command for process in run.context.started if isinstance(process, ExecuteProcess)]


@pytest.mark.parametrize(
    ("namespace", "bag"), [("", "robot_bag"), ("/lab", "robot_bag_lab"), ("site/lab", "robot_bag_site_lab")]
)
def test_a_bag_is_named_after_the_robot_unless_a_person_names_it(namespace: str, bag: str) -> None:
    assert recorders(Run(ROBOT, {"record": "true", "namespace": namespace}))[0][-1] == bag


def test_a_bag_is_recorded_on_request() -> None:
    assert recorders(Run(ROBOT)) == []
    (command,) = recorders(Run(ROBOT, {"record": "true", "bag": "run7"}))
    assert command == ["ros2", "bag", "record", "--all", "--storage", "mcap", "--output", "run7"]


def test_the_twins_own_launch_file_describes_a_robot_without_ros2_control() -> None:
    run = Run(TWIN, {"hardware_topics": "true", "frame_prefix": "lab/"})
    assert run.executables() == ["twin_node", "robot_state_publisher"]
    assert run.node("twin_node").parameters["hardware_topics"] is True
    assert "hardware:=twin" in run.node("robot_state_publisher").parameters["robot_description"]
    assert {node.parameters["frame_prefix"] for node in run.nodes} == {"lab/"}


def test_the_demo_starts_twin_policy_and_recorder() -> None:
    run = Run(DEMO)
    assert run.executables() == ["twin_node", "policy_node"]
    assert run.node("policy_node").parameters["autostart"] is True


# The stand-in itself


@pytest.mark.parametrize(
    ("change", "offence"),
    [
        (lambda text: text.replace('"await_controllers"', '"x", typo=1'), TypeError),
        (lambda text: text.replace("import IfCondition", "import NoSuchCondition"), ImportError),
        (lambda text: text.replace('argument["prompt"]', 'LaunchConfiguration("promt")'), AssertionError),
    ],
)
def test_a_mistake_in_a_launch_file_is_found(tmp_path: Path, change: Callable[[str], str], offence: type) -> None:
    wrong = tmp_path / "wrong.launch.py"
    wrong.write_text(change(ROBOT.read_text()))
    assert wrong.read_text() != ROBOT.read_text()
    with pytest.raises(offence):
        Run(wrong)


# A replay


def test_a_replay_lives_in_a_namespace_of_its_own_with_the_bag_as_its_clock() -> None:
    run = Run(REPLAY, {"bag": "/data/bag", "loop": "true", "rate": "0.5"})
    policy, player = run.node("policy_node"), run.node("replay_node")
    assert policy.namespace == player.namespace == "replay"
    assert policy.parameters["use_sim_time"] is True and policy.remappings == {"/clock": "clock"}
    assert policy.parameters["require_controllers"] is False  # nobody is to follow what is commanded
    shown = {name: player.parameters[name] for name in ("bag", "loop", "rate_share", "start_s")}
    assert shown == {"bag": "/data/bag", "loop": True, "rate_share": 0.5, "start_s": 0.0}
    assert run.ends_all(player) and not run.ends_all(policy)
