"""`dreamzero convert`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import console_for, one_line

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
