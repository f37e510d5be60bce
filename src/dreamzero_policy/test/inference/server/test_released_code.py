"""The code of DreamZero's released server and test client themselves, against this runtime's robot and server.

Needs a checkout of dreamzero0/dreamzero (tried with ab790c1), named by the environment variable `DREAMZERO_SOURCE`,
and the package openpi-client; left out otherwise. Of the server all runs but its model and the sending to other ranks,
which need its own packages and GPUs.
"""

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as distributed

from dreamzero_policy.cli.demo import free_port
from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.roboarena import RoboArenaDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Transforms
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Failure, Interruption, Reply, Resumption

from ..remote.conftest import PATIENCE_S, STATE, block, next_answer
from .conftest import DROID
from .test_released_protocol import CAMERAS, FILMS, Reference

SOURCE = Path(os.environ.get("DREAMZERO_SOURCE", "/nowhere"))
pytestmark = [
    pytest.mark.skipif(not SOURCE.is_dir(), reason="DREAMZERO_SOURCE names no checkout of the released code"),
    pytest.mark.timeout(600),
]
# What the server's file imports and does not need without its model.
ABSENT = {
    "tyro": (),
    "imageio": (),
    "einops": ("rearrange",),
    "tianshou.data": ("Batch",),
    "groot.vla.model.n1_5.sim_policy": ("GrootSimPolicy",),
    "groot.vla.data.schema": ("EmbodimentTag",),
}
PROMPT = "move the pan"


@pytest.fixture(scope="module")
def released() -> Iterator[SimpleNamespace]:
    """Its modules: `server` (the websocket), `client`, `policy` (gathers frames) and `schedule` (the test client)."""
    pytest.importorskip("openpi_client")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SOURCE))
        for name, members in ABSENT.items():
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
            for member in members:
                setattr(sys.modules[name], member, SimpleNamespace)
        names = {
            "server": "eval_utils.policy_server",
            "client": "eval_utils.policy_client",
            "policy": "socket_test_optimized_AR",
            "schedule": "test_client_AR",
        }
        yield SimpleNamespace(**{ours: importlib.import_module(theirs) for ours, theirs in names.items()})


class Model:
    """In place of the 14B: every row is the state that it was given, plus a step that grows."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.fails = ""
        self.key = "action.joint_position"

    def lazy_joint_forward_causal(self, batch: SimpleNamespace) -> tuple[SimpleNamespace, torch.Tensor]:
        self.seen.append(batch.obs)
        if self.fails:
            raise RuntimeError(self.fails)
        rows = np.linspace(0.001, 0.024, 24)[:, None]
        joints, gripper = batch.obs["state.joint_position"] + rows, batch.obs["state.gripper_position"] + 0 * rows
        return SimpleNamespace(act=SimpleNamespace(**{self.key: joints, "action.gripper_position": gripper})), None


@pytest.fixture
def gatherer(released: SimpleNamespace) -> Iterator[Any]:
    """The released server's policy around such a model."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    class OneRank(released.policy.ARDroidRoboarenaPolicy):
        def _broadcast_batch_to_workers(self, obs: dict) -> None:
            """There are none."""

    yield OneRank(Model(), distributed.group.WORLD)
    distributed.destroy_process_group()


@pytest.fixture
def address(released: SimpleNamespace, gatherer: Any) -> Iterator[str]:
    """Where the released server listens, as its `main` starts it."""
    config = released.server.PolicyServerConfig(
        image_resolution=(180, 320),
        needs_wrist_camera=True,
        n_external_cameras=2,
        needs_stereo_camera=False,
        needs_session_id=True,
        action_space="joint_position",
    )
    port = free_port()
    server = released.server.WebsocketPolicyServer(gatherer, config, host="127.0.0.1", port=port)
    loop = asyncio.new_event_loop()
    task = loop.create_task(server.run())

    def main() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    yield f"ws://127.0.0.1:{port}"
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)


@pytest.fixture
def robot(address: str) -> Iterator[RemotePolicy]:
    contract: Contract = load_contract(DROID)
    settings = RemoteSettings(address, "official", longest_pause_s=0.5)
    policy = RemotePolicy(settings, lambda server: RoboArenaDialogue(server, contract))
    policy.wait_until_ready(PATIENCE_S)
    yield policy
    policy.close()


def follow(policy: RemotePolicy, epoch: int, blocks: int) -> list[Any]:
    policy.reset(PROMPT, epoch)
    answers = []
    for number in range(blocks):
        policy.submit(block(epoch, number))
        answers.append(next_answer(policy))
    return answers


def test_the_released_server_is_followed_and_shows_its_model_the_frames_it_was_trained_with(robot, gatherer) -> None:
    replies = follow(robot, 1, 3) + follow(robot, 2, 1)
    seen = gatherer._policy.seen
    shown = [[frame[0, 0, 0] for frame in each["video.exterior_image_1_left"]] for each in seen]
    assert shown == [[0], [10, 12, 14, 17], [20, 22, 24, 27], [0]]
    assert [each["video.wrist_image_left"].shape[1:] for each in seen] == [(180, 320, 3)] * 4
    assert {each["annotation.language.action_text"] for each in seen} == {PROMPT}
    for each, reply in zip(seen, replies, strict=True):
        np.testing.assert_allclose(each["state.joint_position"], STATE[None, :7])
        np.testing.assert_allclose(each["state.gripper_position"], STATE[None, 7:])
        assert isinstance(reply, Reply) and reply.actions.shape == (24, 8)
        np.testing.assert_allclose(reply.actions[0, :7], STATE[:7] + 0.001, atol=1e-6)


def test_a_traceback_of_the_released_server_is_told_and_it_is_asked_again(robot, gatherer) -> None:
    gatherer._policy.fails = "CUDA error: out of memory"
    (answer,) = follow(robot, 1, 1)
    assert isinstance(answer, Interruption) and answer.trouble.fault is Fault.SERVER_ERROR
    assert "says: RuntimeError: CUDA error: out of memory" in answer.trouble.text
    gatherer._policy.fails = ""
    assert isinstance(next_answer(robot, Resumption), Resumption)
    assert isinstance(follow(robot, 2, 1)[0], Reply)


def test_the_zeros_of_the_released_server_are_no_answer(robot, gatherer) -> None:
    gatherer._policy.key = "action.something"
    (answer,) = follow(robot, 1, 1)
    assert isinstance(answer, Failure) and answer.fault is Fault.SERVER_ANSWER_INVALID
    assert "[1, 8], expected [24, 8]: zeros, it found no joint action" in answer.message


@pytest.mark.parametrize("one_frame_a_call", [False, True])
def test_the_released_client_gets_the_chunks_of_the_frames_that_the_released_server_gathers(
    server, released, gatherer, arm_policy: Policy, arm_transforms: Transforms, one_frame_a_call: bool
) -> None:
    client = released.client.WebsocketClientPolicy("127.0.0.1", server.port)
    config = released.server.PolicyServerConfig(**client.get_server_metadata())
    assert (config.image_resolution, config.action_space) == ([180, 320], "joint_position")
    films = {entry: FILMS[camera] for camera, entry in CAMERAS.items()}
    schedule = [[0], *released.schedule.build_frame_schedule(48, 15)]
    if one_frame_a_call:
        schedule = [[step] for step in range(0, 48, 8)]
    for session in ("a", "b"):
        reference = Reference(arm_policy, arm_transforms, PROMPT)
        for steps in schedule:
            ask = released.schedule._make_obs_from_video(films, steps, PROMPT, session)
            gatherer.infer(dict(ask))
            shown = gatherer._policy.seen[-1]["video.exterior_image_1_left"]
            used = [next(i for i, f in enumerate(FILMS["exterior_1"]) if np.array_equal(f, frame)) for frame in shown]
            actions = client.infer(ask)
            assert (actions.shape, actions.dtype) == ((24, 8), np.float32)
            np.testing.assert_array_equal(actions, reference.infer(used, np.zeros(7), np.zeros(1)))
    assert client.reset({}) == "reset successful"
