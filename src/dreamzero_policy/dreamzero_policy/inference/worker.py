"""The worker: a model's sessions in a process of its own, so that no callback ever waits for a tensor.

`WorkerPolicy` is the parent's side and imports no torch; it is a `runtime.policy.Policy`. The child's side is
`worker_process.py`. They talk over a socket pair; the child ends when the parent's end closes, however the parent died.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from dreamzero_policy.inference.mailbox import Ask, Mailbox, WorkerError
from dreamzero_policy.runtime.policy import Failure

SOCKET_BUFFER = 4 << 20  # bytes; the system may grant less
EXIT_TIMEOUT_S = 3.0  # from the end of the conversation to the exit code


@dataclass(frozen=True)
class Ready:
    """What the child loaded."""

    checkpoint_hash: str
    parameters: int
    device: str
    dtype: str
    threads: int
    guidance_scale: float
    steps: int  # of the solver
    warm_up_s: float


class WorkerPolicy(Mailbox):
    """A policy in a child process."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        device: str,
        dtype: str,
        threads: int,
        steps: int | None,
        tokenizer: Path | None = None,
        base: Path | None = None,
    ) -> None:
        """Start the child; it loads and warms up in the background. Fetch the outcome with `wait_until_ready`.

        `steps` of the solver are warmed up; None: as many as the checkpoint says, which `Ready` tells.
        """
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):  # a whole request fits, so that nobody is woken for a piece of it
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        theirs.set_inheritable(True)
        command = [
            sys.executable,
            "-m",
            "dreamzero_policy.inference.worker_process",
            "--socket",
            str(theirs.fileno()),
            "--checkpoint",
            str(checkpoint),
            "--device",
            device,
            "--dtype",
            dtype,
            "--threads",
            str(threads),
        ]
        if steps is not None:
            command += ["--steps", str(steps)]
        for option, path in (("--tokenizer", tokenizer), ("--base", base)):
            if path is not None:
                command += [option, str(path)]
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(threads))
        # A session of its own: Ctrl-C reaches the parent only, which then closes the socket.
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        theirs.close()
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))
        self._outbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        super().__init__(self._outbox.put)
        self._speaker = threading.Thread(target=self._speak, name="worker-speaker", daemon=True)
        self._speaker.start()
        self._listener = threading.Thread(target=self._listen, name="worker-listener", daemon=True)
        self._listener.start()

    def wait_until_ready(self, timeout_s: float, interrupted: Callable[[], bool] = lambda: False) -> Ready:
        """Block until the child has loaded and warmed up.

        Raises:
            WorkerError: the child failed, died, took longer than `timeout_s`, or `interrupted()` became true.
        """
        for message in self._heard(timeout_s, interrupted, "the model was loading"):
            if isinstance(message, Ready):
                return message
            raise WorkerError(message.message)
        raise WorkerError(f"the model was not ready after {timeout_s:.0f} s")

    def close(self) -> None:
        """End the child. It holds nothing that would have to be saved, so it is not waited for."""
        self._notify = lambda: None
        self.process.kill()  # one that hangs or is stopped does not hear SIGTERM
        self._socket.shutdown(socket.SHUT_RDWR)
        self._outbox.put(None)
        self._listener.join()
        self._speaker.join()
        self.process.wait()
        self._connection.close()
        self._socket.close()

    def _speak(self) -> None:
        # In a thread, since a large request waits in the socket for a child that is busy. A child that is gone is
        # reported by the listener, with its exit code; there is nothing to add here.
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)

    def _listen(self) -> None:
        try:
            while True:
                self._tell(self._connection.recv())
        except (EOFError, OSError):
            self._tell(Failure(_obituary(self._exit_code())))

    def _exit_code(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(EXIT_TIMEOUT_S)
        return None


def _obituary(exit_code: int | None) -> str:
    text = f"the model's process ended (exit code {exit_code})"
    if exit_code == -signal.SIGKILL:
        text += ": killed; if nobody did it, the system had run out of memory"
    return text
