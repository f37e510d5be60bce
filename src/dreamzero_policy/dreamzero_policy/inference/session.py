"""One robot's running memory, and what is done with it: observe, predict, look ahead, decode, and branch.

A session sees the world in *windows*. A window opens with one frame and takes blocks of frames until no further chunk
fits; then the newest frame opens the next window, or (``window_mode="rolling"``) the oldest chunk leaves. Decisions:

* :meth:`Session.observe` is the only thing that changes the past, and only with what cameras saw. A prediction never
  enters the cache: predict-then-observe equals observe alone, bit for bit.
* Everything remembered is in one object (:class:`~.memory.Memory`), apart from the weights. Forks and snapshots share
  it until one of them observes.
* The prompt's keys and values are computed once per prompt; image keys and values and the image condition once per
  window.
* With guidance, the prompt and the negative prompt are two rows of one batch with one cache. Without it (scale 1) there
  is one row.
* Predicted video is decoded only when asked for (:meth:`Session.decode`), away from the hot path.

Frames are uint8 canvases, states and actions are normalised; the meaning of their entries is the contract's matter.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.inference.denoising import Denoising, evaluation_rule
from dreamzero_policy.inference.encoding import encoding
from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.memory import Memory, Snapshot, Window
from dreamzero_policy.inference.prediction import Observation, Prediction
from dreamzero_policy.inference.preview import Preview
from dreamzero_policy.model.autoencoder import Stream, to_video
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.flow import Sample, noise, sampling_schedule
from dreamzero_policy.model.transformer import Context
from dreamzero_policy.runtime.policy import ActionPrefix

WINDOW_MODES = ("reset", "rolling")


class Session:
    """One robot's memory.

    Args:
        policy: the loaded model.
        prompt: the instruction, complete (templates are the contract's matter).
        steps: denoising steps of a prediction; default from the checkpoint.
        evaluations: how many of 16 steps are evaluated, or ``dynamic`` for skips that depend on how steady the velocity
            is, see ``model/flow.py``; default from the checkpoint.
        cfg_scale: guidance of the video, 1 switches it off; default from the checkpoint.
        seed: of the noise; the same for every chunk unless given per call. Default from the checkpoint.
        video_final_noise: noise level at which the video stops while the actions go on to zero; default from the
            checkpoint.
        state_attention: ``release`` or ``training``, see ``model/tokens.py``; default from the checkpoint.
        vae_mode: ``stream`` or ``release``, see ``encoding.py``; default from the checkpoint.
        window_mode: what happens when a window has no room for another chunk. ``reset``: the newest frame opens a new
            one, as the released server does. ``rolling``: the oldest chunk leaves, see :meth:`~.memory.Window.roll`.
        window_chunks: how many chunks a window has at most; default from the checkpoint.

    Attributes:
        policy, steps, evaluations, cfg_scale, seed, video_final_noise, state_attention, window_mode, window_chunks:
            as above.
        epoch: counts resets and rollbacks, which are the same to whoever holds a chunk: one of another epoch is
            outdated.

    Raises ValueError when an option is out of its range.
    """

    def __init__(
        self,
        policy: Policy,
        prompt: str,
        *,
        steps: int | None = None,
        evaluations: int | str | None = None,
        cfg_scale: float | None = None,
        seed: int | None = None,
        video_final_noise: float | None = None,
        state_attention: str | None = None,
        vae_mode: str | None = None,
        window_mode: str = "reset",
        window_chunks: int | None = None,
    ) -> None:
        sampler, geometry = policy.config.sampler, policy.config.geometry
        self.policy = policy
        self.steps = sampler.steps if steps is None else steps
        self.evaluations = sampler.evaluations if evaluations is None else evaluations
        self.cfg_scale = sampler.cfg_scale if cfg_scale is None else cfg_scale
        self.seed = sampler.seed if seed is None else seed
        self.video_final_noise = sampler.video_final_noise if video_final_noise is None else video_final_noise
        self.state_attention = sampler.state_attention if state_attention is None else state_attention
        self.window_mode = window_mode
        asked = sampler.window_chunks if window_chunks is None else window_chunks
        self.window_chunks = geometry.chunks_per_window if asked is None else asked
        self._encoding = encoding(sampler.vae_mode if vae_mode is None else vae_mode, policy.config)
        sampling_schedule(self.steps, sampler.shift, self.video_final_noise or 0.0)  # raises if they are out of range
        evaluation_rule(self.steps, self.evaluations)
        if window_mode not in WINDOW_MODES:
            raise ValueError(f"window_mode is {window_mode!r}, expected one of {WINDOW_MODES}")
        if not 1 <= self.window_chunks <= geometry.chunks_per_window:
            raise ValueError(f"window_chunks is {self.window_chunks}, expected 1 to {geometry.chunks_per_window}")
        if window_mode == "rolling" and self.window_chunks < 2:
            raise ValueError(f"a rolling window needs at least 2 chunks, this one has {self.window_chunks}")
        self.epoch = -1
        self._lineage = object()
        self._memory: Memory | None = None
        self._preview = Preview()
        self.reset(prompt)

    @property
    def branches(self) -> int:
        """Rows of the batch: 2 with guidance, 1 without."""
        return 1 if self.cfg_scale == 1.0 else 2

    @property
    def prompt(self) -> str:
        return self._memory.prompt

    @property
    def window(self) -> int:
        """Counts windows since the reset, −1 before the first."""
        return self._memory.window_index

    @property
    def chunk_index(self) -> int:
        """Counts chunks since the reset; the index of the chunk that :meth:`predict` gives next."""
        return self._memory.chunk_index

    @property
    def frames_observed(self) -> int:
        """Raw frames received since the reset."""
        return self._memory.frames_observed

    # ---------------------------------------------------------------- observe, predict, decode

    @torch.inference_mode()
    def observe(self, frames: np.ndarray) -> Observation:
        """Take in what the cameras saw: uint8 RGB canvases [T, H, W, 3].

        T = 1 opens a window. T = raw frames per chunk (8) continues it; when the window has no room for another chunk
        after this block, the block's last frame opens a new window instead, or the oldest chunk leaves.
        With ``vae_mode="release"`` other T are blocks too (4 and 9), and a block may open a window: ``encoding.py``.

        Raises ValueError for another shape, dtype or number of frames, or for a block before the first window. A block
        that fails leaves the memory as it was; a window that fails to open leaves none open.
        """
        self._require_frames(frames)
        memory, window = self._memory, self._memory.window
        full = window is not None and self._full(window)
        opens = len(frames) == 1 or window is None or (full and self.window_mode == "reset")
        began = time.perf_counter()
        stream = Stream() if opens else window.stream.copy()
        if opens:
            window, latents = self._open_window(self._encoding.opening_frame(frames), stream)
        else:
            latents = self._encoding.block(self.policy.autoencoder, self._video(frames), stream)
        encoded = time.perf_counter()
        if full and not opens:
            window.roll(self.policy.transformer.layout)
        self._append(window, latents)
        window.stream, memory.window = stream, window
        memory.window_index += opens
        memory.timings_s = {"encode": encoded - began, "observe": time.perf_counter() - encoded}
        memory.frames_observed += len(frames)
        memory.chunk_index += 1
        return Observation(self.epoch, self.window, opens, self.chunk_index, latents[0], dict(memory.timings_s))

    @torch.inference_mode()
    def predict(
        self,
        state: np.ndarray,
        *,
        steps: int | None = None,
        seed: int | None = None,
        start: tuple[Tensor, Tensor] | None = None,
        prefix: ActionPrefix | None = None,
    ) -> Prediction:
        """The next chunk, given the observed past and the state of the newest observation. Only reads the memory.

        ``state`` is the normalised state, float32 [n] with n ≤ max_state_dim; missing entries are the zeros that the
        model was trained with. ``start`` is the noise to start from, video [1, C, f, h, w] and action [1, A, D], where
        it shall not be drawn from the seed. ``prefix`` are the first rows of the chunk where they are settled already:
        the chunk has them as they are given, is drawn to the soft ones, and continues them.
        Raises ValueError for another shape, for values that are not finite, and before the first observation.
        """
        began = time.perf_counter()
        chunk = self.denoising(state, steps=steps, seed=seed, start=start, prefix=prefix)
        sample = chunk.run(self.policy.transformer)
        seed = self.seed if seed is None else seed
        return self.concluded(chunk, sample, None if start is not None else seed, began)

    @torch.inference_mode()
    def denoising(
        self,
        state: np.ndarray,
        *,
        steps: int | None = None,
        seed: int | None = None,
        start: tuple[Tensor, Tensor] | None = None,
        prefix: ActionPrefix | None = None,
    ) -> Denoising:
        """The first part of :meth:`predict`: everything that denoising takes, as it is now. Raises as that one."""
        window, sampler = self._memory.window, self.policy.config.sampler
        if window is None:
            raise ValueError("nothing was observed yet; a prediction needs at least the first frame")
        video, action = self._noise(self.seed if seed is None else seed) if start is None else self._given_noise(start)
        return Denoising(
            cache=window.cache,
            context=Context(self._memory.text, window.image),
            condition=window.condition_of(window.frames, self.policy.config.geometry.frames_per_chunk),
            state=self._state_token(state),
            video=video,
            action=action,
            first_frame=window.frames,
            steps=self.steps if steps is None else steps,
            evaluations=self.evaluations,
            cfg_scale=self.cfg_scale,
            shift=sampler.shift,
            video_final_noise=self.video_final_noise,
            state_attention=self.state_attention,
            prefix=prefix,
        )

    @torch.inference_mode()
    def concluded(self, chunk: Denoising, sample: Sample, seed: int | None, began: float) -> Prediction:
        """The last part of :meth:`predict`. ``began``: when it began, by `time.perf_counter`."""
        memory, window = self._memory, self._memory.window
        actions = sample.action[0].cpu().numpy()  # waits for the device
        return Prediction(
            actions=actions,
            video_latents=sample.video[0],
            expected_latents=sample.expected[0],
            steps=chunk.steps,
            evaluations=sample.evaluations,
            cfg_scale=self.cfg_scale,
            seed=seed,
            epoch=self.epoch,
            window=self.window,
            chunk_index=self.chunk_index,
            first_frame=window.frames,
            past_latents=window.latents,
            held_rows=0 if chunk.prefix is None else chunk.prefix.held_rows,
            timings_s={**memory.timings_s, "denoise": time.perf_counter() - began},
        )

    @torch.inference_mode()
    def look_ahead(
        self,
        prediction: Prediction,
        state: np.ndarray,
        *,
        steps: int | None = None,
        seed: int | None = None,
        prefix: ActionPrefix | None = None,
    ) -> Prediction:
        """The chunk behind a prediction, from a fork that takes the predicted latents as observed. Changes nothing.

        ``state`` is the state expected at the end of the predicted chunk, ``prefix`` is that of the chunk behind.
        Where the window has no room for another chunk, the fork does what :meth:`observe` does: it opens a window with
        the newest frame, here a decoded one.
        ``timings_s`` of the result has the seconds of the fork's observation as ``imagine``.
        Raises ValueError for a prediction that does not continue what this session has observed.
        """
        window = self._memory.window
        here = (self.window, self.chunk_index, 0 if window is None else window.frames)
        if here != (prediction.window, prediction.chunk_index, prediction.first_frame):
            raise ValueError(
                f"the prediction continues (window, chunk, frames) = "
                f"{(prediction.window, prediction.chunk_index, prediction.first_frame)}, this session is at {here}"
            )
        began = time.perf_counter()
        fork = self.fork()
        memory, window, timings_s = fork._memory, fork._memory.window, self._memory.timings_s
        if self._full(window) and self.window_mode == "reset":
            fork.observe(fork.decode(prediction)[-1:])
        else:
            if self._full(window):
                window.roll(self.policy.transformer.layout)
            fork._append(window, prediction.video_latents[None].to(self.policy.dtype))
            memory.chunk_index += 1
        memory.timings_s = timings_s | {"imagine": time.perf_counter() - began}
        return fork.predict(state, steps=steps, seed=seed, prefix=prefix)

    @torch.inference_mode()
    def decode(self, prediction: Prediction) -> np.ndarray:
        """The predicted frames, uint8 RGB [raw frames per chunk, H, W, 3], as the continuation of what was observed.

        Changes nothing that :meth:`observe` or :meth:`predict` use. What was observed is decoded once, as long as
        previews are asked for at least once a window.
        """
        return self._preview.decode(self.policy.autoencoder, prediction)

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """What was observed in this window, newest last, [1, C, f, h, w] an observation."""
        return () if self._memory.window is None else self._memory.window.latents

    @property
    def stream(self) -> Stream:
        """The autoencoder behind what was observed in this window, for :meth:`encoded`. Raises ValueError before."""
        if self._memory.window is None:
            raise ValueError("nothing was observed yet; a block continues at least a first frame")
        return self._memory.window.stream.copy()

    @torch.inference_mode()
    def encoded(self, frames: np.ndarray, stream: Stream | None = None) -> Tensor:
        """Latents [1, C, f, h, w] of a block, as the continuation of this window or of a stream. Changes nothing."""
        self._require_frames(frames)
        behind = self.stream if stream is None else stream.copy()
        return self._encoding.block(self.policy.autoencoder, self._video(frames), behind)

    # ---------------------------------------------------------------- branch

    @torch.inference_mode()
    def reset(self, prompt: str | None = None) -> None:
        """Forget everything seen. A new prompt is encoded here; without one the old prompt stays."""
        old = self._memory
        if old is None or prompt not in (None, old.prompt):
            prompts = [prompt, self.policy.config.sampler.negative_prompt][: self.branches]
            text = self.policy.transformer.encode_text(self.policy.text.encode(prompts))
            self._memory = Memory(prompt, text)
        else:
            self._memory = Memory(old.prompt, old.text)
        self.epoch += 1

    def snapshot(self) -> Snapshot:
        """The memory at this instant, to go back to with :meth:`rollback`, any number of times. Copies nothing."""
        return Snapshot(self._lineage, self._memory.fork())

    def rollback(self, snapshot: Snapshot) -> None:
        """Remember what was remembered at the snapshot, bit for bit; what was seen since is forgotten.

        The epoch moves on, never back: chunks predicted meanwhile are outdated.
        Raises ValueError for a snapshot of a session that is neither this one nor related to it by forks.
        """
        if snapshot.lineage is not self._lineage:
            raise ValueError("this snapshot is of another session; it fits the session it came from and its forks")
        self._memory = snapshot.memory.fork()
        self.epoch += 1

    def fork(self) -> Session:
        """A second session with the same memory and options; what either does from now on is its own.

        Copies nothing: the cache is copied when both have observed.
        """
        fork = copy.copy(self)
        fork._memory, fork._preview = self._memory.fork(), copy.copy(self._preview)
        return fork

    # ---------------------------------------------------------------- the two steps of observing

    def _open_window(self, frame: np.ndarray, stream: Stream) -> tuple[Window, Tensor]:
        """One frame becomes latent 0; image tokens and image condition are computed from it. The old window ends."""
        policy, memory = self.policy, self._memory
        video = self._video(frame)
        latents = policy.autoencoder.encode(video, stream)
        condition = None
        if policy.config.transformer.image_condition:
            condition = policy.autoencoder.image_condition(
                latents, stream, policy.config.latent_frames_per_window, video.shape
            )
        image = policy.transformer.encode_image(policy.image.encode(video[:, :, 0]).to(policy.dtype))
        cache = self._empty_cache() if memory.window is None else memory.window.cache
        memory.window = None
        cache.clear()
        return Window(cache, stream, image, condition), latents

    def _append(self, window: Window, latents: Tensor) -> None:
        """Put latent frames [1, C, f, h, w] into the cache."""
        self.policy.transformer.observe(
            window.cache,
            Context(self._memory.text, window.image),
            latents,
            window.condition_of(window.frames, latents.shape[2]),
            first_frame=window.frames,
        )
        window.frames += latents.shape[2]
        window.latents += (latents,)

    # ---------------------------------------------------------------- shapes and checks

    def _video(self, frames: np.ndarray) -> Tensor:
        return to_video(frames, self.policy.device, self.policy.dtype)

    def _full(self, window: Window) -> bool:
        """Whether a block and a chunk behind it no longer fit into the window."""
        frames_per_chunk = self.policy.config.geometry.frames_per_chunk
        room = 1 + self.window_chunks * frames_per_chunk - window.frames
        return room < 2 * frames_per_chunk

    def _empty_cache(self) -> KVCache:
        """The last chunk of a window is predicted and never observed into it, so the cache has no room for it."""
        config = self.policy.config
        return self.policy.transformer.empty_cache(
            batch=self.branches,
            frames=config.latent_frames_per_window - config.geometry.frames_per_chunk,
            height=config.latent_height,
            width=config.latent_width,
        )

    @property
    def _chunk_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of one chunk: video latents [1, C, f, h, w], actions [1, A, D]."""
        config, geometry = self.policy.config, self.policy.config.geometry
        channels, frames = config.autoencoder.latent_channels, geometry.frames_per_chunk
        return (
            (1, channels, frames, config.latent_height, config.latent_width),
            (1, geometry.actions_per_chunk, geometry.max_action_dim),
        )

    def _noise(self, seed: int) -> tuple[Tensor, Tensor]:
        """Start of a chunk, float32. Video and action are drawn with the same seed, as the release does."""
        video, action = self._chunk_shapes
        device = self.policy.device
        return noise(video, seed, device, torch.float32), noise(action, seed, device, torch.float32)

    def _given_noise(self, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        shapes = tuple(tuple(x.shape) for x in start)
        if shapes != self._chunk_shapes:
            raise ValueError(f"the noise of video and action must have shapes {self._chunk_shapes}, got {shapes}")
        video, action = (x.to(self.policy.device, torch.float32) for x in start)
        return video, action

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

    def _require_frames(self, frames: np.ndarray) -> None:
        geometry, first = self.policy.config.geometry, self._memory.window is None
        size = (geometry.canvas_height, geometry.canvas_width, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size:
            raise ValueError(
                f"frames must be uint8 [T, {size[0]}, {size[1]}, 3], got {frames.dtype} {list(frames.shape)}"
            )
        if len(frames) not in self._encoding.lengths:
            raise ValueError(f"a session observes {_counts(self._encoding.lengths)}, got {len(frames)}")
        if len(frames) > 1 and first and self._encoding.needs_first_frame:
            raise ValueError(f"a block of {len(frames)} frames came before the first frame; open with one frame")


def _counts(lengths: tuple[int, ...]) -> str:
    return "1 frame or a block of " + " or ".join(str(length) for length in lengths[1:])
