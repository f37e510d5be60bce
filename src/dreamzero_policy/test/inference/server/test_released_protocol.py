"""The released server's clients find here what they find there: bytes, shapes, frames gathered, sessions begun anew.

The client is written for this test from the facts of that protocol, and shares no code with the server.
"""

import numpy as np
import pytest

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.embodiment import Transforms

from .robots import released_client

SIZE = (180, 320, 3)
CAMERAS = {
    "exterior_1": "observation/exterior_image_0_left",
    "exterior_2": "observation/exterior_image_1_left",
    "wrist": "observation/wrist_image_left",
}
FILMS = {camera: np.random.default_rng(i).integers(0, 256, (60, *SIZE), np.uint8) for i, camera in enumerate(CAMERAS)}
JOINTS, GRIPPER = np.linspace(-0.5, 0.5, 7), np.array([0.25])


def observation(steps: list[int], session_id: str = "a", prompt: str = "move the pan") -> dict:
    """What a client sends at these frames of the film: one goes without T."""
    frames = {
        entry: FILMS[camera][steps] if len(steps) > 1 else FILMS[camera][steps[0]] for camera, entry in CAMERAS.items()
    }
    return frames | {
        "observation/joint_position": JOINTS.astype(np.float32),
        "observation/cartesian_position": np.zeros(6, np.float32),
        "observation/gripper_position": GRIPPER.astype(np.float32),
        "prompt": prompt,
        "session_id": session_id,
    }


class Reference:
    """What the released server does, on this project's session."""

    def __init__(self, policy: Policy, transforms: Transforms, prompt: str = "move the pan") -> None:
        self.transforms = transforms
        self.session = Session(policy, transforms.prompt(prompt), vae_mode="release")

    def infer(self, steps: list[int], joints: np.ndarray = JOINTS, gripper: np.ndarray = GRIPPER) -> np.ndarray:
        """`steps`: the frames that the server should use."""
        views = {
            camera: np.stack([self.transforms.view(camera, film[step]) for step in steps])
            for camera, film in FILMS.items()
        }
        self.session.observe(self.transforms.canvas(views))
        state = np.concatenate([joints.astype(np.float32), gripper.astype(np.float32)]).astype(np.float64)
        rows = self.session.predict(self.transforms.normalised_state(state)).actions
        return self.transforms.actions(rows, state).astype(np.float32)


@pytest.fixture
def reference(arm_policy: Policy, arm_transforms: Transforms) -> Reference:
    return Reference(arm_policy, arm_transforms)


def test_a_client_is_told_the_six_entries_it_expects(server) -> None:
    with released_client(server.address) as client:
        assert client.configuration == {
            "image_resolution": [180, 320],
            "needs_wrist_camera": True,
            "n_external_cameras": 2,
            "needs_stereo_camera": False,
            "needs_session_id": True,
            "action_space": "joint_position",
        }


def test_the_schedule_of_the_released_test_client_gives_bare_arrays_of_the_same_model(server, reference) -> None:
    with released_client(server.address) as client:
        for steps in ([0], [0, 7, 15, 23], [24, 31, 39, 47], [48, 55, 58, 59]):
            actions = client.infer(observation(steps))
            assert (type(actions), actions.shape, actions.dtype) == (np.ndarray, (24, 8), np.float32)
            np.testing.assert_array_equal(actions, reference.infer(steps))


def test_single_frames_are_gathered_to_the_last_four(server, reference) -> None:
    with released_client(server.address) as client:
        used = ([0], [0, 0, 0, 8], [0, 0, 8, 16], [0, 8, 16, 24], [8, 16, 24, 32])  # the first is repeated in front
        for step, expected in zip((0, 8, 16, 24, 32), used, strict=True):
            np.testing.assert_array_equal(client.infer(observation([step])), reference.infer(expected))


@pytest.mark.parametrize("begins_anew", ["reset", "session_id", "connection"])
def test_memory_begins_anew(server, arm_policy: Policy, arm_transforms: Transforms, begins_anew: str) -> None:
    with released_client(server.address) as first, released_client(server.address) as second:
        first.infer(observation([0]))
        first.infer(observation([0, 7, 15, 23]))
        if begins_anew == "reset":
            assert first.reset() == "reset successful"
        client = second if begins_anew == "connection" else first
        session_id = "b" if begins_anew == "session_id" else "a"
        anew = Reference(arm_policy, arm_transforms)
        for steps, used in (([24, 31, 39, 47], [47]), ([48, 50, 52, 54], [48, 50, 52, 54])):
            np.testing.assert_array_equal(client.infer(observation(steps, session_id)), anew.infer(used))


def test_another_prompt_begins_anew_with_the_newest_frame(
    server, arm_policy: Policy, arm_transforms: Transforms
) -> None:
    with released_client(server.address) as client:
        client.infer(observation([0]))
        pushed = client.infer(observation([0, 7, 15, 23], prompt="Push the pan"))
        np.testing.assert_array_equal(pushed, Reference(arm_policy, arm_transforms, "Push the pan").infer([23]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"observation/joint_position": None}, "observation/joint_position is absent"),
        ({"observation/joint_position": np.zeros(6)}, "expected 7 finite numbers"),
        ({"observation/gripper_position": np.array([np.nan])}, "expected 1 finite numbers"),
        ({"observation/wrist_image_left": None}, "observation/wrist_image_left is absent"),
        ({"observation/wrist_image_left": np.zeros(SIZE, np.float32)}, "expected uint8"),
        ({"observation/wrist_image_left": np.zeros((2, *SIZE), np.uint8)}, "different numbers of frames"),
        ({"prompt": None}, "prompt is"),
    ],
)
def test_what_is_missing_is_a_text_and_the_end_of_the_connection_never_zeros(server, change: dict, reason: str) -> None:
    with released_client(server.address) as client:
        asked = {entry: value for entry, value in (observation([0]) | change).items() if value is not None}
        with pytest.raises(RuntimeError, match=reason):
            client.infer(asked)
        with pytest.raises(Exception, match="1011"):
            client.connection.recv(timeout=60)
