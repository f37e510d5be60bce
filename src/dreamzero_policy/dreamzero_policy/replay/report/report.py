"""The report of a replay: every file is written while chunks come, the page at the end.

report.html      one page with everything to look at; it loads nothing
film.mp4         recorded, predicted and their difference, as in the page
chunks.parquet, steps.parquet     the numbers of replay.json and chunks.jsonl
foxglove.mcap    pictures, joints, chunks, surprise for Foxglove
replay.rrd       the same for Rerun, where it is asked for
"""

from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.replay.kept import Kept
from dreamzero_policy.replay.report import curves, page, tables
from dreamzero_policy.replay.report.film import Film, Moments
from dreamzero_policy.replay.report.foxglove import ERROR, WARNING, FoxgloveFile
from dreamzero_policy.replay.report.rerun_file import RerunFile, library
from dreamzero_policy.runtime.contract import ModelSection
from dreamzero_policy.runtime.observation import NS_PER_S

PAGE = "report.html"


class Report:
    """Listens to the results of one replay."""

    def __init__(self, folder: Path, model: ModelSection, bag: Path, rerun: bool = False) -> None:
        """Raises RerunMissing."""
        if rerun:
            library()
        self._folder, self._model, self._bag, self._rerun = folder, model, bag, rerun
        self._horizon, self._moments = curves.Horizon(model), Moments(model)
        self._before: Kept | None = None  # its rows end where the next chunk takes over

    def begin(self, seconds: float) -> None:
        """Open the files: the recording can be read."""
        folder, model = self._folder, self._model
        folder.mkdir(parents=True, exist_ok=True)
        self._steps = tables.StepsFile(folder, model.commanded_joints)
        self._film = Film(folder, model, self._moments.period_ns, seconds)
        self._viewers: list[FoxgloveFile | RerunFile] = [FoxgloveFile(folder, model.commanded_joints)]
        if self._rerun:
            self._viewers.append(RerunFile(folder, model, self._bag.name))

    def add(self, kept: Kept) -> None:
        self._steps.add(kept)
        self._horizon.add(kept.positions, {"commands": kept.commands, "states": kept.states})
        for moment in self._moments.add(kept):
            self._film.add(moment)
            for viewer in self._viewers:
                viewer.moment(moment)
        for viewer in self._viewers:
            viewer.chunk(kept)
        self._tell_rows(kept.instants_ns[0])
        self._before = kept

    def finish(self, document: dict[str, Any]) -> None:
        """Complete every file. `document` is what `replay.json` says."""
        self._tell_rows(None)
        self._film.close()
        tables.write_chunks(self._folder, document["chunks"])
        about = page.made_with(document)
        for viewer in self._viewers:
            for problem in document["problems"]["named"]:
                level = ERROR if problem["kind"] == "damage" else WARNING
                viewer.log(round(problem["time_s"] * NS_PER_S), level, f"{problem['topic']}: {problem['problem']}")
            viewer.close(about)
        every, columns = tables.thinned(self._steps.close(), curves.MOST_ROWS)
        begin_ns, model = round(document["begin_s"] * NS_PER_S), self._model
        drawn = {
            "chunks": curves.chunks(document["chunks"], document["begin_s"], model.chunk.actions * model.step_s),
            "motion": curves.joints(columns, model, begin_ns),
            "every": every,
            "horizon": self._horizon.as_dict(model.step_s),
            "film": {
                "begin": ((self._film.begin_ns or begin_ns) - begin_ns) / NS_PER_S,
                "pictures": self._film.pictures,
            },
        }
        (self._folder / PAGE).write_text(page.page(document, drawn, self._film), encoding="utf-8")

    def _tell_rows(self, until_ns: int | None) -> None:
        """The newest chunk's rows up to where another takes over, and what was recorded then."""
        kept, self._before = self._before, None
        if kept is None:
            return
        instants = np.array(kept.instants_ns)
        rows = slice(0, len(instants) if until_ns is None else int(np.searchsorted(instants, until_ns)))
        told = {"measured": kept.states, "commanded": kept.commands}
        if kept.start_ns:
            told["predicted"] = np.where((instants >= kept.start_ns)[:, None], kept.positions, np.nan)
        for name, values in told.items():
            if values is not None:
                for viewer in self._viewers:
                    viewer.rows(name, kept.instants_ns[rows], values[rows])
