"""Goals, stops and transitions of a real policy_node process; whatever happens, what was sent ends at rest."""

from collections.abc import Iterator

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.duration import Duration
from std_srvs.srv import Trigger

from dreamzero_msgs.action import RunPolicy
from dreamzero_msgs.msg import PolicyStatus

from .robot import Bench, bench

pytestmark = pytest.mark.stack
LOAD_S = 180
PROMPT = "touch the red cube with the left hand"


@pytest.fixture(scope="class")
def node(ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("policy")) as own:
        own.client = ActionClient(own.robot, RunPolicy, "/policy_node/run_policy")
        own.transitions = own.robot.create_client(ChangeState, "/policy_node/change_state")
        own.wait(lambda: status(own) == PolicyStatus.IDLE and own.client.server_is_ready(), LOAD_S, "idle policy")
        yield own
        own.client.destroy()


def status(own: Bench) -> int | None:
    return own.robot.status.state if own.robot.status else None


def answer(own: Bench, future, timeout_s: float = 10.0):
    own.wait(future.done, timeout_s, "answer")
    return future.result()


def send(own: Bench, seconds: float, prompt: str = PROMPT):
    goal = RunPolicy.Goal(prompt=prompt, max_duration=Duration(seconds=seconds).to_msg())
    return answer(own, own.client.send_goal_async(goal))


def outcome(own: Bench, handle) -> RunPolicy.Result:
    return answer(own, handle.get_result_async(), 20.0).result


def change(own: Bench, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return answer(own, own.transitions.call_async(request), LOAD_S).success


def at_rest(own: Bench) -> None:
    """Everything that was sent ends at rest, and nothing more comes."""
    own.wait(lambda: status(own) == PolicyStatus.IDLE and own.robot.status.buffered_s == 0.0, 5, "rest")
    assert all(not any(trajectory.points[-1].velocities) for trajectory in own.robot.trajectories)
    own.robot.trajectories.clear()
    own.spin(0.5)
    assert own.robot.trajectories == []


class TestOneNode:
    def test_a_goal_ends_by_its_duration(self, node: Bench) -> None:
        result = outcome(node, send(node, 2.5))
        assert result.error_code == RunPolicy.Result.DURATION_REACHED
        assert 2.4 <= result.duration.sec + result.duration.nanosec * 1e-9 <= 4.0
        at_rest(node)

    def test_an_empty_prompt_is_aborted_with_its_number(self, node: Bench) -> None:
        assert outcome(node, send(node, 1.0, prompt=" ")).error_code == RunPolicy.Result.EMPTY_PROMPT

    def test_a_cancelled_goal_comes_to_rest(self, node: Bench) -> None:
        handle = send(node, 30.0)
        node.spin(2.0)
        handle.cancel_goal_async()
        assert outcome(node, handle).error_code == RunPolicy.Result.CANCELLED
        at_rest(node)

    def test_stop_ends_the_goal(self, node: Bench) -> None:
        handle = send(node, 30.0)
        node.spin(1.5)
        assert answer(node, node.stop.call_async(Trigger.Request())).success
        assert outcome(node, handle).error_code == RunPolicy.Result.STOPPED
        at_rest(node)

    def test_another_goal_takes_over(self, node: Bench) -> None:
        first = send(node, 30.0)
        node.spin(1.0)
        second = send(node, 1.5, prompt="touch the blue block with the right hand")
        assert outcome(node, first).error_code == RunPolicy.Result.STOPPED
        assert outcome(node, second).error_code == RunPolicy.Result.DURATION_REACHED
        at_rest(node)

    def test_deactivation_ends_the_goal_at_rest_and_activation_goes_on(self, node: Bench) -> None:
        handle = send(node, 30.0)
        node.spin(1.5)
        assert change(node, Transition.TRANSITION_DEACTIVATE)
        assert outcome(node, handle).error_code == RunPolicy.Result.DEACTIVATED
        at_rest(node)
        assert outcome(node, send(node, 1.0)).error_code == RunPolicy.Result.NOT_ACTIVE
        assert change(node, Transition.TRANSITION_ACTIVATE)
        assert outcome(node, send(node, 1.0)).error_code == RunPolicy.Result.DURATION_REACHED

    def test_it_can_be_cleaned_up_and_configured_again(self, node: Bench) -> None:
        assert change(node, Transition.TRANSITION_DEACTIVATE)
        assert change(node, Transition.TRANSITION_CLEANUP)
        node.wait(lambda: status(node) == PolicyStatus.UNCONFIGURED, 5, "unconfigured")
        assert change(node, Transition.TRANSITION_CONFIGURE)
        assert change(node, Transition.TRANSITION_ACTIVATE)
        node.wait(node.client.server_is_ready, 5, "action server")
        assert outcome(node, send(node, 1.5)).error_code == RunPolicy.Result.DURATION_REACHED

    def test_a_killed_model_is_a_fault_that_names_the_exit_code(self, node: Bench) -> None:
        handle = send(node, 30.0)
        node.spin(1.5)
        node.kill_model()
        result = outcome(node, handle)
        assert result.error_code == RunPolicy.Result.MODEL_FAILED and "exit code -9" in result.error_message
        node.wait(lambda: status(node) == PolicyStatus.FAULT, 2, "fault")
        node.robot.trajectories.clear()
        node.spin(1.0)
        assert node.robot.trajectories == [] and node.process.poll() is None
