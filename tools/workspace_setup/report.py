"""What a person sees of the set-up, and where the rest is written: step lines, one live status line, one log file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

NOTE_EVERY_S = 15.0  # how often a run without a terminal says that it is alive


class SetupError(Exception):
    """The set-up cannot go on; the message says what is wrong and what to do, in one line."""


class Report:
    """Numbered steps on standard output; the output of every command in `log_path`."""

    def __init__(self, log_path: Path, steps: int) -> None:
        self.log_path = log_path
        self.steps = steps
        self.step = 0
        self.title = ""
        self.step_started = time.monotonic()
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log = log_path.open("a", encoding="utf-8", errors="replace")
        self.log.write(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S')}\n")

    def begin(self, title: str) -> None:
        self.step += 1
        self.title = title
        self.step_started = time.monotonic()
        self.say(f"[{self.step}/{self.steps}] {title}")

    def say(self, line: str) -> None:
        print(("\r\033[K" if self.live else "") + line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def done(self) -> None:
        self.say(f"[{self.step}/{self.steps}] {self.title}: done in {time.monotonic() - self.step_started:.0f} s")

    def run(
        self,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], str | None] = lambda line: None,
        status: str = "",
    ) -> int:
        """Run a command and return its exit status; its output goes to the log only.

        `on_line` sees every line of output and may return a new status to show beside the elapsed time.
        """
        self.log.write("$ " + " ".join(command) + "\n")
        self.log.flush()
        ticker = _Ticker(self, status)
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith("Progress "):  # pip's byte counts, thousands of them
                    self.log.write(line)
                ticker.status = on_line(line) or ticker.status
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            ticker.stop()
            self.log.flush()


class _Ticker(threading.Thread):
    """Keeps the live line moving while a command works, or says now and then that it still does."""

    def __init__(self, report: Report, status: str) -> None:
        super().__init__(daemon=True)
        self.report, self.status = report, status
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        period_s = 0.2 if self.report.live else NOTE_EVERY_S
        while not self.ended.wait(period_s):
            elapsed_s = time.monotonic() - self.report.step_started
            line = f"      {elapsed_s:4.0f} s  {self.status}"
            if self.report.live:
                print("\r\033[K" + line[:110], end="", flush=True)
            else:
                print(line, flush=True)

    def stop(self) -> None:
        self.ended.set()
        self.join()
        if self.report.live:
            print("\r\033[K", end="", flush=True)
