"""Messages carry what the runtime means, in the form every controller moves alike on."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, JointState
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk
from dreamzero_policy.ros.messages import chunk_message, decoder, image_message, to_ns, to_stamp, trajectory_messages
from dreamzero_policy.ros.recorder import recording_types, trimmed
from dreamzero_policy.ros.trajectory_cdr import trajectory_bytes
from dreamzero_policy.runtime.chunk import Chunk, Verdict
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.latency import STAGES
from dreamzero_policy.runtime.observation import Block, ObservationError
from dreamzero_policy.runtime.plan import Plan
from dreamzero_policy.runtime.policy import Reply

NOW_NS = 1_234_567_890_123_456_789
TYPES = recording_types()


def test_stamps_survive_the_way_to_a_message_and_back() -> None:
    assert to_ns(to_stamp(NOW_NS)) == NOW_NS


def test_a_trajectory_starts_in_the_future_with_stamp_zero_and_ends_at_rest() -> None:
    knots_ns = NOW_NS + np.array([50, 83, 116]) * 1_000_000
    plan = Plan(knots_ns, np.arange(6.0).reshape(3, 2), np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    (message,) = trajectory_messages(plan, ("a", "b"), [Controller(name="c", joints=("b",))], NOW_NS)
    assert to_ns(message.header.stamp) == 0
    assert list(message.joint_names) == ["b"]
    assert [point.time_from_start.nanosec for point in message.points] == [50_000_000, 83_000_000, 116_000_000]
    assert [point.positions[0] for point in message.points] == [1.0, 3.0, 5.0]
    assert [point.velocities[0] for point in message.points] == [1.0, 1.0, 0.0]


@given(
    names=st.lists(st.text("abcdefgh_123", min_size=1, max_size=30), min_size=1, max_size=14, unique=True),
    points=st.integers(1, 45),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_the_bytes_of_a_trajectory_hold_what_its_message_holds(names: list[str], points: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    knots_ns = NOW_NS + np.cumsum(rng.integers(1_000_000, 2_000_000_000, points))
    plan = Plan(knots_ns, rng.normal(size=(points, len(names))), rng.normal(size=(points, len(names))))
    half = Controller(name="half", joints=tuple(names[::2]))
    controllers = [Controller(name="all", joints=tuple(names)), half]
    plain = trajectory_messages(plan, names, controllers, NOW_NS)
    for data, message in zip(trajectory_bytes(plan, names, controllers, NOW_NS), plain, strict=True):
        assert deserialize_message(data, JointTrajectory) == message
        # rclpy leaves arbitrary values in gaps and behind the end, so of its bytes only the number can be compared
        assert len(data) == len(trimmed(serialize_message(message), "trajectory_msgs/msg/JointTrajectory", TYPES))


def test_a_jpeg_is_decoded_to_rgb() -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    jpeg = cv2.imencode(".jpg", red[..., ::-1])[1].tobytes()
    image = decoder("head", CompressedImage(format="jpeg", data=jpeg))()
    assert image.shape == (48, 64, 3)
    np.testing.assert_allclose(image[20, 20], [220, 0, 0], atol=3)


def test_a_raw_image_in_either_colour_order_is_decoded_to_rgb() -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    np.testing.assert_array_equal(decoder("head", image_message(red, NOW_NS, "f"))(), red)
    swapped = image_message(np.ascontiguousarray(red[..., ::-1]), NOW_NS, "f")
    swapped.encoding = "bgr8"
    np.testing.assert_array_equal(decoder("head", swapped)(), red)


def test_damaged_or_foreign_images_name_the_camera() -> None:
    with pytest.raises(ObservationError, match="camera head: compressed image of format 'jpeg'"):
        decoder("head", CompressedImage(format="jpeg", data=b"not a jpeg"))()
    depth = image_message(np.zeros((4, 4, 3), np.uint8), NOW_NS, "f")
    depth.encoding = "16UC1"
    with pytest.raises(ObservationError, match="camera head: encoding is '16UC1', expected one of rgb8, bgr8"):
        decoder("head", depth)()


def test_verdicts_have_the_numbers_of_the_message() -> None:
    for verdict in Verdict:
        assert getattr(ActionChunk, verdict.name) == int(verdict)


def test_recorded_messages_have_no_spare_bytes() -> None:
    """Jazzy leaves some behind an empty array at the end; a standard reader refuses them."""
    message = JointState(name=["a"], position=[0.5])
    data = trimmed(serialize_message(message), "sensor_msgs/msg/JointState", TYPES)
    read = TYPES.deserialize_cdr(data, "sensor_msgs/msg/JointState")
    assert read.name == ["a"] and read.position.tolist() == [0.5] and read.effort.size == 0


def overlapping_chunk() -> Chunk:
    block = Block(
        observation_ns=NOW_NS,
        canvas=np.zeros((8, 4, 4, 3), np.uint8),
        state=np.array([0.1, 0.2]),
        positions=np.array([0.1, 0.2]),
        frame_stamps_ns={"head": tuple(range(8))},
        state_stamp_ns=NOW_NS,
        transport_s=0.004,
        complete_monotonic_ns=0,
    )
    timings_s = {"encode": 0.01, "observe": 0.02, "imagine": 0.005, "denoise": 0.05, "model": 0.1}
    rows = np.arange(48.0).reshape(24, 2)
    chunk = Chunk(
        session="s",
        epoch=2,
        index=3,
        prompt="go",
        block=block,
        reply=Reply(2, np.zeros((24, 2), np.float32), 2, 2, 7, 1.0, timings_s),
        positions=rows,
        step_s=0.04,
        asked_ns=NOW_NS + 20_000_000,
        answered_ns=NOW_NS + 130_000_000,
        regime="slowed",
        stream=1,
        look_ahead=True,
        anchor=np.array([0.3, 0.4]),
        full_steps=4,
        deadline_s=0.25,
        first_row=5,
    )
    chunk.start_ns, chunk.observation_to_command_s = NOW_NS + 400_000_000, 0.18
    return chunk


def test_a_chunk_says_how_it_shares_time_and_where_its_latency_went() -> None:
    message = chunk_message(overlapping_chunk(), ("a", "b"), "contract", "checkpoint")
    assert (message.regime, message.stream, message.look_ahead) == ("slowed", 1, True)
    assert (message.denoise_steps, message.full_denoise_steps, message.deadline_s) == (2, 4, 0.25)
    assert (message.first_row, to_ns(message.start)) == (5, NOW_NS + 400_000_000)
    assert (list(message.state), list(message.anchor)) == ([0.1, 0.2], [0.3, 0.4])
    stages = [message.request_s, message.handover_s, message.model_s, message.command_s]
    assert stages == pytest.approx([0.02, 0.01, 0.1, 0.05])
    assert (message.imagine_s, message.observation_to_row_s) == (0.005, 0.4)
    assert message.observation_to_command_s == pytest.approx(sum(stages))


def test_every_stage_of_the_protocol_is_a_field_of_the_chunk() -> None:
    fields = ActionChunk.get_fields_and_field_types()
    assert [stage for stage in STAGES if fields.get(f"{stage}_s") != "double"] == []
