"""The observation buffer: stamped images and joint states in, blocks of frames at the contract's instants out.

For every instant the nearest stamped frame is taken. Which one is nearest is known only when a frame at or after the
instant has arrived (or one so close before it that, at the source's rate, the next cannot be nearer), so a block is
ready then and not before, and the same recording gives the same block live and from a bag. A frame farther away than
the tolerance is missing: an error that names camera, instant and gap, never a repeated, partial or black frame. All
stamps are observation times in nanoseconds of the node's clock.

Images are decoded when they turn out to stand for an instant (or ahead of time, through `prefetch`), not on arrival.

A camera whose bytes stay the same while its stamps advance is frozen: no sensor is without noise. Only time in which
the robot is told to move counts, since a simulated camera rightly gives the same picture while nothing moves.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Embodiment, Floats, Image
from dreamzero_policy.runtime.faults import Fault, Trouble

NS_PER_S = 1_000_000_000
CERTAIN = 0.25  # of a period: an item this close before an instant is taken without waiting for the next one
HISTORY_S = 3.0  # a block spans 0.8 s; the rest is room for late requests


class ObservationError(Exception):
    """A message that cannot be used; the text names the source, what it holds and what is expected."""


class MissingObservation(Exception):  # noqa: N818 (it is a state of affairs, not a defect)
    """An instant without a frame or state; the text names source, instant and gap."""


@dataclass(frozen=True)
class Block:
    """The frames and the state of one chunk's worth of time, or the single frame that opens a window."""

    observation_ns: int
    canvas: Image  # [T, height, width, 3]
    state: Floats  # [D] in the contract's units, at the observation instant
    positions: Floats  # [J] of the commanded joints, rad and m, from the same message
    frame_stamps_ns: Mapping[str, tuple[int, ...]]  # per camera, oldest first
    state_stamp_ns: int
    transport_s: float  # youngest frame: stamp to receipt
    complete_monotonic_ns: int  # when the last frame of the block was received
    # The cameras' own images [n, height, width, 3] of n frames by number. Decodes them anew, from any thread.
    images: Callable[[Sequence[int]], Mapping[str, Image]] | None = None


@dataclass(eq=False)
class Frame:
    """One received image. `decode` gives RGB [height, width, 3] and may raise ObservationError."""

    stamp_ns: int
    received_ns: int
    received_monotonic_ns: int
    decode: Callable[[], Image]
    content: NDArray[np.uint8] | None = None  # [bytes] as they came, where frozen cameras are looked for
    view: Image | None = None


@dataclass(frozen=True, eq=False)
class JointSample:
    stamp_ns: int
    received_monotonic_ns: int
    positions: Mapping[str, float]


Item = TypeVar("Item", Frame, JointSample)


@dataclass
class Stream(Generic[Item]):
    """Items of one source in the order of their stamps."""

    period_ns: float
    items: deque[Item] = field(default_factory=deque)
    duplicates: int = 0
    out_of_order: int = 0
    dropped: int = 0
    frozen_s: float = 0.0  # time of motion over which the content has stayed the same
    skew_s: float = 0.0  # receipt minus stamp of the newest item
    fault: str = ""  # why the newest message was refused; empty once a good one follows
    refused_ns: int | None = None  # stamp of the newest image that was: an older one says nothing about the source now
    silent_since_monotonic_ns: int = field(default_factory=time.monotonic_ns)

    def nearest(self, instant_ns: int) -> Item | None:
        """The item closest to the instant, the earlier one of two that tie."""
        right = bisect_left(self.items, instant_ns, key=lambda item: item.stamp_ns)
        around = [self.items[i] for i in (right - 1, right) if 0 <= i < len(self.items)]
        return min(around, key=lambda item: abs(item.stamp_ns - instant_ns), default=None)

    def covers(self, instant_ns: int) -> bool:
        """Whether no item still to come can be nearer to the instant."""
        if not self.items:
            return False
        return self.items[-1].stamp_ns >= instant_ns - CERTAIN * self.period_ns


class ObservationBuffer:
    """What the cameras and joints said recently."""

    def __init__(self, embodiment: Embodiment, frozen_camera_s: float = 0.0) -> None:
        """`frozen_camera_s`: a camera's content may stay the same over this much motion; 0 looks for nothing."""
        self.embodiment, self.frozen_camera_s = embodiment, frozen_camera_s
        self.contract = embodiment.contract
        site = self.contract.site
        self.cameras: dict[str, Stream[Frame]] = {
            camera: Stream(NS_PER_S / site.cameras[camera].rate_hz) for camera in self.contract.model.cameras
        }
        self.joints: Stream[JointSample] = Stream(NS_PER_S / site.joint_states.rate_hz)

    # In

    def add_image(
        self,
        camera: str,
        stamp_ns: int,
        received_ns: int,
        decode: Callable[[], Image],
        content: NDArray[np.uint8] | None = None,
        moving: bool = False,
    ) -> None:
        """Keep one image. A stamp that is not newer than the last one is left out and counted.

        `content` [bytes] and `moving`, whether the robot is told to move now, are what frozen cameras are found by.
        """
        stream = self.cameras[camera]
        stream.skew_s = (received_ns - stamp_ns) / NS_PER_S
        self._restart(stream, stamp_ns)
        if stream.items:
            newest = stream.items[-1]
            gap_ns = stamp_ns - newest.stamp_ns
            if gap_ns <= 0:
                self._count_late(stream, gap_ns)
                return
            stream.dropped += max(0, round(gap_ns / stream.period_ns) - 1)
            if content is None or newest.content is None or not np.array_equal(content, newest.content):
                stream.frozen_s = 0.0
            elif moving:
                stream.frozen_s += gap_ns / NS_PER_S
        stream.silent_since_monotonic_ns = time.monotonic_ns()
        stream.items.append(Frame(stamp_ns, received_ns, stream.silent_since_monotonic_ns, decode, content))
        self._forget(stream)

    def add_joint_state(
        self, stamp_ns: int, received_ns: int, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Keep one joint state. Joints the contract does not know are ignored.

        Raises:
            ObservationError: a needed joint is absent, or a position is not finite; the message is left out.
        """
        try:
            sample = self._checked(stamp_ns, names, positions)
        except ObservationError as error:
            self.joints.fault = str(error)
            raise
        self.joints.fault = ""
        self.joints.skew_s = (received_ns - stamp_ns) / NS_PER_S
        self._restart(self.joints, stamp_ns)
        if self.joints.items and stamp_ns <= self.joints.items[-1].stamp_ns:
            self._count_late(self.joints, stamp_ns - self.joints.items[-1].stamp_ns)
            return
        self.joints.silent_since_monotonic_ns = sample.received_monotonic_ns
        self.joints.items.append(sample)
        self._forget(self.joints)

    def clear(self) -> None:
        """Forget all messages (clock jump, reset). Counters stay."""
        for stream in (*self.cameras.values(), self.joints):
            stream.items.clear()
            stream.skew_s, stream.refused_ns = 0.0, None

    def believe_cameras(self) -> None:
        """Forget how long contents have stayed the same: a person wants to try again."""
        for stream in self.cameras.values():
            stream.frozen_s = 0.0

    def _checked(self, stamp_ns: int, names: Sequence[str], positions: Sequence[float]) -> JointSample:
        topic = self.contract.site.joint_states.topic
        if len(names) != len(positions):
            raise ObservationError(f"{topic}: {len(names)} names and {len(positions)} positions")
        by_name = dict(zip(names, positions, strict=True))
        needed = self.contract.model.state_joints
        if absent := [joint for joint in needed if joint not in by_name]:
            raise ObservationError(
                f"{topic}: joint {absent[0]} is absent ({len(absent)} of {len(needed)} are); the message "
                f"names {', '.join(names[:3])} … Check the joint prefix and the publisher."
            )
        for joint in needed:
            if not np.isfinite(by_name[joint]):
                raise ObservationError(f"{topic}: position of {joint} is {by_name[joint]}, a finite number is needed")
        return JointSample(stamp_ns, time.monotonic_ns(), by_name)

    @staticmethod
    def _count_late(stream: Stream, gap_ns: int) -> None:
        """A message that is not newer than the last: the same again, or overtaken by a later one."""
        if gap_ns == 0:
            stream.duplicates += 1
        else:
            stream.out_of_order += 1

    def _restart(self, stream: Stream, stamp_ns: int) -> None:
        """A source whose stamps begin again far in the past was restarted: what it said before is void."""
        if stream.items and stamp_ns < stream.items[-1].stamp_ns - HISTORY_S * NS_PER_S:
            stream.items.clear()

    def _forget(self, stream: Stream) -> None:
        while stream.items[-1].stamp_ns - stream.items[0].stamp_ns > HISTORY_S * NS_PER_S:
            stream.items.popleft()

    # Out

    def newest_common_ns(self) -> int | None:
        """The latest instant that every camera has reached: where a grid of instants can begin."""
        if not all(stream.items for stream in self.cameras.values()):
            return None
        return min(stream.items[-1].stamp_ns for stream in self.cameras.values())

    @property
    def refused_camera(self) -> bool:
        """Whether the newest picture that was looked at of some camera cannot be used."""
        return any(stream.fault for stream in self.cameras.values())

    def covers(self, instant_ns: int) -> bool:
        """Whether every source has said all it will say about the instant."""
        return all(stream.covers(instant_ns) for stream in (*self.cameras.values(), self.joints))

    def standing_for(self, instant_ns: int) -> tuple[dict[str, Frame], JointSample]:
        """What a block would be made of at one instant: a frame of every camera, not decoded, and the joint state.

        Raises:
            MissingObservation: there is no frame or state within the tolerance.
        """
        return {camera: self._frame_at(camera, instant_ns) for camera in self.cameras}, self._state_at(instant_ns)

    def prefetch(self, instants_ns: Iterable[int]) -> None:
        """Decode frames that already stand for one of the instants, so that assembling a block is short.

        Raises:
            ObservationError: an image cannot be decoded or has another size or encoding.
        """
        for instant_ns in instants_ns:
            for camera, stream in self.cameras.items():
                if stream.covers(instant_ns):
                    frame = stream.nearest(instant_ns)
                    if frame and abs(frame.stamp_ns - instant_ns) <= self._frame_tolerance_ns:
                        self._view(camera, frame)

    def block(self, observation_ns: int, offsets_steps: Sequence[int]) -> Block:
        """The block whose frames stand at the offsets (action steps, the last one 0) from the observation instant.

        Raises:
            MissingObservation: an instant has no frame or state within the tolerance.
            ObservationError: an image cannot be used.
        """
        step_ns = NS_PER_S / self.contract.model.action_hz
        return self.block_at([observation_ns + round(offset * step_ns) for offset in offsets_steps])

    def block_at(self, instants_ns: Sequence[int]) -> Block:
        """The block whose frames stand at these instants, the last one the observation instant. Raises as `block`."""
        observation_ns = instants_ns[-1]
        frames = {camera: [self._frame_at(camera, instant_ns) for instant_ns in instants_ns] for camera in self.cameras}
        sample = self._state_at(observation_ns)
        views = {camera: np.stack([self._view(camera, frame) for frame in chosen]) for camera, chosen in frames.items()}
        youngest = max((chosen[-1] for chosen in frames.values()), key=lambda frame: frame.received_monotonic_ns)
        commanded = self.contract.model.commanded_joints
        return Block(
            observation_ns=observation_ns,
            canvas=self.embodiment.canvas(views),
            state=self.embodiment.state(sample.positions),
            positions=np.array([sample.positions[joint] for joint in commanded]),
            frame_stamps_ns={camera: tuple(frame.stamp_ns for frame in chosen) for camera, chosen in frames.items()},
            state_stamp_ns=sample.stamp_ns,
            transport_s=(youngest.received_ns - youngest.stamp_ns) / NS_PER_S,
            complete_monotonic_ns=max(youngest.received_monotonic_ns, sample.received_monotonic_ns),
            images=lambda numbers: {
                camera: np.stack([self.sized(camera, chosen[number].decode()) for number in numbers])
                for camera, chosen in frames.items()
            },
        )

    def troubles(self) -> list[Trouble]:
        """One for every source that has sent nothing, nothing usable, nothing new, or nothing for too long."""
        site = self.contract.site
        found = [
            self._camera_trouble(f"camera {camera}", site.cameras[camera].topic, stream)
            for camera, stream in self.cameras.items()
        ]
        found.append(
            self._trouble(
                "joint states",
                site.joint_states.topic,
                self.joints,
                (Fault.JOINTS_INVALID, Fault.JOINTS_STALE, Fault.JOINTS_STAMPS),
            )
        )
        return [trouble for trouble in found if trouble is not None]

    def _camera_trouble(self, name: str, topic: str, stream: Stream[Frame]) -> Trouble | None:
        names = (Fault.CAMERA_INVALID, Fault.CAMERA_STALE, Fault.CAMERA_STAMPS)
        if (trouble := self._trouble(name, topic, stream, names)) is not None:
            return trouble
        if self.frozen_camera_s and stream.frozen_s > self.frozen_camera_s:
            return Trouble(
                Fault.CAMERA_FROZEN,
                name,
                f"{name}: the same bytes on {topic} over {stream.frozen_s:.1f} s of motion; restart the camera's "
                "driver, or give a new instruction to try again",
            )
        return None

    def _trouble(self, name: str, topic: str, stream: Stream, faults: tuple[Fault, Fault, Fault]) -> Trouble | None:
        invalid, stale, stamps = faults
        silence_s = (time.monotonic_ns() - stream.silent_since_monotonic_ns) / NS_PER_S
        if stream.fault:
            return Trouble(invalid, name, stream.fault)
        if not stream.items:
            return Trouble(stale, name, f"{name}: no message yet on {topic}")
        if silence_s > self.contract.site.tolerances.silence_s:
            return Trouble(stale, name, f"{name}: silent for {silence_s:.1f} s on {topic}")
        if abs(stream.skew_s) > self.contract.site.tolerances.silence_s:
            side = "behind" if stream.skew_s > 0 else "ahead of"
            return Trouble(
                stamps,
                name,
                f"{name}: stamps are {abs(stream.skew_s):.1f} s {side} this node's clock; check clocks and "
                "use_sim_time",
            )
        return None

    @property
    def _frame_tolerance_ns(self) -> int:
        return round(self.contract.site.tolerances.frame_s * NS_PER_S)

    def _frame_at(self, camera: str, instant_ns: int) -> Frame:
        frame = self.cameras[camera].nearest(instant_ns)
        if frame is None or abs(frame.stamp_ns - instant_ns) > self._frame_tolerance_ns:
            gap = (
                "no frame at all"
                if frame is None
                else f"the nearest is {(frame.stamp_ns - instant_ns) / 1e6:+.1f} ms away"
            )
            raise MissingObservation(
                f"camera {camera}: no frame at {instant_ns / NS_PER_S:.3f} s, {gap}, "
                f"tolerance {self._frame_tolerance_ns / 1e6:.1f} ms"
            )
        return frame

    def _state_at(self, instant_ns: int) -> JointSample:
        tolerance_ns = self.contract.site.tolerances.state_s * NS_PER_S
        sample = self.joints.nearest(instant_ns)
        if sample is None or abs(sample.stamp_ns - instant_ns) > tolerance_ns:
            gap = (
                "none at all"
                if sample is None
                else f"the nearest is {(sample.stamp_ns - instant_ns) / 1e6:+.1f} ms away"
            )
            raise MissingObservation(
                f"joint states: none at {instant_ns / NS_PER_S:.3f} s, {gap}, tolerance {tolerance_ns / 1e6:.1f} ms"
            )
        return sample

    def _view(self, camera: str, frame: Frame) -> Image:
        if frame.view is None:
            stream = self.cameras[camera]
            try:
                frame.view = self.embodiment.view(camera, self.sized(camera, frame.decode()))
            except ObservationError as error:
                stream.fault = str(error)
                stream.refused_ns = max(frame.stamp_ns, stream.refused_ns or frame.stamp_ns)
                stream.items.remove(frame)
                raise
            if stream.refused_ns is None or frame.stamp_ns > stream.refused_ns:
                stream.fault, stream.refused_ns = "", None
        return frame.view

    def sized(self, camera: str, image: NDArray) -> Image:
        """The image, if it has the size that the contract's site says. Raises ObservationError."""
        site = self.contract.site.cameras[camera]
        if image.shape != (site.height_px, site.width_px, 3) or image.dtype != np.uint8:
            height, width = image.shape[:2]
            raise ObservationError(
                f"camera {camera}: image is {width} x {height} {image.dtype} with {image.shape[2:]} channels, "
                f"the contract's site says {site.width_px} x {site.height_px} RGB"
            )
        return image
