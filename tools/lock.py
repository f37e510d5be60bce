"""Writes requirements.lock: every package of requirements.in and everything they need, pinned for Python 3.10 to 3.13.

For maintainers, with network: `python tools/lock.py python3.10 python3.11 python3.12 python3.13`, with plain
interpreters whose pip is the one to pin. Each resolves requirements.in with its own pip, without installing anything;
pins that are already in requirements.lock are kept unless `--upgrade` is given. Their answers become one file: what all
agree on stands once, the rest with a marker. What a default build of torch alone needs (CUDA) is pinned as well; the
set-up uses the file as constraints, so a CPU installation does not fetch it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
LOCK = TOOLS / "requirements.lock"


def resolve(python: str, constraints: Path | None) -> dict[str, dict[str, str]]:
    """Name -> version and address of every package that `python` would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            python,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--report",
            str(report),
        ]
        command += ["-r", str(TOOLS / "requirements.in")] + (["-c", str(constraints)] if constraints else [])
        subprocess.run(command, check=True)
        chosen = json.loads(report.read_text())["install"]
    return {
        package["metadata"]["name"].lower().replace("_", "-"): {
            "version": package["metadata"]["version"],
            "url": package["download_info"]["url"].split("#")[0],
        }
        for package in chosen
    }


def size_mb(url: str) -> float:
    """Size of a distribution file [MB], by its address."""
    if url.startswith("file:"):
        return os.path.getsize(urllib.request.url2pathname(urllib.parse.urlparse(url).path)) / 1e6
    head = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(head, timeout=60) as answer:
        return int(answer.headers["Content-Length"]) / 1e6


def total_mb(packages: dict[str, dict[str, str]]) -> float:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(size_mb, (package["url"] for package in packages.values())))


def version_of(python: str) -> str:
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def lock_lines(answers: dict[str, dict[str, str]]) -> list[str]:
    """Pins, one a line, from Python version -> name -> version; a marker where the Pythons differ.

    A Python that does not need a package gets the pin of the next older one that does: it is not asked for there,
    except by another build of torch.
    """
    lines = []
    pythons = sorted(answers, key=lambda python: [int(part) for part in python.split(".")])
    for name in sorted({name for answer in answers.values() for name in answer}):
        runs: list[tuple[str, str]] = []  # first Python of the run, version
        for python in pythons:
            version = answers[python].get(name, "").split("+")[0]
            if version and (not runs or runs[-1][1] != version):
                runs.append((python, version))
        for number, (first, version) in enumerate(runs):
            bounds = [f'python_version >= "{first}"'] if number > 0 else []
            bounds += [f'python_version < "{runs[number + 1][0]}"'] if number + 1 < len(runs) else []
            lines.append(f"{name}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="+", help="one interpreter of each supported version")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions requirements.in allows")
    asked = parser.parse_args()
    kept = LOCK if LOCK.exists() and not asked.upgrade else None
    torch = next(
        line.split("==")[1]
        for line in (TOOLS / "requirements.in").read_text().splitlines()
        if line.startswith("torch==")
    )
    answers, cpu_mb, default_mb = {}, 0.0, 0.0
    for python in asked.python:
        version = version_of(python)
        packages = resolve(python, kept)
        answers[version] = {name: package["version"] for name, package in packages.items()}
        if packages["torch"]["version"] != torch:  # the index offers a CPU build to this Python
            cpu_mb = max(cpu_mb, total_mb(packages))
        else:
            default_mb = max(default_mb, total_mb(packages))
        print(f"Python {version}: {len(packages)} packages")
    LOCK.write_text(
        "# Written by tools/lock.py from requirements.in: every package, pinned, for Python 3.10 to 3.13 on x86-64.\n"
        f"# Download: {cpu_mb:.0f} MB with the CPU build of torch, {default_mb:.0f} MB with its default build (CUDA).\n"
        + "\n".join(lock_lines(answers))
        + "\n"
    )
    print(f"{LOCK}: {cpu_mb:.0f} MB with a CPU build of torch, {default_mb:.0f} MB with the default build")


if __name__ == "__main__":
    main()
