"""A chunk as the node published it: what a replay is compared with, and when the node did what.

The message tells the times of the round: observed at its stamp, asked `request_s` later, answered after `handover_s`
and `model_s` more, executed from `start` on. Fields that an older recording does not have are None or zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamzero_policy.data.bag_messages import duration_ns
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

STAGES = ("request", "handover", "model", "command")


@dataclass(frozen=True, eq=False)
class LiveChunk:
    """One ActionChunk message."""

    session: str
    epoch: int
    index: int
    prompt: str
    contract_hash: str
    checkpoint_hash: str
    seed: int
    steps: int
    full_steps: int
    regime: str
    stream: int
    look_ahead: bool
    observation_ns: int
    frame_stamps_ns: Mapping[str, tuple[int, ...]]  # per camera, oldest first
    state_stamp_ns: int
    anchor: Floats | None  # [D]
    joints: tuple[str, ...]
    positions: Floats  # [H, J] rad and m
    step_s: float
    first_row: int
    start_ns: int
    verdict: Verdict
    reason: str
    request_s: float
    handover_s: float
    model_s: float
    command_s: float

    @classmethod
    def of(cls, message: Any) -> "LiveChunk":
        """Raises ValueError for a message whose lengths do not agree."""
        cameras, per_camera = list(message.camera_names), message.frames_per_camera
        stamps = [duration_ns(stamp) for stamp in message.frame_stamps]
        if len(stamps) != len(cameras) * per_camera:
            raise ValueError(f"{len(stamps)} frame stamps for {len(cameras)} cameras with {per_camera} each")
        joints = tuple(message.joint_names)
        anchor = np.array(getattr(message, "anchor", ()), dtype=np.float64)
        model_s = float(getattr(message, "model_s", 0.0))
        return cls(
            session=message.session,
            epoch=message.epoch,
            index=message.chunk_index,
            prompt=message.prompt,
            contract_hash=message.contract_hash,
            checkpoint_hash=message.checkpoint_hash,
            seed=message.noise_seed,
            steps=message.denoise_steps,
            full_steps=getattr(message, "full_denoise_steps", 0) or message.denoise_steps,
            regime=message.regime,
            stream=getattr(message, "stream", 0),
            look_ahead=getattr(message, "look_ahead", False),
            observation_ns=duration_ns(message.header.stamp),
            frame_stamps_ns={
                camera: tuple(stamps[i * per_camera : (i + 1) * per_camera]) for i, camera in enumerate(cameras)
            },
            state_stamp_ns=duration_ns(message.state_stamp),
            anchor=anchor if anchor.size else None,
            joints=joints,
            positions=np.array(message.positions, dtype=np.float64).reshape(message.steps, len(joints)),
            step_s=message.step_s,
            first_row=getattr(message, "first_row", 0),
            start_ns=duration_ns(message.start),
            verdict=Verdict(message.verdict),
            reason=message.reason,
            request_s=float(getattr(message, "request_s", 0.0)),
            handover_s=float(getattr(message, "handover_s", 0.0)),
            model_s=model_s,
            command_s=float(getattr(message, "command_s", 0.0)),
        )

    @property
    def answer_s(self) -> float:
        """From the request."""
        return self.handover_s + self.model_s

    @property
    def stages_s(self) -> dict[str, float]:
        """Where the time went from the observation to the first commanded point (docs/reference/latency.md)."""
        return {name: getattr(self, f"{name}_s") for name in STAGES}

    @property
    def run(self) -> tuple[str, int]:
        """What it shares with the chunks of the same epoch."""
        return self.session, self.epoch

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    @property
    def opens(self) -> bool:
        """Whether its block is the single frame that opens the window of an epoch."""
        return self.index == 0

    @property
    def asked_ns(self) -> int:
        return self.observation_ns + round(self.request_s * NS_PER_S)

    @property
    def answered_ns(self) -> int:
        return self.asked_ns + round(self.answer_s * NS_PER_S)

    @property
    def name(self) -> str:
        return f"chunk {self.index} of epoch {self.epoch}"


@dataclass
class LiveRun:
    """What a recording's chunks say before any of them is replayed."""

    first: LiveChunk | None = None
    chunks: int = 0
    seed: int = 0  # without what chunks and rejections added
    prompts: list[tuple[int, str]] = field(default_factory=list)  # each with the instant its first chunk was asked for
    answers_s: list[float] = field(default_factory=list)  # from request to answer, chunk by chunk

    @classmethod
    def of(cls, chunks: Iterable[LiveChunk]) -> "LiveRun":
        found, run = cls(), None
        for chunk in chunks:
            if found.first is None:
                found.first, found.seed = chunk, chunk.seed
            found.chunks += 1
            found.seed = min(found.seed, chunk.seed)  # chunks and rejections only ever add to it
            found.answers_s.append(chunk.answer_s)
            if (chunk.run, chunk.prompt) != run:
                run = chunk.run, chunk.prompt
                found.prompts.append((chunk.asked_ns, chunk.prompt))
        return found
