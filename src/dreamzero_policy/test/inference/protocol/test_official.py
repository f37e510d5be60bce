"""The released server's protocol from the robot's side: names follow from the contract, its traps are errors."""

from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.inference.protocol import official
from dreamzero_policy.inference.protocol.arrays import ProtocolError, pack, unpack
from dreamzero_policy.runtime.contract import load_model_section

CONFIG = Path(__file__).parents[5] / "config"
DROID = official.Names.of(load_model_section(CONFIG / "droid_franka.yaml"))
G1 = official.Names.of(load_model_section(CONFIG / "agibot_g1.yaml"))


def test_an_arm_with_a_gripper_and_three_cameras_has_roboarenas_names() -> None:
    assert list(DROID.cameras.values()) == [
        "observation/exterior_image_0_left",
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
    ]
    assert [entry for entry, _ in DROID.state.values()] == [
        "observation/joint_position",
        "observation/gripper_position",
    ]
    assert DROID.action_shape == (24, 8)


def test_another_robot_has_the_names_of_its_contract_and_needs_none_of_roboarenas_cameras() -> None:
    assert G1.cameras["head"] == "observation/head"
    assert G1.state["waist_position"] == ("observation/waist_position", 2)
    assert G1.action_shape == (24, 22)
    assert (G1.config.needs_wrist_camera, G1.config.n_external_cameras) == (False, 0)
    with pytest.raises(ProtocolError, match=r"needs_wrist_camera = True, this contract gives False"):
        G1.require(DROID.config)
    DROID.require(DROID.config)


@pytest.mark.parametrize("names", [DROID, G1])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_request_arrives_as_it_was_sent(names: official.Names, frames: int) -> None:
    random = np.random.default_rng(0)
    images = {camera: random.integers(0, 256, (frames, 18, 32, 3), np.uint8) for camera in names.cameras}
    state = random.normal(size=sum(width for _, width in names.state.values()))
    sent = official.Infer(images, state, "wave", "a")
    received = official.decode_request(names, official.encode_infer(names, sent))
    assert (received.prompt, received.session_id) == ("wave", "a")
    np.testing.assert_array_equal(received.state, state)
    for camera in images:
        np.testing.assert_array_equal(received.images[camera], images[camera])


@pytest.mark.parametrize("form", [lambda a: a, lambda a: {"actions": a}, lambda a: a.astype(np.float64)])
def test_actions_come_as_a_bare_array_or_in_a_map(form) -> None:
    actions = np.random.default_rng(1).normal(size=(24, 8)).astype(np.float32)
    received = official.decode_actions(DROID, pack(form(actions)))
    assert received.dtype == np.float32
    np.testing.assert_array_equal(received, actions)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.zeros((1, 8), np.float32), r"\[1, 8\], expected \[24, 8\]: zeros, it found no joint action"),
        (np.ones((24, 7), np.float32), r"\[24, 7\], expected \[24, 8\]"),
        (np.full((24, 8), np.nan, np.float32), "192 of 192 actions are not finite"),
        (np.zeros((24, 8), np.int64), "int64, expected an array of float32"),
        ({"server_timing": 1}, "NoneType, expected an array"),
        (None, "NoneType, expected an array"),
    ],
)
def test_an_answer_that_is_no_chunk_is_refused(answer: object, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        official.decode_actions(DROID, pack(answer))


@pytest.mark.parametrize("answer", ["Traceback: …", pack({"type": "error", "message": "Traceback: …"})])
def test_a_text_or_a_map_that_says_so_is_the_servers_error(answer: bytes | str) -> None:
    for decode in (official.is_reset, official.ServerConfig.unpack, lambda data: official.decode_actions(DROID, data)):
        with pytest.raises(official.RemoteError, match="Traceback"):
            decode(answer)


@pytest.mark.parametrize("answer", [official.RESET_ANSWER, pack({"status": official.RESET_ANSWER})])
def test_a_reset_is_answered_by_a_text_or_by_a_map(answer: bytes | str) -> None:
    assert official.is_reset(answer)
    assert not official.is_reset(pack({"status": "idle"}))


@pytest.mark.parametrize(
    "change",
    [
        {"image_resolution": [180]},
        {"needs_wrist_camera": 1},
        {"n_external_cameras": 3},
        {"action_space": None},
    ],
)
def test_a_configuration_of_another_form_is_refused(change: dict) -> None:
    with pytest.raises(ProtocolError):
        official.ServerConfig.unpack(pack(unpack(DROID.config.pack()) | change))


@pytest.mark.parametrize("entry", sorted(official.CONFIG_ENTRIES))
def test_a_configuration_without_one_of_its_entries_is_refused_by_name(entry: str) -> None:
    document = {"model": "another", **unpack(DROID.config.pack())}
    del document[entry]
    with pytest.raises(ProtocolError, match=f"expected .*{entry}"):
        official.ServerConfig.unpack(pack(document))


def test_what_a_configuration_says_besides_is_kept_and_never_sent() -> None:
    further = {"action_horizon": 24, "supports": ["seed"]}
    config = official.ServerConfig.unpack(pack({**unpack(DROID.config.pack()), **further}))
    assert config.further == further
    assert config.pack() == DROID.config.pack()


def test_a_configuration_without_a_size_is_taken() -> None:
    assert official.ServerConfig.unpack(G1.config.pack()).image_resolution is None
