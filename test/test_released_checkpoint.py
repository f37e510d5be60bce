"""A checkpoint in the released layout drives policy_node as it is: its files, its tokenizer, its statistics."""

import json
from pathlib import Path

import pytest
import yaml

from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.runtime.release import release_contract
from dreamzero_policy.runtime.trained import CONF_FILE, METADATA_FILE

from .robot import CONTRACT, bench

pytestmark = pytest.mark.stack
RELEASE = Path(__file__).parents[1] / "src/dreamzero_policy/test/model/golden/release_layout"
LOAD_S, CHUNK_S = 90, 30


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """The G1's contract with what this release was trained with: its view size, its prompt, its canvas."""
    released = release_contract(
        yaml.safe_load((RELEASE / "checkpoint" / CONF_FILE).read_text()),
        json.loads((RELEASE / "checkpoint" / METADATA_FILE).read_text()),
        "agibot",
    ).model_dump(mode="json")
    document = CONTRACT.model_dump(mode="json")
    for field in ("view", "chunk", "prompt", "action_hz", "normaliser"):
        document["model"][field] = released[field]
    names = dict(zip(released["cameras"], CONTRACT.model.cameras, strict=True))
    tiles = [tile | {"camera": names[tile["camera"]]} for tile in released["canvas"]["tiles"]]
    document["model"]["canvas"] = released["canvas"] | {"tiles": tiles}
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "contract.yaml"


def test_a_released_checkpoint_is_loaded_matched_to_its_embodiment_and_asked_for_chunks(
    ros, contract: Path, tmp_path: Path
) -> None:
    with bench(
        tmp_path,
        contract=contract,
        checkpoint=RELEASE / "checkpoint",
        tokenizer=RELEASE / "tokenizer",
        denoise_steps=16,
        dtype="float32",
    ) as own:
        own.wait(lambda: own.robot.status and own.robot.status.state == PolicyStatus.IDLE, LOAD_S, "idle policy")
        own.robot.prompt("Touch the red cube.")
        own.wait(lambda: len(own.robot.chunks) >= 2, CHUNK_S, "second chunk")
        first, second = own.robot.chunks[:2]
        assert (first.denoise_steps, first.denoise_evaluations, first.guidance_scale) == (16, 8, 5.0)
        assert second.chunk_index == first.chunk_index + 1
        assert list(first.joint_names) == list(CONTRACT.model.commanded_joints)
        # Random weights want anything: what matters is that every chunk was judged, and that none went out unjudged.
        assert all(len(chunk.positions) == 24 * len(chunk.joint_names) for chunk in (first, second))
        if all(chunk.verdict != ActionChunk.ACCEPTED for chunk in own.robot.chunks):
            assert own.robot.trajectories == []


def test_without_its_tokenizer_it_is_refused_by_name(ros, contract: Path, tmp_path: Path) -> None:
    with bench(tmp_path, contract=contract, checkpoint=RELEASE / "checkpoint") as own:
        own.wait(lambda: own.robot.status and own.robot.status.state == PolicyStatus.FAULT, LOAD_S, "fault")
        assert "tokenizer" in own.robot.status.message


def test_a_contract_that_it_was_not_trained_for_is_refused_with_the_difference(ros, tmp_path: Path) -> None:
    with bench(tmp_path, checkpoint=RELEASE / "checkpoint", tokenizer=RELEASE / "tokenizer") as own:
        own.wait(lambda: own.robot.status and own.robot.status.state == PolicyStatus.FAULT, LOAD_S, "fault")
        assert "view.width_px: 64 |" in own.robot.status.message
