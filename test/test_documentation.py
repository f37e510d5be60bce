"""Every command line that the documentation prints exists: programs, options, arguments, parameters, and links."""

import itertools
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from dreamzero_policy.cli.main import app

from .launch_files.stand_in import ROOT, SHARES, Run
from .launch_files.test_launch_files import executables, known_parameters

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("checkpoints/*/README.md"))]
PROGRAMS = ("ros2", "dreamzero", "make", "python", "colcon")
FOREIGN = {"joy"}  # packages that are not ours and are run by hand
# Modules that a ROS installation has, and pip: asking whether it is there takes the distutils of setuptools from this
# process (`spec_for_pip` in its _distutils_hack), which torch then needs to compile.
ELSEWHERE = {"launch_testing.launch_test", "pip"}
# Of the ros2 command line: the verbs that the pages use, as of Jazzy.
VERBS = {
    "action": {"send_goal", "info", "list"},
    "bag": {"record", "play", "info"},
    "control": {"list_controllers", "switch_controllers", "list_hardware_components", "list_hardware_interfaces"},
    "interface": {"show"},
    "lifecycle": {"set", "get"},
    "param": {"get", "set", "dump"},
    "pkg": {"prefix"},
    "security": {"create_keystore", "generate_artifacts", "generate_policy"},
    "service": {"call", "list"},
    "topic": {"echo", "hz", "info", "list", "pub"},
}


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every command of ours: lines of shell blocks, and code in sentences that begins with a program."""
    text = page.read_text()
    blocks = re.findall(r"^ *```(?:bash|sh|shell)\n(.*?)^ *```", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if " " in code]
    for line in lines:
        try:
            words = shlex.split(line.replace("…", "..."), comments=True)
        except ValueError:  # a piece of a sentence with an apostrophe
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0].removeprefix(".venv/bin/") in PROGRAMS:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def check(words: list[str]) -> str:
    """What is wrong with a command; empty if nothing is known to be."""
    match words:
        case ["ros2", "launch", package, file, *arguments]:
            return launch_trouble(package, file, arguments)
        case ["ros2", "run", package, executable, *arguments]:
            return run_trouble(package, executable, arguments)
        case ["ros2", verb, word, *_]:
            return "" if word in VERBS.get(verb, ()) or word.startswith("-") else f"ros2 {verb} {word}"
        case ["python", "-m", module, *_]:
            return "" if module in ELSEWHERE or find_spec(module) is not None else f"no module {module}"
        case ["make", target, *_]:
            phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
            return "" if target in phony or "=" in target else f"no target {target}"
        case ["dreamzero", *rest]:
            return dreamzero_trouble(rest)
    return ""


def launch_trouble(package: str, file: str, arguments: list[str]) -> str:
    path = SHARES.get(package, Path("nowhere")) / "launch" / file
    if not path.is_file():
        return f"no {path}"
    given = dict(argument.split(":=", 1) for argument in arguments if ":=" in argument)
    if "hardware" in Run(path).context.declared and "hardware" not in given:
        given["hardware"] = "mock"
    declared = Run(path, given).context.declared  # of the files that it includes too
    unknown = [name for name in given if name not in declared]
    options = [argument for argument in arguments if argument.startswith("-") and argument != "--show-args"]
    return f"{unknown} {options} are no arguments of {file}" if unknown or options else ""


def run_trouble(package: str, executable: str, arguments: list[str]) -> str:
    if package in FOREIGN:
        return ""
    if package not in SHARES or executable not in executables(package):
        return f"no {executable} in {package}"
    node = type("Named", (), {"executable": executable})
    named = [argument.partition(":=")[0] for flag, argument in itertools.pairwise(arguments) if flag == "-p"]
    known = known_parameters(node)
    return "" if known is None or set(named) <= known else f"{named}: {executable} has {sorted(known)}"


def dreamzero_trouble(words: list[str]) -> str:
    command, words = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-") or words[0] in ("SUB", "..."):
            return ""
        if words[0] not in command.commands:
            return f"dreamzero has no {words[0]}"
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options | {"--help"}]
    return f"{command.name} has no {unknown}" if unknown else ""


@pytest.fixture(autouse=True)
def distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_exists(page: Path) -> None:
    troubles = {" ".join(words): trouble for words in commands(page) if (trouble := check(words))}
    assert not troubles


def test_command_lines_are_found_at_all() -> None:
    programs = [words[0] for page in PAGES for words in commands(page)]
    assert all(programs.count(program) > 3 for program in ("ros2", "dreamzero", "make", "python"))


@pytest.mark.parametrize(
    "wrong",
    [
        "ros2 launch dreamzero robot.launch.py hardware:=mock deadmann:=none",
        "ros2 launch dreamzero robots.launch.py",
        "ros2 run agibot_bringup gohome",
        "ros2 run agibot_bringup safety_gate --ros-args -p engage:=1.0",
        "ros2 topic listen /clock",
        "python -m agibot_bringup.safety_gate.benchmark",
        "make tests",
        "dreamzero bench motions",
        "dreamzero eval --sweet both",
    ],
)
def test_a_command_line_that_does_not_exist_is_found(wrong: str) -> None:
    assert check(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in slugs, target


def test_the_index_names_every_page_once() -> None:
    index = ROOT / "docs" / "README.md"
    linked = re.findall(r"\]\(([^)#]+\.md)\)", index.read_text())
    assert sorted(linked) == sorted(str(page.relative_to(index.parent)) for page in index.parent.glob("*/*.md"))
