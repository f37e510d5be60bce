"""One robot's running memory, and the two things done with it: observe and predict.

A session sees the world in *windows*. A window opens with one frame and takes blocks of frames until no further chunk
fits; then the newest frame opens the next window. Decisions:

* :meth:`Session.observe` is the only thing that changes the past, and only with what cameras saw. A prediction never
  enters the cache: predict-then-observe equals observe alone, bit for bit.
* Everything remembered is in one object (:class:`Memory`), apart from the weights.
* The prompt's keys and values are computed once per prompt; image keys and values and the image condition once per
  window.
* With guidance, the prompt and the negative prompt are two rows of one batch with one cache. Without it (scale 1) there
  is one row.
* Predicted video is decoded only when asked for (:meth:`Session.decode`), away from the hot path.

Frames are uint8 canvases, states and actions are normalised; the meaning of their entries is the contract's matter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.model.autoencoder import Stream, to_uint8, to_video
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.flow import evaluated_steps, guide, noise, sample_chunk, sampling_schedule
from dreamzero_policy.model.transformer import Context, KeyValue, WorldActionTransformer


@dataclass(frozen=True)
class Observation:
    """What one call of :meth:`Session.observe` did.

    ``latents`` [C, f, h, w] are the normalised latents that entered the cache: 1 frame when a window opened, else a
    block. ``window`` counts the windows since the reset, ``chunk_index`` the block that may be predicted next.
    """

    window: int
    window_opened: bool
    chunk_index: int
    latents: Tensor
    timings_s: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """One chunk.

    ``actions`` [actions_per_chunk, max_action_dim] float32 are normalised; row i is meant for i action steps after the
    last observed frame. ``video_latents`` [C, f, h, w] float32 are the predicted latents. ``timings_s`` holds the
    seconds of this prediction (``denoise``) and of the observation before it (``encode``, ``observe``).
    """

    actions: np.ndarray
    video_latents: Tensor
    steps: int
    evaluations: int
    cfg_scale: float
    seed: int
    epoch: int
    window: int
    chunk_index: int
    first_frame: int
    past_latents: tuple[Tensor, ...]
    timings_s: dict[str, float]


@dataclass
class Memory:
    """All that a session remembers of the open window.

    ``frames`` latent frames are in the cache. ``latents`` are the same frames as they went in, for decoding. ``image``
    and ``condition`` belong to the first frame, ``stream`` carries the autoencoder over all frames.
    """

    cache: KVCache
    stream: Stream
    image: tuple[KeyValue, ...]
    condition: Tensor | None
    frames: int = 0
    latents: tuple[Tensor, ...] = ()


@dataclass
class _DecodedPast:
    """How far the decoder has come in one window, so that each preview decodes new frames only."""

    key: tuple[int, int] = (-1, -1)
    stream: Stream = field(default_factory=Stream)


class Session:
    """One robot's memory.

    Args:
        policy: the loaded model.
        prompt: the instruction, complete (templates are the contract's matter).
        steps: denoising steps of a prediction; default from the checkpoint.
        cfg_scale: guidance of the video, 1 switches it off; default from the checkpoint.
        seed: of the noise; the same for every chunk unless given per call. Default from the checkpoint.
        video_final_noise: noise level at which the video stops while the actions go on to zero; default from the
            checkpoint.
        state_attention: ``release`` or ``training``, see ``model/tokens.py``; default from the checkpoint.

    Attributes:
        prompt, steps, cfg_scale, seed: as above.
        epoch: counts resets; a chunk of another epoch is outdated.
        window: counts windows since the reset, −1 before the first.
        chunk_index: counts chunks since the reset; the index of the chunk that :meth:`predict` gives next.
        frames_observed: raw frames received since the reset.
    """

    def __init__(
        self,
        policy: Policy,
        prompt: str,
        *,
        steps: int | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        video_final_noise: float | None = None,
        state_attention: str | None = None,
    ) -> None:
        sampler = policy.config.sampler
        self.policy = policy
        self.steps = sampler.steps if steps is None else steps
        self.cfg_scale = sampler.cfg_scale if cfg_scale is None else cfg_scale
        self.seed = sampler.seed if seed is None else seed
        self.video_final_noise = sampler.video_final_noise if video_final_noise is None else video_final_noise
        self.state_attention = sampler.state_attention if state_attention is None else state_attention
        sampling_schedule(self.steps, sampler.shift, self.video_final_noise or 0.0)  # raises if they are out of range
        self.prompt: str | None = None
        self.epoch = -1
        self._decoded = _DecodedPast()
        self.reset(prompt)

    @property
    def branches(self) -> int:
        """Rows of the batch: 2 with guidance, 1 without."""
        return 1 if self.cfg_scale == 1.0 else 2

    @torch.inference_mode()
    def reset(self, prompt: str | None = None) -> None:
        """Forget everything seen. A new prompt is encoded here; without one the old prompt stays."""
        prompt = self.prompt if prompt is None else prompt
        if prompt != self.prompt:
            prompts = [prompt, self.policy.config.sampler.negative_prompt][: self.branches]
            self._text = self.policy.transformer.encode_text(self.policy.text.encode(prompts))
            self.prompt = prompt
        self.epoch += 1
        self.window = -1
        self.chunk_index = -1
        self.frames_observed = 0
        self._memory: Memory | None = None
        self._timings_s: dict[str, float] = {}

    @torch.inference_mode()
    def observe(self, frames: np.ndarray) -> Observation:
        """Take in what the cameras saw: uint8 RGB canvases [T, H, W, 3].

        T = 1 opens a window. T = raw frames per chunk (8) continues it; when the window has no room for another chunk
        after this block, the block's last frame opens a new window instead.

        Raises ValueError for another shape, dtype or number of frames, or for a block before the first window.
        """
        self._require_frames(frames)
        geometry, memory = self.policy.config.geometry, self._memory
        opens = len(frames) == 1
        if not opens:
            if memory is None:
                raise ValueError(f"a block of {len(frames)} frames came before the first frame; open with one frame")
            room = self.policy.config.latent_frames_per_window - memory.frames
            opens = room < 2 * geometry.frames_per_chunk
        self.frames_observed += len(frames)
        self.chunk_index += 1
        return self._open_window(frames[-1:]) if opens else self._continue_window(memory, frames)

    @torch.inference_mode()
    def predict(self, state: np.ndarray, *, steps: int | None = None, seed: int | None = None) -> Prediction:
        """The next chunk, given the observed past and the state of the newest observation. Only reads the memory.

        ``state`` is the normalised state, float32 [n] with n ≤ max_state_dim; missing entries are the zeros that the
        model was trained with. Raises ValueError for another shape, for values that are not finite, and before the
        first observation.
        """
        memory = self._require_memory()
        policy, sampler, geometry = self.policy, self.policy.config.sampler, self.policy.config.geometry
        steps = self.steps if steps is None else steps
        seed = self.seed if seed is None else seed
        start = time.perf_counter()

        first, frames = memory.frames, geometry.frames_per_chunk
        video, action = denoise_chunk(
            policy.transformer,
            memory.cache,
            Context(self._text, memory.image),
            condition=None if memory.condition is None else memory.condition[:, :, first : first + frames],
            state=self._state_token(state),
            video=noise(self._video_shape(frames), seed, policy.device, torch.float32),
            action=noise((1, geometry.actions_per_chunk, geometry.max_action_dim), seed, policy.device, torch.float32),
            first_frame=first,
            steps=steps,
            evaluated=evaluated_steps(steps, sampler.evaluations),
            cfg_scale=self.cfg_scale,
            shift=sampler.shift,
            video_final_noise=self.video_final_noise,
            state_attention=self.state_attention,
        )
        actions = action[0].cpu().numpy()  # waits for the device
        return Prediction(
            actions=actions,
            video_latents=video[0],
            steps=steps,
            evaluations=len(evaluated_steps(steps, sampler.evaluations)),
            cfg_scale=self.cfg_scale,
            seed=seed,
            epoch=self.epoch,
            window=self.window,
            chunk_index=self.chunk_index,
            first_frame=first,
            past_latents=memory.latents,
            timings_s={**self._timings_s, "denoise": time.perf_counter() - start},
        )

    @torch.inference_mode()
    def decode(self, prediction: Prediction) -> np.ndarray:
        """The predicted frames, uint8 RGB [raw frames per chunk, H, W, 3], as the continuation of what was observed.

        Changes nothing that :meth:`observe` or :meth:`predict` use. The observed past is decoded once per window.
        """
        autoencoder, past = self.policy.autoencoder, self._decoded
        if past.key != (prediction.epoch, prediction.window) or past.stream.frames > prediction.first_frame:
            past = _DecodedPast((prediction.epoch, prediction.window))
        seen = torch.cat(prediction.past_latents, dim=2)[:, :, past.stream.frames :]
        stream = past.stream.copy()
        if seen.shape[2]:
            autoencoder.decode(seen, stream)
        self._decoded = replace(past, stream=stream.copy())
        return to_uint8(autoencoder.decode(prediction.video_latents[None].to(self.policy.dtype), stream))

    # ---------------------------------------------------------------- the two ways of observing

    def _open_window(self, frame: np.ndarray) -> Observation:
        """One frame becomes latent 0; image tokens and image condition are computed from it."""
        start = time.perf_counter()
        policy, stream = self.policy, Stream()
        video = to_video(frame, policy.device, policy.dtype)
        latents = policy.autoencoder.encode(video, stream)
        condition = None
        if policy.config.transformer.image_condition:
            condition = policy.autoencoder.image_condition(
                latents, stream, policy.config.latent_frames_per_window, video.shape
            )
        image = policy.transformer.encode_image(policy.image.encode(video[:, :, 0]).to(policy.dtype))
        cache = self._memory.cache if self._memory is not None else self._empty_cache()
        cache.clear()
        self._memory = Memory(cache, stream, image, condition)
        self.window += 1
        return self._append(latents, window_opened=True, encode_s=time.perf_counter() - start)

    def _continue_window(self, memory: Memory, frames: np.ndarray) -> Observation:
        start = time.perf_counter()
        video = to_video(frames, self.policy.device, self.policy.dtype)
        latents = self.policy.autoencoder.encode(video, memory.stream)
        return self._append(latents, window_opened=False, encode_s=time.perf_counter() - start)

    def _append(self, latents: Tensor, *, window_opened: bool, encode_s: float) -> Observation:
        """Put latent frames [1, C, f, h, w] into the cache."""
        start = time.perf_counter()
        memory, first, count = self._memory, self._memory.frames, latents.shape[2]
        self.policy.transformer.observe(
            memory.cache,
            Context(self._text, memory.image),
            latents,
            None if memory.condition is None else memory.condition[:, :, first : first + count],
            first_frame=first,
        )
        memory.frames += count
        memory.latents += (latents,)
        self._timings_s = {"encode": encode_s, "observe": time.perf_counter() - start}
        return Observation(self.window, window_opened, self.chunk_index, latents[0], dict(self._timings_s))

    # ---------------------------------------------------------------- shapes and checks

    def _empty_cache(self) -> KVCache:
        """The last chunk of a window is predicted and never observed into it, so the cache has no room for it."""
        config = self.policy.config
        return self.policy.transformer.empty_cache(
            batch=self.branches,
            frames=config.latent_frames_per_window - config.geometry.frames_per_chunk,
            height=config.latent_height,
            width=config.latent_width,
        )

    def _video_shape(self, frames: int) -> tuple[int, ...]:
        config = self.policy.config
        return (1, config.autoencoder.latent_channels, frames, config.latent_height, config.latent_width)

    def _state_token(self, state: np.ndarray) -> Tensor:
        size = self.policy.config.geometry.max_state_dim
        values = np.asarray(state, dtype=np.float32)
        if values.ndim != 1 or not 1 <= len(values) <= size:
            raise ValueError(f"the state must have shape [n] with n ≤ {size}, got {list(values.shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"the state has values that are not finite at {np.flatnonzero(~np.isfinite(values))}")
        token = torch.zeros(1, 1, size, dtype=self.policy.dtype, device=self.policy.device)
        token[0, 0, : len(values)] = torch.from_numpy(values)
        return token

    def _require_memory(self) -> Memory:
        if self._memory is None:
            raise ValueError("nothing was observed yet; a prediction needs at least the first frame")
        return self._memory

    def _require_frames(self, frames: np.ndarray) -> None:
        config = self.policy.config
        block, size = config.raw_frames_per_chunk, (config.geometry.canvas_height, config.geometry.canvas_width, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size:
            raise ValueError(
                f"frames must be uint8 [T, {size[0]}, {size[1]}, 3], got {frames.dtype} {list(frames.shape)}"
            )
        if len(frames) not in (1, block):
            raise ValueError(f"a session observes 1 frame or a block of {block}, got {len(frames)}")


def denoise_chunk(
    transformer: WorldActionTransformer,
    cache: KVCache,
    context: Context,
    *,
    condition: Tensor | None,
    state: Tensor,
    video: Tensor,
    action: Tensor,
    first_frame: int,
    steps: int,
    evaluated: frozenset[int],
    cfg_scale: float,
    shift: float,
    video_final_noise: float | None,
    state_attention: str,
) -> tuple[Tensor, Tensor]:
    """From noise to a chunk: ``video`` [1, C, f, H, W] and ``action`` [1, A, D] float32, noise in and samples out.

    ``condition`` [1, 4 + C, f, H, W] and ``state`` [1, 1, D] belong to the chunk. With a guidance scale other than 1
    the text of the context has two rows, prompt and negative prompt. The cache is only read.
    """
    dtype = state.dtype

    def velocity(video: Tensor, action: Tensor, video_time: int, action_time: int) -> tuple[Tensor, Tensor]:
        video_velocity, action_velocity = transformer.denoise(
            cache,
            context,
            video.to(dtype),
            condition,
            action.to(dtype),
            state,
            first_frame=first_frame,
            video_time=video_time,
            action_time=action_time,
            state_attention=state_attention,
        )
        video_velocity, action_velocity = video_velocity.float(), action_velocity.float()
        if cfg_scale == 1.0:
            return video_velocity, action_velocity
        return guide(video_velocity, action_velocity, cfg_scale)

    return sample_chunk(
        velocity,
        video,
        action,
        video_schedule=sampling_schedule(steps, shift, video_final_noise or 0.0),
        action_schedule=sampling_schedule(steps, shift),
        evaluated=evaluated,
    )


def surprise(prediction: Prediction, observation: Observation) -> float | None:
    """Distance between the predicted latents of a chunk and those of what the cameras then saw: root mean square.

    None when they are not of the same frames (another epoch or window, or another chunk).
    """
    if observation.window != prediction.window or observation.chunk_index != prediction.chunk_index + 1:
        return None
    difference = observation.latents.float() - prediction.video_latents.float()
    return float(difference.square().mean().sqrt())
