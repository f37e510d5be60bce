"""`dreamzero convert`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.commands.data import DataAnyContract, DataContract, DataRename, DataUnit, matching_of
from dreamzero_policy.cli.console import Json, console_for, one_line, print_json

CHECKPOINT_LAYOUTS = ("release", "diffusers", "dreamzero")

convert = typer.Typer(no_args_is_help=True, help="Write files in another form.")


@convert.command("checkpoint")
def convert_checkpoint(
    paths: Annotated[list[Path], typer.Argument(metavar="[SOURCE] DESTINATION", help="Checkpoint folders.")],
    to: Annotated[str, typer.Option(help="release, diffusers or dreamzero.")] = "release",
    base: Annotated[
        Path | None, typer.Option(help="The checkpoint that the source's adapters were trained on.")
    ] = None,
    meta: Annotated[bool, typer.Option("--meta", help="No source: headers of --variant, a hole for the data.")] = False,
    variant: Annotated[str | None, typer.Option(help="With --meta: a name in config/models, or a file.")] = None,
    torch_files: Annotated[
        bool, typer.Option("--torch-files", help="Read .pt and .pth files (weights only) where no safetensors are.")
    ] = False,
    shard_mib: Annotated[int, typer.Option(min=1, help="Largest file [MiB].")] = 5120,
) -> None:
    """Write a checkpoint in another layout, one tensor in memory at a time."""
    from dreamzero_policy.cli import convert as room

    if to not in CHECKPOINT_LAYOUTS:
        raise typer.BadParameter(f"--to is {to}; expected {', '.join(CHECKPOINT_LAYOUTS)}")
    if meta != (variant is not None):
        raise typer.BadParameter("--meta and --variant go together")
    if len(paths) != (1 if meta else 2):
        raise typer.BadParameter(f"{len(paths)} paths; --meta takes a destination, else a source and a destination")
    console = console_for(False)
    with one_line(console):
        if meta:
            room.write_blank(variant, paths[-1], to, shard_mib=shard_mib)
        else:
            room.convert_checkpoint(paths[0], paths[1], to, base=base, torch_files=torch_files, shard_mib=shard_mib)
    console.print(f"wrote {paths[-1]} in the {to} layout", markup=False)


Processes = Annotated[int | None, typer.Option(min=1, help="At work at a time; as many as there are cores.")]
BAG_ACTIONS = ("auto", "commands", "next_state")


@convert.command("bag")
def convert_bag(
    source: Annotated[Path, typer.Argument(help="A rosbag2, or a folder of them.")],
    destination: Annotated[Path, typer.Argument(help="LeRobot data set; what it holds already is left alone.")],
    contract: DataContract = None,
    actions: Annotated[
        str,
        typer.Option(
            help="commands (joint trajectories), next_state (joint states), or auto: commands where a bag has some of "
            "every controller."
        ),
    ] = "auto",
    instruction: Annotated[str, typer.Option(help="What was done, where bags do not say.")] = "",
    processes: Processes = None,
    json: Json = False,
) -> None:
    """Write bags as a LeRobot v3.0 data set: what can be read of them, with the rest reported.

    Ends with 0, with 1 if something is damaged or refused, with 130 after Ctrl-C; the same command goes on.
    """
    from dreamzero_policy.cli import convert_data as room
    from dreamzero_policy.cli.data import contract_of

    if actions not in BAG_ACTIONS:
        raise typer.BadParameter(f"--actions is {actions}; expected {', '.join(BAG_ACTIONS)}")
    console, count = console_for(json), processes or len(os.sched_getaffinity(0))
    try:
        with one_line(console):
            options = room.BagOptions(actions, instruction.strip())
            document = room.bags_to_lerobot(source, destination, contract_of(contract), options, count, console)
    except KeyboardInterrupt:
        console.print(f"stopped; {destination} holds whole episodes, the same command goes on", markup=False)
        raise typer.Exit(130) from None
    room.report_bags(document, console)
    if json:
        print_json(document)
    if not room.sound(document):
        raise typer.Exit(1)


@convert.command("lerobot")
def convert_lerobot(
    source: Annotated[Path, typer.Argument(help="LeRobot data set, v3.0, v2.1 or v2.0.")],
    destination: Annotated[Path, typer.Argument(help="Folder of bags; those that it holds already are left alone.")],
    contract: DataContract = None,
    images: Annotated[str, typer.Option(help="jpeg (quality 95), png (lossless) or raw.")] = "jpeg",
    rename: DataRename = None,
    unit: DataUnit = None,
    any_contract: DataAnyContract = False,
    processes: Processes = None,
    json: Json = False,
) -> None:
    """Write a LeRobot data set as rosbag2 (MCAP) bags, one an episode, with the contract's topics, order and units.

    Ends with 0, with 1 if an episode cannot be read, with 130 after Ctrl-C; the same command goes on.
    """
    from dreamzero_policy.cli import convert_data as room
    from dreamzero_policy.cli.data import contract_of
    from dreamzero_policy.data.bag_writing import PICTURES

    if images not in PICTURES:
        raise typer.BadParameter(f"--images is {images}; expected {', '.join(PICTURES)}")
    matching = matching_of(rename, unit, any_contract)
    console, count = console_for(json), processes or len(os.sched_getaffinity(0))
    try:
        with one_line(console):
            document = room.lerobot_to_bags(
                source, destination, contract_of(contract), matching, images, count, console
            )
    except KeyboardInterrupt:
        console.print(f"stopped; {destination} holds whole bags, the same command goes on", markup=False)
        raise typer.Exit(130) from None
    room.report_episodes(document, console)
    if json:
        print_json(document)
    if not room.sound(document):
        raise typer.Exit(1)
