"""Every fault has one outcome, and in all of them the robot comes to rest within a stated time.

The robot here obeys: it is where the trajectories it received say. What is measured is the end of the commanded motion,
against the bound of docs/explanation/faults.md: the time until the fault is known, 0.1 s, and the stopping time of the
limits themselves from what was being commanded.
"""

import signal
import statistics
from collections.abc import Callable, Iterator

import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import PolicyStatus

from .robot import CAMERAS, CONTRACT, JOINTS, Bench, bench

pytestmark = pytest.mark.stack
LOAD_S, CHUNK_S = 240, 30
PROMPT, OTHER_PROMPT = "touch the red cube with the left hand", "touch the blue block with the right hand"
SILENCE_S = CONTRACT.site.tolerances.silence_s
KNOWN_S = 0.1  # a tick, and the lead of a trajectory's first point
BUSY_S = 0.4  # what a crowded test machine may add to a single measurement
FROZEN_S, PATIENCE_S, MAX_PLAN_S = 0.3, 3.0, 1.5


@pytest.fixture(scope="class")
def node(ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    parameters = {"frozen_camera_s": FROZEN_S, "inference_timeout_s": PATIENCE_S, "max_consecutive_rejections": 1000}
    with bench(tmp_path_factory.mktemp("policy"), **parameters) as own:
        robot = own.robot
        robot.obeys = True
        own.transitions = robot.create_client(ChangeState, "/policy_node/change_state")
        own.parameters = robot.create_client(SetParameters, "/policy_node/set_parameters")
        own.reset = robot.create_client(Trigger, "/policy_node/reset_estop")
        own.goals = ActionClient(robot, RunPolicy, "/policy_node/run_policy")
        own.estop = robot.create_publisher(Bool, "estop", 10)  # the default quality of service
        own.wait(lambda: state(own) == PolicyStatus.IDLE and own.reset.service_is_ready(), LOAD_S, "idle policy")
        yield own
        own.goals.destroy()


def state(own: Bench) -> int | None:
    return own.robot.status.state if own.robot.status else None


def count(own: Bench, label: str) -> int:
    status = own.robot.status
    return dict(zip(status.fault_names, status.fault_counts, strict=True)).get(label, 0)


def answer(own: Bench, future, timeout_s: float = 10.0):
    own.wait(future.done, timeout_s, "answer")
    return future.result()


def change(own: Bench, transition: int) -> bool:
    return answer(
        own, own.transitions.call_async(ChangeState.Request(transition=Transition(id=transition))), LOAD_S
    ).success


def now_ns(own: Bench) -> int:
    return own.robot.get_clock().now().nanoseconds


def in_motion(own: Bench, prompt: str | None = PROMPT) -> None:
    """At the beginning of an executed chunk, of this prompt or of the one that was given last."""
    own.begin_again(prompt)
    own.wait_for_motion(CHUNK_S)


def stops(own: Bench, begin: Callable[[], None], label: str, known_s: float, level: bytes) -> float:
    """Begin a fault in motion. It is told by its name, and the robot rests in time. Gives the time to rest [s]."""
    in_motion(own, None)
    begun_ns, before = now_ns(own), count(own, label)
    stopping_s = own.robot.stopping_s(known_s + KNOWN_S)
    begin()
    own.wait(lambda: label in own.robot.status.faults, known_s + 3, f"status that says {label}")
    own.wait(lambda: not own.robot.moving(), 3, "rest")
    rest_s = (own.robot.rest_ns() - begun_ns) / 1e9
    assert rest_s <= known_s + KNOWN_S + stopping_s + BUSY_S
    assert count(own, label) == before + 1
    assert all(not any(trajectory.points[-1].velocities) for trajectory in own.robot.trajectories)
    own.wait(lambda: label in diagnosed(own), 3, f"diagnostics that say {label}")
    assert own.robot.diagnoses["/policy_node: policy"].level == level
    own.robot.trajectories.clear()
    own.spin(0.3)
    assert own.robot.trajectories == []
    return rest_s


def diagnosed(own: Bench) -> str:
    status = own.robot.diagnoses.get("/policy_node: policy", DiagnosticStatus())
    return {pair.key: pair.value for pair in status.values}.get("faults", "")


def goes_on(own: Bench, label: str) -> None:
    """By itself, with a new chunk."""
    own.wait(lambda: label not in own.robot.status.faults, 5, f"status without {label}")
    chunks = len(own.robot.chunks)
    own.wait(lambda: len(own.robot.chunks) > chunks, CHUNK_S, "chunk")


class TestOneNode:
    """One process of policy_node lives through all of these."""

    def test_a_camera_that_falls_silent_holds_the_robot_until_it_is_back(self, node: Bench) -> None:
        in_motion(node)
        stops(
            node,
            lambda: setattr(node.robot, "cameras", ("head", "hand_right")),
            "camera_stale",
            SILENCE_S,
            DiagnosticStatus.WARN,
        )
        node.robot.cameras = CAMERAS
        goes_on(node, "camera_stale")

    def test_a_camera_that_shows_the_same_bytes_in_motion_holds_the_robot(self, node: Bench) -> None:
        stops(
            node,
            lambda: setattr(node.robot, "frozen", ("head",)),
            "camera_frozen",
            CHUNK_S,  # counted in time of motion
            DiagnosticStatus.WARN,
        )
        node.robot.frozen = ()
        goes_on(node, "camera_frozen")

    def test_frames_that_come_too_late_hold_the_robot(self, node: Bench) -> None:
        stops(node, lambda: node.robot.late_s.update(hand_left=0.8), "camera_stamps", 0.1, DiagnosticStatus.WARN)
        node.robot.late_s.clear()
        goes_on(node, "camera_stamps")

    def test_frames_sent_twice_or_out_of_order_are_left_out_and_counted_and_the_robot_goes_on(
        self, node: Bench
    ) -> None:
        before = node.robot.status
        node.robot.repeats = True
        node.wait(lambda: node.robot.status.chunks >= before.chunks + 2, CHUNK_S, "chunks")
        node.robot.repeats = False
        status = node.robot.status
        assert all(b < a for b, a in zip(before.duplicate_frames, status.duplicate_frames, strict=True))
        assert all(b < a for b, a in zip(before.out_of_order_frames, status.out_of_order_frames, strict=True))
        assert status.faults == []

    @pytest.mark.parametrize("label", ["joint_states_stale", "joint_states_invalid"])
    def test_joint_states_that_are_silent_or_no_numbers_hold_the_robot(self, node: Bench, label: str) -> None:
        def begin() -> None:
            if label == "joint_states_stale":
                node.robot.names = []
            else:
                node.robot.obeys, node.robot.positions = False, [float("nan")] + [0.1] * (len(JOINTS) - 1)

        stops(node, begin, label, SILENCE_S if label == "joint_states_stale" else 0.05, DiagnosticStatus.WARN)
        node.robot.obeys, node.robot.names = True, JOINTS
        goes_on(node, label)

    def test_a_controller_that_is_gone_holds_the_robot_though_a_recorder_listens(self, node: Bench) -> None:
        name = CONTRACT.site.controllers[3].name
        recorder = rclpy.create_node("rosbag2_recorder")
        recorder.create_subscription(JointTrajectory, f"{name}/joint_trajectory", lambda _: None, 10)
        # The one that is gone finishes what it was sent last: nobody can tell it anything.
        stops(node, lambda: node.robot.lose(name), "controller_gone", MAX_PLAN_S, DiagnosticStatus.WARN)
        node.robot.find(name)
        goes_on(node, "controller_gone")
        recorder.destroy_node()

    def test_an_emergency_stop_brakes_at_once_is_latched_and_needs_its_reset(self, node: Bench) -> None:
        beyond_s = []
        for _ in range(3):
            in_motion(node, PROMPT if node.robot.status.prompt == "" else None)
            stopping_s = node.robot.stopping_s(KNOWN_S)
            rest_s = stops(node, lambda: node.estop.publish(Bool(data=True)), "estop", 0.0, DiagnosticStatus.ERROR)
            beyond_s.append(rest_s - KNOWN_S - stopping_s)
            assert state(node) == PolicyStatus.ESTOP and node.robot.status.prompt == ""
            refused = answer(node, node.reset.call_async(Trigger.Request()))
            assert not refused.success and "release it first" in refused.message
            node.estop.publish(Bool(data=False))
            node.robot.prompt(PROMPT)
            handle = answer(node, node.goals.send_goal_async(RunPolicy.Goal(prompt=PROMPT)))
            result = answer(node, handle.get_result_async()).result
            assert result.error_code == RunPolicy.Result.ESTOPPED
            assert state(node) == PolicyStatus.ESTOP and node.robot.trajectories == []
            assert answer(node, node.reset.call_async(Trigger.Request())).success
            node.wait(lambda: state(node) == PolicyStatus.IDLE, 2, "idle policy")
            node.spin(0.5)
            assert node.robot.trajectories == []  # a reset is no command to move
        assert statistics.median(beyond_s) <= 0.0

    def test_another_prompt_in_motion_brakes_what_the_last_one_began(self, node: Bench) -> None:
        in_motion(node)

        def bound_ns() -> int:
            return now_ns(node) + round((KNOWN_S + node.robot.stopping_s(KNOWN_S) + BUSY_S) * 1e9)

        node.wait(lambda: node.robot.rest_ns() > bound_ns() + 0.05e9, CHUNK_S, "plan that is long enough")
        epoch, until_ns = node.robot.status.epoch, bound_ns()
        assert node.robot.rest_ns() > until_ns  # what the last instruction began
        node.robot.prompt(OTHER_PROMPT)
        node.wait(lambda: node.robot.rest_ns() <= until_ns, 2, "brake")
        node.wait(lambda: node.robot.chunks[-1].prompt == OTHER_PROMPT, CHUNK_S, "chunk of the new prompt")
        assert node.robot.chunks[-1].epoch > epoch

    def test_a_slow_model_is_waited_for_at_rest_and_counted(self, node: Bench) -> None:
        in_motion(node, None)
        underruns, chunks = node.robot.status.plan_underruns, node.robot.status.chunks
        node.model().send_signal(signal.SIGSTOP)
        node.wait(lambda: not node.robot.moving(), MAX_PLAN_S + BUSY_S, "rest")
        node.spin(1.0)
        assert not node.robot.moving() and node.robot.status.faults == []
        node.model().send_signal(signal.SIGCONT)
        node.wait(lambda: node.robot.status.chunks > chunks + 1, CHUNK_S, "chunk")
        assert node.robot.status.plan_underruns > underruns

    def test_a_hung_model_is_a_fault_and_can_be_replaced(self, node: Bench) -> None:
        hung = node.model()
        in_motion(node, None)
        hung.send_signal(signal.SIGSTOP)
        node.wait(
            lambda: (state(node), node.robot.status.faults) == (PolicyStatus.FAULT, ["model_silent"]),
            PATIENCE_S + CHUNK_S,
            "fault",
        )
        assert "not answered" in node.robot.status.message
        assert not node.robot.moving()
        required = [Parameter("require_estop", value=True), Parameter("estop_timeout_s", value=1.0)]
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg() for parameter in required])
        assert change(node, Transition.TRANSITION_DEACTIVATE) and change(node, Transition.TRANSITION_CLEANUP)
        assert not hung.is_running()
        assert all(result.successful for result in answer(node, node.parameters.call_async(request)).results)
        assert change(node, Transition.TRANSITION_CONFIGURE) and change(node, Transition.TRANSITION_ACTIVATE)

    def test_a_required_emergency_stop_must_be_heard_and_its_silence_stops(self, node: Bench) -> None:
        # the cameras may not have been heard yet either, just behind activation
        node.wait(lambda: (state(node), node.robot.status.faults) == (PolicyStatus.ESTOP, ["estop_silent"]), 5, "stop")
        alive = node.robot.create_timer(0.1, lambda: node.estop.publish(Bool(data=False)))
        node.wait(lambda: state(node) == PolicyStatus.IDLE, 5, "idle policy")
        in_motion(node)
        stops(node, alive.cancel, "estop_silent", 1.0, DiagnosticStatus.ERROR)
        alive.reset()
        node.spin(0.5)
        assert state(node) == PolicyStatus.ESTOP
        assert answer(node, node.reset.call_async(Trigger.Request())).success
        node.wait(lambda: state(node) == PolicyStatus.IDLE, 5, "idle policy")

    def test_a_killed_node_leaves_a_robot_that_comes_to_rest_and_no_process(self, node: Bench) -> None:
        model = node.model()
        in_motion(node)
        killed_ns = now_ns(node)
        node.process.kill()
        node.spin(MAX_PLAN_S + 0.3)
        assert (node.robot.rest_ns() - killed_ns) / 1e9 <= MAX_PLAN_S + BUSY_S
        assert all(
            trajectory.points[-1].time_from_start.sec + trajectory.points[-1].time_from_start.nanosec / 1e9
            <= MAX_PLAN_S
            for trajectory in node.robot.trajectories
        )
        psutil.wait_procs([model], timeout=10)
        assert not model.is_running()
