"""Processes of a run on one machine: started together, watched, measured, and gone afterwards whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dreamzero_policy.runtime.orphans import die_with_parent

STOP_TIMEOUT_S = 8.0
LOG_TAIL_LINES = 12


class ProcessDied(RuntimeError):  # noqa: N818 (it tells what happened)
    """A process of the run ended by itself; the message ends with the last lines of its log."""


@dataclass
class Child:
    name: str
    log: Path
    popen: subprocess.Popen
    peak_rss_mb: dict[str, float] = field(default_factory=dict)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


class Processes:
    """A context in which Python modules run as child processes with their output in log files.

    Children do not see the terminal's Ctrl-C (they are asked to stop in order) and receive SIGTERM from the kernel if
    this process dies first.
    """

    def __init__(self, log_folder: Path, environment: Mapping[str, str]) -> None:
        self._log_folder, self._environment = log_folder, dict(environment)
        self._children: list[Child] = []
        self._started: set[str] = set()
        log_folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
    ) -> None:
        """Run `python -m module`, logging to `<name>.log`, behind what one of the same name has left there."""
        log = self._log_folder / f"{name}.log"
        with log.open("ab" if name in self._started else "wb") as stream:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._started.add(name)
        self._children.append(Child(name, log, popen))

    @property
    def names(self) -> list[str]:
        return [child.name for child in self._children]

    def pid(self, name: str) -> int:
        """Of a child by its name."""
        return self._child(name).popen.pid

    def kill(self, name: str) -> None:
        """SIGKILL, without a word; it is no longer one of the children. Its own children are left alone."""
        child = self._child(name)
        child.popen.kill()
        child.popen.wait()
        self._children.remove(child)

    def release(self, name: str) -> subprocess.Popen:
        """No longer one of the children: its end is the caller's matter. It still ends with this process."""
        child = self._child(name)
        self._children.remove(child)
        return child.popen

    def _child(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def check(self) -> None:
        """Raises:
        ProcessDied: a child is gone.
        """
        for child in self._children:
            if (code := child.popen.poll()) is not None:
                raise ProcessDied(
                    f"{child.name} ended with exit code {code}; the end of {child.log}:\n{child.log_tail()}"
                )

    def measure(self) -> None:
        """Remember the largest resident memory of every child and of its own children."""
        for child in self._children:
            try:
                process = psutil.Process(child.popen.pid)
                family = [
                    (child.name, process),
                    *((f"{child.name}.model", p) for p in process.children(recursive=True)),
                ]
                for name, member in family:
                    megabytes = member.memory_info().rss / 2**20
                    child.peak_rss_mb[name] = max(child.peak_rss_mb.get(name, 0.0), megabytes)
            except psutil.NoSuchProcess:
                continue

    @property
    def peak_rss_mb(self) -> dict[str, float]:
        return {name: megabytes for child in self._children for name, megabytes in child.peak_rss_mb.items()}

    def stop(self) -> None:
        """Ask the children to stop, last started first; end those that do not listen."""
        for child in reversed(self._children):
            _end(child.popen)
        self._children.clear()


def _end(popen: subprocess.Popen) -> None:
    family = [popen.pid]
    if popen.poll() is None:
        family += [p.pid for p in psutil.Process(popen.pid).children(recursive=True)]
        popen.send_signal(signal.SIGINT)
        try:
            popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for pid in family:
        while psutil.pid_exists(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
