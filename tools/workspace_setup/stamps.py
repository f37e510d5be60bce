"""When a step may be skipped: its stamp holds the hash of everything the step depended on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(*parts: str | bytes) -> str:
    """SHA-256 (hex) over the parts; their borders count, so ("ab", "c") differs from ("a", "bc")."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "little") + raw)
    return total.hexdigest()


def digest_files(root: Path, contents: Iterable[Path], names: Iterable[Path] = ()) -> str:
    """Hash over the contents of some files and the mere presence of others, both by path relative to `root`."""
    parts: list[str | bytes] = []
    for file in sorted(contents):
        parts += [str(file.relative_to(root)), file.read_bytes()]
    parts += ["names", *(str(file.relative_to(root)) for file in sorted(names))]
    return digest(*parts)


class Stamps:
    """One small file a step, in a folder that is deleted together with what the steps made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, step: str) -> str:
        file = self.folder / step
        return file.read_text() if file.is_file() else ""

    def current(self, step: str, value: str) -> bool:
        return self.read(step) == value

    def clear(self, step: str) -> None:
        (self.folder / step).unlink(missing_ok=True)

    def write(self, step: str, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / step).write_text(value)
