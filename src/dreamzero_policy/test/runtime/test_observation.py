"""Blocks hold the nearest stamped frames or do not come to be."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.observation import NS_PER_S, MissingObservation, ObservationBuffer, ObservationError

PERIOD_NS = NS_PER_S // 30
CAMERAS = ("head", "hand_left", "hand_right")
OFFSETS = (-21, -18, -15, -12, -9, -6, -3, 0)
BEGIN_NS = 1_000 * NS_PER_S


def image(value: int) -> np.ndarray:
    return np.full((240, 320, 3), value, np.uint8)


def filled(embodiment: Embodiment, frames: int = 31, left_out: tuple[str, int] | None = None) -> ObservationBuffer:
    """Frames k at BEGIN + k periods with grey value 8 k, joint states at 100 Hz."""
    buffer = ObservationBuffer(embodiment)
    for k in range(frames):
        stamp_ns = BEGIN_NS + k * PERIOD_NS
        for camera in CAMERAS:
            if (camera, k) != left_out:
                buffer.add_image(camera, stamp_ns, stamp_ns + 2_000_000, lambda k=k: image(8 * k))
    for k in range(frames * 10 // 3 + 2):
        add_state(buffer, BEGIN_NS + k * NS_PER_S // 100, 0.001 * k)
    return buffer


def add_state(buffer: ObservationBuffer, stamp_ns: int, value: float) -> None:
    joints = buffer.contract.model.state_joints
    buffer.add_joint_state(stamp_ns, stamp_ns, joints, [value] * len(joints))


def grey(block) -> list[int]:
    return [round(float(frame[:64, :64].mean()) / 8) for frame in block.canvas]


def test_a_block_holds_every_third_frame_up_to_the_observation_instant(embodiment: Embodiment) -> None:
    block = filled(embodiment).block(BEGIN_NS + 24 * PERIOD_NS, OFFSETS)
    assert grey(block) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert block.frame_stamps_ns["head"][-1] == BEGIN_NS + 24 * PERIOD_NS
    assert block.transport_s == pytest.approx(0.002)


def test_the_state_is_the_one_of_the_observation_instant(embodiment: Embodiment) -> None:
    block = filled(embodiment).block(BEGIN_NS + 24 * PERIOD_NS, OFFSETS)
    assert block.state_stamp_ns == BEGIN_NS + 800_000_000
    assert block.positions[0] == pytest.approx(0.080)


@settings(deadline=None)  # a busy machine is no defect
@given(st.integers(-15, 15))
def test_the_nearest_frame_is_taken_for_any_phase_of_the_camera(embodiment: Embodiment, phase_ms: int) -> None:
    instant_ns = BEGIN_NS + 24 * PERIOD_NS + phase_ms * 1_000_000
    block = filled(embodiment).block(instant_ns, OFFSETS)
    for stamps in block.frame_stamps_ns.values():
        assert abs(stamps[-1] - instant_ns) <= PERIOD_NS / 2 + 1


def test_a_missing_frame_is_an_error_that_names_camera_instant_and_gap(embodiment: Embodiment) -> None:
    buffer = filled(embodiment, left_out=("hand_left", 12))
    with pytest.raises(
        MissingObservation, match=r"camera hand_left: no frame at 1000\.400 s, the nearest is -33\.3 ms away"
    ):
        buffer.block(BEGIN_NS + 24 * PERIOD_NS, OFFSETS)
    assert buffer.cameras["hand_left"].dropped == 1
    assert buffer.cameras["head"].dropped == 0


def test_an_instant_is_covered_once_every_source_has_reached_it(embodiment: Embodiment) -> None:
    buffer = filled(embodiment, frames=24)
    instant_ns = BEGIN_NS + 24 * PERIOD_NS
    assert not buffer.covers(instant_ns)
    for camera in CAMERAS:
        assert not buffer.covers(instant_ns)
        buffer.add_image(camera, instant_ns, instant_ns, lambda: image(24))
    assert buffer.covers(instant_ns)


def test_a_duplicate_stamp_is_left_out_and_counted(embodiment: Embodiment) -> None:
    buffer = filled(embodiment)
    stamp_ns = buffer.cameras["head"].items[-1].stamp_ns
    buffer.add_image("head", stamp_ns, stamp_ns, lambda: image(99))
    assert buffer.cameras["head"].duplicates == 1
    assert len(buffer.cameras["head"].items) == 31


def test_a_frame_overtaken_by_a_later_one_is_left_out_and_counted(embodiment: Embodiment) -> None:
    buffer = filled(embodiment)
    stamp_ns = buffer.cameras["head"].items[-1].stamp_ns - PERIOD_NS // 2
    buffer.add_image("head", stamp_ns, stamp_ns, lambda: image(99))
    assert (buffer.cameras["head"].out_of_order, buffer.cameras["head"].duplicates) == (1, 0)
    assert len(buffer.cameras["head"].items) == 31


def test_an_image_of_another_size_is_refused_with_both_sizes(embodiment: Embodiment) -> None:
    buffer = filled(embodiment, frames=1)
    stamp_ns = BEGIN_NS + PERIOD_NS
    for camera in CAMERAS:
        buffer.add_image(camera, stamp_ns, stamp_ns, lambda: np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(ObservationError, match=r"camera head: image is 640 x 480 .* 320 x 240"):
        buffer.block(stamp_ns, (0,))
    assert "640 x 480" in buffer.troubles()[0].text


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_joint_state_that_is_not_finite_names_the_joint(embodiment: Embodiment, value: float, text: str) -> None:
    buffer = ObservationBuffer(embodiment)
    joints = list(buffer.contract.model.state_joints)
    positions = [0.0] * len(joints)
    positions[3] = value
    with pytest.raises(ObservationError, match=f"position of {joints[3]} is {text}"):
        buffer.add_joint_state(BEGIN_NS, BEGIN_NS, joints, positions)
    assert joints[3] in buffer.troubles()[-1].text


def test_an_unknown_joint_set_names_what_is_absent_and_what_is_there(embodiment: Embodiment) -> None:
    buffer = ObservationBuffer(embodiment)
    with pytest.raises(
        ObservationError, match=r"joint idx21_arm_l_joint1 is absent \(20 of 20 are\); the message names robot2_a"
    ):
        buffer.add_joint_state(BEGIN_NS, BEGIN_NS, ["robot2_a"], [0.0])


def test_joints_the_contract_does_not_know_are_no_obstacle(embodiment: Embodiment) -> None:
    buffer = ObservationBuffer(embodiment)
    joints = [*buffer.contract.model.state_joints, "wheel"]
    buffer.add_joint_state(BEGIN_NS, BEGIN_NS, joints, [float("nan") if joint == "wheel" else 0.0 for joint in joints])
    assert buffer.joints.items[-1].positions["wheel"] != 0.0


def test_what_never_came_is_named_with_its_topic(embodiment: Embodiment) -> None:
    lines = [trouble.text for trouble in ObservationBuffer(embodiment).troubles()]
    assert "camera hand_left: no message yet on hand_left/color/image_raw" in lines
    assert "joint states: no message yet on joint_states" in lines


def test_stamps_of_another_clock_are_named(embodiment: Embodiment) -> None:
    buffer = ObservationBuffer(embodiment)
    buffer.add_image("head", BEGIN_NS, BEGIN_NS + 3 * NS_PER_S, lambda: image(0))
    assert "camera head: stamps are 3.0 s behind this node's clock" in buffer.troubles()[0].text


def test_an_older_good_frame_does_not_make_up_for_a_damaged_one(embodiment: Embodiment) -> None:
    def damaged() -> np.ndarray:
        raise ObservationError("camera head: cut off")

    def invalid() -> bool:
        return any(trouble.fault is Fault.CAMERA_INVALID for trouble in buffer.troubles())

    buffer, period_ns = ObservationBuffer(embodiment), NS_PER_S // 30
    for camera in CAMERAS:
        for k in range(5):
            damages = camera == "head" and k == 3
            decode = damaged if damages else lambda: image(7)
            buffer.add_image(camera, BEGIN_NS + k * period_ns, BEGIN_NS + k * period_ns, decode)
    with pytest.raises(ObservationError, match="cut off"):
        buffer.prefetch([BEGIN_NS + 3 * period_ns])
    assert invalid()
    buffer.prefetch([BEGIN_NS + 2 * period_ns])  # good, not decoded before, and of before the damage
    assert invalid()
    buffer.prefetch([BEGIN_NS + 4 * period_ns])
    assert not invalid()


def test_a_camera_whose_bytes_stay_the_same_over_a_second_of_motion_is_frozen(embodiment: Embodiment) -> None:
    buffer = ObservationBuffer(embodiment, frozen_camera_s=1.0)
    film(buffer, "head", frames=40, content=lambda k: 7, moving=lambda k: True)
    film(buffer, "hand_left", frames=40, content=lambda k: k, moving=lambda k: True)
    film(buffer, "hand_right", frames=40, content=lambda k: 7, moving=lambda k: k > 20)
    frozen = [trouble for trouble in buffer.troubles() if trouble.fault is Fault.CAMERA_FROZEN]
    assert [trouble.source for trouble in frozen] == ["camera head"]
    film(buffer, "head", frames=1, begin=40, content=lambda k: 8, moving=lambda k: True)
    assert all(trouble.fault is not Fault.CAMERA_FROZEN for trouble in buffer.troubles())


def test_a_frozen_camera_is_believed_again_on_request_and_not_looked_for_if_that_is_off(embodiment: Embodiment) -> None:
    watching, careless = ObservationBuffer(embodiment, frozen_camera_s=1.0), ObservationBuffer(embodiment)
    for buffer in (watching, careless):
        for camera in CAMERAS:
            film(buffer, camera, frames=40, content=lambda k: 7, moving=lambda k: True)
    assert [trouble.source for trouble in careless.troubles()] == ["joint states"]
    assert len(watching.troubles()) == 4
    watching.believe_cameras()
    assert [trouble.source for trouble in watching.troubles()] == ["joint states"]


def film(
    buffer: ObservationBuffer,
    camera: str,
    frames: int,
    content: Callable[[int], int],
    moving: Callable[[int], bool],
    begin: int = 0,
) -> None:
    for k in range(begin, begin + frames):
        stamp_ns = BEGIN_NS + k * PERIOD_NS
        buffer.add_image(
            camera, stamp_ns, stamp_ns, lambda: image(0), np.array([1, 2, content(k)], np.uint8), moving(k)
        )


def test_a_restarted_source_is_heard_again(embodiment: Embodiment) -> None:
    buffer = filled(embodiment)
    buffer.add_image("head", BEGIN_NS - 10 * NS_PER_S, BEGIN_NS, lambda: image(1))
    assert [frame.stamp_ns for frame in buffer.cameras["head"].items] == [BEGIN_NS - 10 * NS_PER_S]
