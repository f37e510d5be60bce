"""What reading a bag costs: three 640 x 480 JPEG cameras at 30 Hz, made for the purpose, beside rosbags' own iteration.

`instants`: one pass, in which the frames at the contract's instants (every third step) are decoded and aligned.
`canvases`: the same, made canvases. `all_frames`: one pass, in which every frame is decoded and aligned. `plain`: every
message of rosbags' iterator is deserialised and every image decoded, in one thread, and nothing else is done. Peaks of
memory are those of processes that do nothing but make canvases.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

from dreamzero_policy.data.bag_events import BagEvents
from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bag_messages import COMPRESSED
from dreamzero_policy.data.bag_walk import Segment, Step, Walk
from dreamzero_policy.data.bag_writing import BEGIN_S, EpisodeBag
from dreamzero_policy.data.bags import DECODERS, pictures_of
from dreamzero_policy.data.problems import Refused
from dreamzero_policy.data.recordings import picture_steps
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S

WIDTH_PX, HEIGHT_PX, FRAMES_HZ, JOINTS_HZ = 640, 480, 30, 100
PICTURES = 12  # different ones of each camera, shown in turn
QUALITY = 90  # of JPEG
MIB = 1 << 20


def with_large_cameras(contract: Contract) -> Contract:
    """The contract on a site with cameras of 640 x 480 at 30 Hz."""
    size = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX, "rate_hz": float(FRAMES_HZ)}
    cameras = {name: camera.model_copy(update=size) for name, camera in contract.site.cameras.items()}
    return contract.model_copy(update={"site": contract.site.model_copy(update={"cameras": cameras})})


def write(folder: Path, contract: Contract, seconds: float) -> int:
    """A bag of that length; gives its size [bytes]."""
    encoded = {camera: _jpegs(number) for number, camera in enumerate(contract.model.cameras)}
    model, begin_ns = contract.model, BEGIN_S * NS_PER_S
    state, action = np.zeros(len(model.state_joints)), np.zeros(model.action_width)
    with EpisodeBag(folder, contract) as bag:
        bag.command(begin_ns - NS_PER_S, begin_ns, action)
        for tick in range(int(seconds * JOINTS_HZ) + 1):
            instant_ns = begin_ns + tick * NS_PER_S // JOINTS_HZ
            bag.state(instant_ns, state + 0.1 * np.sin(tick / 100))
            for frame in range(-(-(tick * FRAMES_HZ) // JOINTS_HZ), -(-((tick + 1) * FRAMES_HZ) // JOINTS_HZ)):
                for camera, pictures in encoded.items():
                    bag.encoded(begin_ns + frame * NS_PER_S // FRAMES_HZ, camera, pictures[frame % PICTURES])
            if tick % JOINTS_HZ == 0:
                bag.command(instant_ns, instant_ns + NS_PER_S, action + 0.1)
    return sum(file.stat().st_size for file in folder.iterdir())


def measure(
    folder: Path, contract: Contract, minutes: float, rounds: int, said: Callable[[str], None]
) -> dict[str, Any]:
    """Make two bags in `folder`, the second of a quarter of the length, and measure everything in this run."""
    contract = with_large_cameras(contract)
    bags = {"long": folder / "long", "short": folder / "short"}
    seconds = {"long": 60 * minutes, "short": 15 * minutes}
    sizes = {}
    for name, bag in bags.items():
        said(f"making a bag of {seconds[name]:.0f} s …")
        sizes[name] = write(bag, contract, seconds[name])
    ways = {
        "instants": lambda bag: instants(bag, contract),
        "canvases": lambda bag: instants(bag, contract, canvases=True),
        "all_frames": lambda bag: all_frames(bag, contract, DECODERS),
        "all_frames_one_thread": lambda bag: all_frames(bag, contract, 1),
        "plain": plain,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    frames = {}
    for number in range(rounds):
        for name, way in ways.items():
            said(f"round {number + 1} of {rounds}: {name} …")
            began, spent_s = time.perf_counter(), time.process_time()
            frames[name] = way(bags["short"])
            times[name].append((time.perf_counter() - began, time.process_time() - spent_s))
    peaks = {}
    for name, bag in bags.items():
        said(f"memory over {seconds[name]:.0f} s …")
        peaks[name] = _peak_mib(bag, contract)
    wall_s = {name: statistics.median(wall for wall, _ in values) for name, values in times.items()}
    cpu_s = {name: statistics.median(cpu for _, cpu in values) for name, values in times.items()}
    ratio = lambda name: statistics.median(  # noqa: E731
        plain[0] / ours[0] for plain, ours in zip(times["plain"], times[name], strict=True)
    )
    return {
        "seconds": seconds,
        "bytes": sizes,
        "frames": frames,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "realtime_factor": {name: seconds["short"] / wall for name, wall in wall_s.items()},
        "realtime_factor_of_a_core": {name: seconds["short"] / cpu for name, cpu in cpu_s.items()},
        "all_frames_over_plain": ratio("all_frames"),
        "all_frames_over_plain_one_thread": ratio("all_frames_one_thread"),
        "peak_mib": peaks,
        "peak_growth_mib": peaks["long"] - peaks["short"],
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "threads": DECODERS,
        "load_average": list(os.getloadavg()),
    }


def instants(bag: Path, contract: Contract, canvases: bool = False) -> int:
    """Images of the steps at which frames of windows can stand, or canvases; how many frames were decoded."""
    robot = without_statistics(contract)
    spacing = int(picture_steps(contract.model, contract.model.chunk.actions)[1])
    with OpenBag(bag) as opened:
        walk = _walk(opened, contract)
        chosen: Iterator[Step] = (step for step in walk.steps() if step.number % spacing == 0)
        count = 0
        for images in pictures_of(chosen, walk.buffer):
            if canvases:
                robot.picture(images)
            count += len(images)
    return count


def all_frames(bag: Path, contract: Contract, threads: int) -> int:
    """Every step's images."""
    with OpenBag(bag) as opened:
        walk = _walk(opened, contract)
        return sum(len(images) for images in pictures_of(walk.steps(), walk.buffer, threads))


def plain(bag: Path) -> int:
    """What the reader library does by itself."""
    count = 0
    with AnyReader([bag]) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.msgtype == COMPRESSED:
                cv2.cvtColor(cv2.imdecode(message.data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
                count += 1
    return count


def _walk(opened: Any, contract: Contract) -> Walk:
    whole = Segment(opened.path, ("benchmark",), None, None)
    return Walk(BagEvents(opened, contract), [whole], "commands", contract, Refused())


def _jpegs(camera: int) -> list[np.ndarray]:
    """Pictures with as much detail as a room has: smooth noise of several sizes, drifting, with their own grain."""
    rng, found = np.random.default_rng(camera), []
    layers = [rng.uniform(0, 255, (HEIGHT_PX // size, WIDTH_PX // size, 3)) for size in (80, 20, 5)]
    base = sum(cv2.resize(layer, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC) for layer in layers) / 3
    for number in range(PICTURES):
        image = np.roll(base, 8 * number, axis=1) + rng.normal(0, 3, base.shape)
        image = np.clip(image, 0, 255).astype(np.uint8)
        found.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel())
    return found


def _peak_mib(bag: Path, contract: Contract) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (bag, contract))


def _peak(bag: Path, contract: Contract) -> float:
    """The most memory that this process ever held, behind one pass."""
    instants(bag, contract, canvases=True)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MIB
