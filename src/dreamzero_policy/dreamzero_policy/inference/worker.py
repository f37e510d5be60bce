"""The worker: a model's session in a process of its own, so that no callback ever waits for a tensor.

`WorkerPolicy` is the parent's side and imports no torch; it is a `runtime.policy.Policy`. The child is this module run as a
program: it loads a checkpoint, warms up, says what it is, then serves one session over a socket pair. The child ends when
the parent's end of the socket closes, however the parent died.
"""

import argparse
import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from dreamzero_policy.runtime.policy import Dream, Failure, Reply, Request

STOP_TIMEOUT_S = 3.0


class WorkerError(RuntimeError):
    """The worker did not become ready; the message is the child's own."""


@dataclass(frozen=True)
class Ready:
    """What the child loaded."""

    checkpoint_hash: str
    parameters: int
    device: str
    dtype: str
    threads: int
    guidance_scale: float
    warm_up_s: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Reset:
    prompt: str
    epoch: int


class WorkerPolicy:
    """A policy in a child process."""

    def __init__(self, checkpoint: Path, *, device: str, dtype: str, threads: int, steps: int, seed: int) -> None:
        """Start the child; it loads and warms up in the background. Fetch the outcome with `wait_until_ready`."""
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        command = [sys.executable, "-m", "dreamzero_policy.inference.worker", "--socket", str(theirs.fileno()),
                   "--checkpoint", str(checkpoint), "--device", device, "--dtype", dtype, "--threads", str(threads),
                   "--steps", str(steps), "--seed", str(seed)]
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(threads))
        # A session of its own: Ctrl-C reaches the parent only, which then closes the socket.
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))
        self._answers: queue.SimpleQueue[Ready | Reply | Dream | Failure] = queue.SimpleQueue()
        self._notify: Callable[[], None] = lambda: None
        self._listener = threading.Thread(target=self._listen, name="worker-listener", daemon=True)
        self._listener.start()

    def wait_until_ready(self, timeout_s: float, interrupted: Callable[[], bool] = lambda: False) -> Ready:
        """Block until the child has loaded and warmed up.

        Raises:
            WorkerError: the child failed, died, took longer than `timeout_s`, or `interrupted()` became true.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if interrupted():
                raise WorkerError("interrupted while the model was loading")
            try:
                message = self._answers.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(message, Ready):
                return message
            raise WorkerError(message.message)
        raise WorkerError(f"the model was not ready after {timeout_s:.0f} s")

    def when_answered(self, notify: Callable[[], None]) -> None:
        """Call `notify` (from another thread) whenever `poll` has something new."""
        self._notify = notify

    def reset(self, prompt: str, epoch: int) -> None:
        self._send(Reset(prompt, epoch))

    def submit(self, request: Request) -> None:
        self._send(request)

    def poll(self) -> Reply | Dream | Failure | None:
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the child: it leaves by itself when the socket closes, and is killed if it does not."""
        self._notify = lambda: None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._connection.close()
        self._socket.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: Reset | Request) -> None:
        # A child that is gone is reported by the listener, with its exit code; there is nothing to add here.
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                self._answers.put(self._connection.recv())
                self._notify()
        except (EOFError, OSError):
            self._answers.put(Failure(f"the model's process ended (exit code {self._exit_code()})"))
            self._notify()

    def _exit_code(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(STOP_TIMEOUT_S)
        return None


# The child


def serve(connection: Connection, arguments: argparse.Namespace) -> None:
    """Load, warm up, then answer until the parent closes its end."""
    from dreamzero_policy.inference.loading import load_policy
    from dreamzero_policy.inference.session import Session

    policy = load_policy(Path(arguments.checkpoint), device=arguments.device, dtype=arguments.dtype,
                         threads=arguments.threads)
    began = time.monotonic()
    policy.warm_up(arguments.steps)
    connection.send(Ready(checkpoint_hash=policy.hash, parameters=policy.parameters, device=arguments.device,
                          dtype=arguments.dtype, threads=arguments.threads, guidance_scale=policy.guidance_scale,
                          warm_up_s=time.monotonic() - began, versions=policy.versions))
    session: Session | None = None
    epoch = 0
    while True:
        message = connection.recv()
        if isinstance(message, Reset):
            session = Session(policy, message.prompt, steps=arguments.steps, seed=arguments.seed)
            epoch = message.epoch
        elif session is not None and message.epoch == epoch:
            received = time.monotonic()
            session.observe(message.canvas)
            prediction = session.predict(message.state, steps=message.steps, seed=message.seed)
            timings_s = dict(prediction.timings_s, model=time.monotonic() - received)
            connection.send(Reply(epoch=epoch, actions=prediction.actions, steps=prediction.steps,
                                  evaluations=prediction.evaluations, seed=prediction.seed,
                                  guidance_scale=policy.guidance_scale, timings_s=timings_s))
            if message.dream and not connection.poll(0):
                connection.send(Dream(epoch=epoch, canvas=session.decode(prediction)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    connection = Connection(arguments.socket)
    try:
        serve(connection, arguments)
    except (EOFError, ConnectionError):
        pass  # the parent closed its end: the normal way to stop
    except Exception as error:
        traceback.print_exc()
        connection.send(Failure(f"{type(error).__name__}: {error}"))
        sys.exit(1)


if __name__ == "__main__":
    main()
