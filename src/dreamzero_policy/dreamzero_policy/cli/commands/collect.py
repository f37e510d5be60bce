"""`dreamzero collect`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json


def collect(
    out: Annotated[Path, typer.Option(help="Folder of the data set; what is there already is not made again.")],
    episodes: Annotated[int, typer.Option(min=1, help="Number of seeds to try.")] = 400,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    form: Annotated[str, typer.Option(help="lerobot (raw images) or views (compact, for one contract).")] = "lerobot",
    after_policy: Annotated[
        Path | None, typer.Option(help="Checkpoint folder: it is at work first, the expert takes over.")
    ] = None,
    denoise_steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk of --after-policy; 4.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Episodes made at a time.")] = 2,
    contract: Annotated[Path | None, typer.Option(help="Another contract than the shipped one.")] = None,
    robot: Annotated[str, typer.Option(help="Whose expert demonstrates.")] = "agibot_twin",
    json: Json = False,
) -> None:
    """Demonstrations of a simulated robot's scripted expert, as a data set to train on.

    With --after-policy, every demonstration takes over from a policy where its attempt got to.
    """
    from dreamzero_policy.cli import collect as room
    from dreamzero_policy.cli.share import shipped_contract_path
    from dreamzero_policy.data.sinks import FORMS

    if form not in FORMS:
        raise typer.BadParameter(f"--form is {form}; expected {' or '.join(FORMS)}")
    if after_policy is not None and not after_policy.is_dir():
        raise typer.BadParameter(f"--after-policy is {after_policy}, which is no folder")
    if denoise_steps is not None and after_policy is None:
        raise typer.BadParameter("--denoise-steps is about the policy of --after-policy, which is not given")
    console = console_for(json)
    contract = contract or shipped_contract_path()
    seeds = range(first_seed, first_seed + episodes)
    try:
        with one_line(console):
            prelude = after_policy and room.after_policy(after_policy, contract, denoise_steps or 4)
            document = room.run(robot, contract, out, form, seeds, processes, console, prelude)
    except room.CollectError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"stopped; {out} holds whole episodes, the same command goes on")
        raise typer.Exit(130) from None
    if json:
        print_json(document)
    else:
        room.report(document, out, console)
