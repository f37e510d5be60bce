"""`dreamzero data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json

if TYPE_CHECKING:
    from dreamzero_policy.data.bags import BagReading
    from dreamzero_policy.data.lerobot.reader import Matching

DATA_FORMS = ("lerobot", "views")

data = typer.Typer(no_args_is_help=True, help="Demonstrations: LeRobot data sets, bags, views.")

DataContract = Annotated[Path | None, typer.Option("--contract", help="Contract file; the shipped one by default.")]
DataActions = Annotated[
    str, typer.Option("--actions", help="Of bags: commands (joint trajectories) or next_state (joint states).")
]
DataInstruction = Annotated[str, typer.Option("--instruction", help="Of bags: what was done, where they do not say.")]
DataRename = Annotated[
    list[str] | None,
    typer.Option("--rename", help="Of LeRobot: THEIRS=OURS, a joint, group or camera; repeat for several."),
]
DataUnit = Annotated[
    list[str] | None, typer.Option("--unit", help="Of LeRobot: OURS=deg, unit of a joint or group where it differs.")
]
DataAnyContract = Annotated[
    bool,
    typer.Option("--any-contract", help="Of LeRobot: take another contract's data by names of joints and cameras."),
]


@data.command("inspect")
def data_inspect(
    folder: Annotated[Path, typer.Argument(help="LeRobot data set, bag, folder of bags, or folder of views.")],
    contract: DataContract = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every number and picture, and name each problem.")
    ] = False,
    actions: DataActions = "commands",
    instruction: DataInstruction = "",
    rename: DataRename = None,
    unit: DataUnit = None,
    any_contract: DataAnyContract = False,
    json: Json = False,
) -> None:
    """What a data set is: form, size, cameras, joints, instructions, contract fit. Exit code 1 if --check finds any."""
    from dreamzero_policy.cli import data as room

    console = console_for(json)
    with one_line(console):
        given = room.contract_of(contract)
        choices = _data_choices(actions, instruction, rename, unit, any_contract)
        document = room.inspect_data(folder, given, *choices, check, console)
    if json:
        print_json(document)
    else:
        room.report(document, console)
    if document["problems"]:
        raise typer.Exit(1)


@data.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="LeRobot data set, bag, folder of bags, or folder of views.")],
    destination: Annotated[Path, typer.Argument(help="Folder; episodes that it holds already are left alone.")],
    to: Annotated[str, typer.Option(help="lerobot (v3.0, raw images) or views (compact, for training).")],
    contract: DataContract = None,
    actions: DataActions = "commands",
    instruction: DataInstruction = "",
    rename: DataRename = None,
    unit: DataUnit = None,
    any_contract: DataAnyContract = False,
    trim: Annotated[
        bool, typer.Option("--trim", help="To views: cut the idle start and end of every episode.")
    ] = False,
) -> None:
    """Write a data set in another form. An interrupted run is continued by the same command."""
    from dreamzero_policy.cli import data as room

    if to not in DATA_FORMS:
        raise typer.BadParameter(f"--to is {to}; expected {' or '.join(DATA_FORMS)}")
    if trim and to != "views":
        raise typer.BadParameter("--trim goes with --to views: a LeRobot data set keeps everything")
    console = console_for(False)
    with one_line(console):
        given = room.contract_of(contract)
        choices = _data_choices(actions, instruction, rename, unit, any_contract)
        written, there = room.convert_data(source, destination, to, given, *choices, trim, console)
    console.print(f"wrote {written} episodes, {destination} holds {there}", markup=False)


def matching_of(rename: list[str] | None, unit: list[str] | None, any_contract: bool) -> "Matching":
    """Names and units of a foreign data set. Raises typer.BadParameter."""
    from dreamzero_policy.cli import data as room

    try:
        return room.matching_of(rename or [], unit or [], any_contract)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _data_choices(
    actions: str, instruction: str, rename: list[str] | None, unit: list[str] | None, any_contract: bool
) -> tuple["Matching", "BagReading"]:
    from dreamzero_policy.cli import data as room

    if actions not in room.ACTIONS:
        raise typer.BadParameter(f"--actions is {actions}; expected {' or '.join(room.ACTIONS)}")
    return matching_of(rename, unit, any_contract), room.BagReading(actions, instruction)
