"""The worker's process: load a checkpoint, warm up, say what it is, then serve a robot until the parent is gone."""

import argparse
import gc
import hashlib
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dreamzero_policy.inference.loading import load_policy
from dreamzero_policy.inference.mailbox import Imagine, Reset
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.worker import Ready
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE
from dreamzero_policy.runtime.policy import Dream, Failure, Surprise

MEASURED_LATER = (CALIBRATION_FILE, "README.md")


def serve(connection: Connection, arguments: argparse.Namespace) -> None:
    """Load, warm up, then answer until the parent closes its end."""
    checkpoint = Path(arguments.checkpoint)
    policy = load_policy(
        checkpoint,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=arguments.threads,
        tokenizer_path=arguments.tokenizer,
        base=arguments.base,
    )
    steps = policy.config.sampler.steps if arguments.steps is None else arguments.steps
    warm_up_s = sum(policy.warm_up(steps).values())
    gc.collect()
    gc.freeze()  # a full collection over everything torch has loaded would take longer than a chunk
    sessions = Sessions(policy)
    epoch: int | None = None
    connection.send(
        Ready(
            checkpoint_hash=checkpoint_hash(checkpoint),
            parameters=sum(policy.parameters.values()),
            device=arguments.device,
            dtype=str(policy.dtype).removeprefix("torch."),
            threads=arguments.threads,
            guidance_scale=policy.config.sampler.cfg_scale,
            steps=steps,
            warm_up_s=warm_up_s,
        )
    )
    while True:
        message = connection.recv()
        if isinstance(message, Reset):
            sessions.reset(message.prompt)
            epoch, reset_at_ns = message.epoch, time.monotonic_ns()
        elif message.epoch != epoch:
            continue
        elif isinstance(message, Imagine):
            if not connection.poll(0) and (canvas := sessions.dream()) is not None:
                connection.send(Dream(epoch, canvas))
        else:
            waited_s = max(0, reset_at_ns - message.sent_monotonic_ns) / 1e9
            connection.send(sessions.answer(message, waited_s))
            if (cells := sessions.surprise()) is not None:
                connection.send(Surprise(epoch, cells))


def failure(error: Exception) -> Failure:
    """What the parent is told of an exception that ends the service."""
    text = f"{type(error).__name__}: {error}"
    # On a CPU torch raises a plain RuntimeError that names its allocator.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
        text = f"the model ran out of memory: {text}"
    return Failure(text)


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 (hex) over the names and contents of all files of a checkpoint, but for what was measured of it later:
    what surprise is normal, and the model card."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in MEASURED_LATER):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--base")
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    keep_freed_memory()
    connection = Connection(arguments.socket)
    try:
        serve(connection, arguments)
    except (EOFError, ConnectionError):
        pass  # the parent closed its end: the normal way to stop
    except Exception as error:
        connection.send(failure(error))
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
