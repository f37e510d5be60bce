"""What a policy server holds on this machine, and what the way over the socket costs.

A real server process, real sockets, random frames. Three questions:

* :func:`one_robot`: the same chunk from the robot's own worker process and over the wire, asked for in turn, so that
  both see the same machine; the difference of the medians is the cost of the way.
* :func:`held`: robots that ask at the contract's rate, more and more of them, until the next one is refused.
* :func:`memory`: idle sessions with a full memory, and what the process grows by.

And one of the model alone, :func:`batching`: chunks of several sessions denoised one after another and in one batch.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from dreamzero_policy.inference.denoising import denoise_together
from dreamzero_policy.inference.loading import load_policy
from dreamzero_policy.inference.protocol import SESSION_PATH, messages
from dreamzero_policy.inference.protocol.frames import encode_frames
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.worker import WorkerPolicy
from dreamzero_policy.runtime.policy import Reply, Request

START_S = 600.0
JPEG_QUALITY = 90
ENCODINGS = ("raw", "png", "jpeg")
PROMPT = "touch the red cube with the left hand"


class ServerFailed(RuntimeError):  # noqa: N818 (it tells what happened)
    """The server did not start; the message ends with its log."""


@dataclass(frozen=True)
class Server:
    process: psutil.Process
    port: int
    contract: str
    period_s: float
    state_width: int

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}{SESSION_PATH}"


@contextmanager
def serving(checkpoint: Path, threads: int, steps: int | None) -> Iterator[Server]:
    """`dreamzero serve` on a free port. Raises ServerFailed."""
    command = [sys.executable, "-m", "dreamzero_policy.cli.main", "serve", "--checkpoint", str(checkpoint)]
    command += ["--listen", "127.0.0.1:0", "--log", "json", "--threads", str(threads)]
    command += [] if steps is None else ["--steps", str(steps)]
    with tempfile.TemporaryFile("w+") as log:
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(threads))
        process = subprocess.Popen(command, stderr=log, env=environment)
        try:
            port = _ready(process, log)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/contract", timeout=60) as answer:
                document = json.load(answer)
            width = sum(len(group["joints"]) for group in document["state"].values())
            yield Server(psutil.Process(process.pid), port, document["contract"], document["period_s"], width)
        finally:
            process.terminate()
            process.wait()


def _ready(process: subprocess.Popen, log: Any) -> int:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        log.seek(0)
        for line in log:
            if '"event": "ready"' in line:
                return json.loads(line)["port"]
        time.sleep(0.1)
    log.seek(0)
    raise ServerFailed(f"the server did not become ready:\n{log.read()[-2000:]}")


class Client:
    """One robot: asks for a chunk and waits for it."""

    def __init__(self, connection: ClientConnection, server: Server, seed: int) -> None:
        self._connection, self._server = connection, server
        self._random = np.random.default_rng(seed)
        self._block = 0
        self._id = 0
        self.opened: messages.Opened | messages.Error | None = None

    async def open(self, period_s: float) -> messages.Opened | messages.Error:
        ask = messages.Open(id=0, contract=self._server.contract, prompt=PROMPT, epoch=1, period_s=period_s)
        await self._connection.send(messages.encode(ask))
        self.opened = messages.decode_told(await self._connection.recv())
        return self.opened

    def canvas(self) -> np.ndarray:
        """The next block: smooth pictures with noise, as cameras have it."""
        frames = 1 if self._block == 0 else self.opened.frames
        return pictures(self._random, frames, *self.opened.canvas)

    async def chunk(self, canvas: np.ndarray, encoding: str, steps: int) -> messages.Chunk:
        """Raises RuntimeError for anything else."""
        quality = JPEG_QUALITY if encoding == "jpeg" else None
        frames = encode_frames(canvas, encoding, quality)
        number, self._block, self._id = self._block, self._block + 1, self._id + 2
        observe = messages.Observe(
            id=self._id, epoch=1, block=number, stamps_ns=list(range(len(canvas))), frames=frames
        )
        state = np.zeros(self._server.state_width, np.float32)
        predict = messages.Predict(id=self._id + 1, epoch=1, block=number, state=state, steps=steps, seed=number)
        await self._connection.send(messages.encode(observe))
        await self._connection.send(messages.encode(predict))
        for expected in (messages.Observed, messages.Chunk):
            told = messages.decode_told(await self._connection.recv())
            if not isinstance(told, expected):
                raise RuntimeError(f"expected {expected.__name__}, got {told}")
        return told

    async def close(self) -> None:
        """Give the session's rate and memory back."""
        with suppress(ConnectionClosed):
            await self._connection.send(messages.encode(messages.Close(id=self._id + 2)))
            await self._connection.wait_closed()


async def _robot(stack: AsyncExitStack, server: Server, seed: int) -> Client:
    connection = await stack.enter_async_context(
        connect(server.address, compression=None, max_size=None, proxy=None, ping_interval=None)
    )
    client = Client(connection, server, seed)
    stack.push_async_callback(client.close)
    return client


def pictures(random: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [frames, height, width, 3] with the smoothness that makes JPEG and PNG as large as those of a camera."""
    ramp = np.linspace(0, 200, height)[:, None, None] + 40 * np.sin(np.arange(width) / 7)[None, :, None]
    noise = random.normal(0, 3, (frames, height, width, 3))
    return np.clip(ramp + random.uniform(0, 30) + noise, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- the three questions


async def one_robot(server: Server, checkpoint: Path, threads: int, steps: int, chunks: int) -> dict[str, Any]:
    """Time from a block to its chunk, here in a worker process and there, in turn; milliseconds."""
    worker = WorkerPolicy(checkpoint, device="cpu", dtype="auto", threads=threads, steps=steps)
    times: dict[str, list[float]] = {name: [] for name in ("local", *ENCODINGS)}
    sizes: dict[str, int] = {}
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in ENCODINGS}
    equal = True
    try:
        await asyncio.to_thread(worker.wait_until_ready, START_S)
        worker.reset(PROMPT, 1)
        async with AsyncExitStack() as stack:
            robots = {name: await _robot(stack, server, seed=1) for name in ENCODINGS}
            for each in robots.values():
                opened = await each.open(1000.0)
                if isinstance(opened, messages.Error):
                    raise ServerFailed(opened.message)
            for number in range(chunks):
                canvas = robots["raw"].canvas()
                began = time.perf_counter()
                here = await asyncio.to_thread(_local, worker, canvas, server.state_width, steps, number)
                times["local"].append(time.perf_counter() - began)
                for name, each in robots.items():
                    began = time.perf_counter()
                    there = await each.chunk(canvas, name, steps)
                    times[name].append(time.perf_counter() - began)
                    sizes[name] = sum(
                        map(len, encode_frames(canvas, name, JPEG_QUALITY if name == "jpeg" else None).images)
                    )
                    for stage, seconds in there.timings_s.items():
                        stages[name].setdefault(stage, []).append(seconds)
                    if name != "jpeg":
                        equal &= np.array_equal(there.actions, here.actions)
    finally:
        worker.close()
    skip = max(1, chunks // 10)
    kept = {name: values[skip:] for name, values in times.items()}
    local_ms = 1e3 * float(np.median(kept["local"]))
    return {
        "chunks": chunks,
        "local_ms": percentiles(kept["local"]),
        "remote_ms": {name: percentiles(kept[name]) for name in ENCODINGS},
        "added_p50_ms": {name: round(1e3 * float(np.median(kept[name])) - local_ms, 3) for name in ENCODINGS},
        "stages_p50_ms": {
            name: {stage: round(1e3 * float(np.median(values[skip:])), 3) for stage, values in of.items()}
            for name, of in stages.items()
        },
        "block_bytes": sizes,
        "bit_identical": bool(equal),
    }


def _local(worker: WorkerPolicy, canvas: np.ndarray, width: int, steps: int, seed: int) -> Reply:
    worker.submit(Request(1, canvas, np.zeros(width, np.float32), steps, seed, time.monotonic_ns()))
    while (answer := worker.poll()) is None:
        time.sleep(0.0002)
    if not isinstance(answer, Reply):
        raise RuntimeError(f"the worker answered {answer}")
    return answer


async def held(server: Server, counts: Sequence[int], steps: int, seconds: float) -> list[dict[str, Any]]:
    """Robots at the contract's rate, in step apart; for each number the answers' percentiles and those that were late.

    Late is an answer behind the next block. Ends with the number of which one was refused.
    """
    found = []
    for count in counts:
        async with AsyncExitStack() as stack:
            robots = [await _robot(stack, server, seed=number) for number in range(count)]
            refused = [each for each in robots if isinstance(await each.open(server.period_s), messages.Error)]
            if refused:
                found.append({"sessions": count, "refused": refused[0].opened.message})
                return found
            first_s = time.monotonic() + 0.5
            starts_s = [first_s + number * server.period_s / count for number in range(count)]
            runs = await asyncio.gather(
                *(
                    _drive(each, start_s, server.period_s, steps, seconds)
                    for each, start_s in zip(robots, starts_s, strict=True)
                )
            )
            answers = [answer for run in runs for answer in run]
            found.append(
                {
                    "sessions": count,
                    "chunks": len(answers),
                    "chunks_hz": round(len(answers) / seconds, 3),
                    "answer_ms": percentiles(answers),
                    "late": sum(answer > server.period_s for answer in answers),
                }
            )
    return found


async def _drive(robot: Client, start_s: float, period_s: float, steps: int, seconds: float) -> list[float]:
    """Seconds from every block to its chunk; the first two are warming up."""
    answers, due_s = [], start_s
    while due_s < start_s + seconds:
        canvas = robot.canvas()
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await robot.chunk(canvas, "jpeg", steps)
        answers.append(time.monotonic() - due_s)
        due_s += period_s
    return answers[2:]


async def memory(server: Server, count: int, steps: int) -> dict[str, Any]:
    """Growth of the process by idle sessions that have seen a whole window, against what each was promised."""
    async with AsyncExitStack() as stack:
        robots = []
        for number in range(count + 1):
            robots.append(each := await _robot(stack, server, seed=number))
            opened = await each.open(1000.0)
            if isinstance(opened, messages.Error):
                raise ServerFailed(f"session {number + 1} of {count + 1}: {opened.message}")
            for _ in range(3):
                await each.chunk(each.canvas(), "raw", steps)
            if number == 0:  # pays for what all of them use
                before = server.process.memory_info().rss
        grown = server.process.memory_info().rss - before
    return {
        "sessions": count,
        "grown_mb": round(grown / 1e6, 3),
        "session_mb": round(grown / count / 1e6, 3),
        "stated_mb": round(opened.memory_bytes / 1e6, 3),
    }


def batching(checkpoint: Path, threads: int, steps: int | None, counts: Sequence[int], rounds: int) -> list[dict]:
    """Milliseconds of denoising so many chunks alone and together, in turn, and by how much the actions differ."""
    policy = load_policy(checkpoint, dtype="auto", threads=threads)
    random = np.random.default_rng(0)
    geometry = policy.config.geometry
    chunks = []
    for number in range(max(counts)):
        session = Session(policy, PROMPT, steps=steps)
        session.observe(pictures(random, 1, geometry.canvas_height, geometry.canvas_width))
        state = random.uniform(-1, 1, geometry.max_state_dim).astype(np.float32)
        chunks.append(session.denoising(state, seed=number))
    found = []
    with torch.inference_mode():
        for count in counts:
            some, alone_s, together_s = chunks[:count], [], []
            for _ in range(rounds):
                began = time.perf_counter()
                alone = [chunk.run(policy.transformer) for chunk in some]
                between = time.perf_counter()
                together = denoise_together(policy.transformer, some)
                together_s.append(time.perf_counter() - between)
                alone_s.append(between - began)
            pairs = zip(alone, together, strict=True)
            ratios = [a / b for a, b in zip(alone_s, together_s, strict=True)]
            found.append(
                {
                    "chunks": count,
                    "alone_ms": round(1e3 * float(np.median(alone_s)), 3),
                    "together_ms": round(1e3 * float(np.median(together_s)), 3),
                    "gain": round(float(np.median(ratios)), 3),
                    "largest_difference": max(float((a.action - b.action).abs().max()) for a, b in pairs),
                }
            )
    return found


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(1e3 * np.asarray(seconds), [50, 95, 99])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}
