"""`dreamzero collect`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json


def collect(
    out: Annotated[Path, typer.Option(help="Folder of the data set; what is there already is not made again.")],
    episodes: Annotated[
        int, typer.Option(min=1, help="Number of seeds to try; of pictures with --form grounding.")
    ] = 400,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    form: Annotated[
        str,
        typer.Option(
            help="lerobot (raw images), views (compact, for one contract), or grounding: no demonstrations but "
            "pictures with questions, for the training stage of that name."
        ),
    ] = "lerobot",
    after_policy: Annotated[
        Path | None, typer.Option(help="Checkpoint folder: it is at work first, the expert takes over.")
    ] = None,
    after_mistakes: Annotated[
        bool,
        typer.Option("--after-mistakes", help="The robot goes for the wrong place first, the expert takes over there."),
    ] = False,
    advice: Annotated[
        bool,
        typer.Option(
            "--advice",
            help="At every chunk of whoever is at work the expert shows what it would do. At work is the policy of "
            "--after-policy, or the expert itself, stumbling on purpose. Goes with --form views.",
        ),
    ] = False,
    denoise_steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps of --after-policy; the checkpoint's own.")
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(help="Demonstrations whose poses the robot has in --form grounding; those the expert begins in."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Episodes made at a time.")] = 2,
    contract: Annotated[Path | None, typer.Option(help="Another contract than the shipped one.")] = None,
    robot: Annotated[str, typer.Option(help="Whose expert demonstrates.")] = "agibot_twin",
    json: Json = False,
) -> None:
    """Demonstrations of a simulated robot's scripted expert, as a data set to train on.

    With --after-policy, every demonstration takes over from a policy where its attempt got to; with --after-mistakes,
    from an attempt at the wrong place; with --advice attempts are kept, and what the expert would have done at each of
    their chunks. With --form grounding there are pictures of its scenes instead, with instructions and where what they
    name is seen.
    """
    from dreamzero_policy.cli import collect as room
    from dreamzero_policy.cli import pictures
    from dreamzero_policy.cli.share import shipped_contract_path
    from dreamzero_policy.data.pictures import FORM
    from dreamzero_policy.data.sinks import FORMS

    if form not in (*FORMS, FORM):
        raise typer.BadParameter(f"--form is {form}; expected {', '.join(FORMS)} or {FORM}")
    if poses is not None and form != FORM:
        raise typer.BadParameter(f"--poses is about --form {FORM}, but --form is {form}")
    if after_policy is not None and form == FORM:
        raise typer.BadParameter(f"--after-policy is about demonstrations, but --form is {form}")
    if after_mistakes and (form == FORM or after_policy is not None):
        raise typer.BadParameter("--after-mistakes goes neither with --after-policy nor with --form grounding")
    if advice and (form != "views" or after_mistakes):
        raise typer.BadParameter(f"--advice goes with --form views alone (not {form}) and not with --after-mistakes")
    if after_policy is not None and not after_policy.is_dir():
        raise typer.BadParameter(f"--after-policy is {after_policy}, which is no folder")
    if denoise_steps is not None and after_policy is None:
        raise typer.BadParameter("--denoise-steps is about the policy of --after-policy, which is not given")
    console = console_for(json)
    contract = contract or shipped_contract_path()
    seeds = range(first_seed, first_seed + episodes)
    try:
        with one_line(console):
            if form == FORM:
                document = pictures.run(robot, contract, out, seeds, processes, console, poses)
            else:
                prelude = after_policy and room.after_policy(after_policy, contract, denoise_steps)
                document = room.run(
                    robot, contract, out, form, seeds, processes, console, prelude, after_mistakes, advice
                )
    except room.CollectError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"stopped; {out} holds whole episodes, the same command goes on")
        raise typer.Exit(130) from None
    if json:
        print_json(document)
    else:
        (pictures if form == FORM else room).report(document, out, console)
