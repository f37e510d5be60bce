"""What a training says while it runs: a bar on a terminal, plain lines elsewhere, curves for TensorBoard.

Numbers between two reports are averaged. Processes beside the first say nothing.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_FOLDER = "tensorboard"


class Stage:
    """One stage of so many steps, of which some may be done already."""

    def __init__(self, reporter: "Reporter", name: str, steps: int, done: int, bar: Progress | None) -> None:
        self._reporter, self._name, self._steps, self._bar = reporter, name, steps, bar
        self._task: TaskID | None = None if bar is None else bar.add_task(name, total=steps, completed=done, numbers="")
        self._began, self._first = time.monotonic(), done
        self._sums: dict[str, tuple[float, int]] = {}
        self._reported = (self._began, done)

    def note(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """Step `step` of the stage is done."""
        for key, number in (numbers or {}).items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + number, count + 1)
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        if step % self._reporter.every == 0 or step == self._steps or step == self._first + 1:
            self._report(step)

    def _report(self, step: int) -> None:
        now = time.monotonic()
        since, before = self._reported
        rate = (step - before) / max(1e-9, now - since)
        means = {key: total / count for key, (total, count) in self._sums.items()}
        self._sums, self._reported = {}, (now, step)
        self._reporter.curves(self._name, step, {**means, "steps_per_second": rate})
        words = "  ".join(f"{key} {number:.4g}" for key, number in means.items())
        if self._bar is not None:
            self._bar.update(self._task, numbers=f"{words}  {rate:.3g}/s")
            return
        overall = (step - self._first) / max(1e-9, now - self._began)
        left_s = (self._steps - step) / overall if overall else math.nan
        self._reporter.say(f"{self._name} {step}/{self._steps}  {words}  {rate:.3g}/s  {duration(left_s)} left")


class Reporter:
    """Where a run reports: a console (None is silence) and a folder for curves (None is none)."""

    def __init__(self, console: Console | None = None, folder: Path | None = None, every: int = 20) -> None:
        self.console, self.every = console, every
        self._folder, self._writer = folder, None

    def say(self, text: str) -> None:
        """One line."""
        if self.console is not None:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, steps: int, done: int = 0) -> Iterator[Stage]:
        """Follow a stage."""
        if self.console is None or not self.console.is_terminal:
            yield Stage(self, name, steps, done, None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[numbers]}"), console=self.console) as bar:
            yield Stage(self, name, steps, done, bar)

    def curves(self, name: str, step: int, numbers: Mapping[str, float]) -> None:
        """Points of curves, and on disk at once."""
        if self._folder is None:
            return
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter  # its import takes a second
            except ImportError:
                self.say("the package tensorboard is not installed: no curves are written")
                self._folder = None
                return
            self._writer = SummaryWriter(str(self._folder / LOG_FOLDER))
        for key, number in numbers.items():
            self._writer.add_scalar(f"{name}/{key}", number, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s"
