"""`dreamzero serve`."""

from pathlib import Path
from typing import Annotated

import typer

MEGABYTE = 1_000_000


def serve(
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    listen: Annotated[str, typer.Option(help="host:port. Port 0 takes a free one.")] = "127.0.0.1:8000",
    contract: Annotated[Path | None, typer.Option(help="Contract file of a checkpoint that carries none.")] = None,
    tag: Annotated[str, typer.Option(help="Embodiment of a release; by default the only one that fits.")] = "",
    base: Annotated[Path | None, typer.Option(help="The checkpoint that its adapters were trained on.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer's files.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the model on a CPU.")] = 1,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps that robots will ask for: what a chunk's cost is "
            "measured with. Default: the checkpoint's.",
        ),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="Tokens of clients, one a line.")] = None,
    anyone: Annotated[bool, typer.Option("--anyone", help="Beyond loopback without tokens.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    memories: Annotated[
        int, typer.Option(min=2, help="Of a session: branches, snapshots and one for looking ahead.")
    ] = 4,
    memory_mb: Annotated[
        float | None, typer.Option(min=1, help="Of all sessions together [MB]; half of what is free by default.")
    ] = None,
    load: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the model that may be promised.")] = 0.85,
    idle_s: Annotated[
        float, typer.Option(min=1.0, help="A session that asks nothing for so long gives its rate back.")
    ] = 60.0,
    resume_s: Annotated[float, typer.Option(min=0.0, help="For which a session outlives its connection.")] = 30.0,
    drain_s: Annotated[float, typer.Option(min=0.0, help="For which sessions are answered after SIGTERM.")] = 10.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Open connections.")] = 256,
    max_steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps that a client may ask for.")] = 64,
    max_message_mb: Annotated[float, typer.Option(min=0.1, help="Longest message [MB].")] = 32.0,
    max_rate_hz: Annotated[float, typer.Option(min=1.0, help="Messages a second of one connection.")] = 200.0,
    batch: Annotated[
        int, typer.Option(min=1, help="Chunks of different sessions denoised together; 1 keeps outputs bit for bit.")
    ] = 1,
    cfg_parallel: Annotated[
        int, typer.Option(min=1, max=2, help="Processes for the two branches of guidance; under torchrun.")
    ] = 1,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Processes for each layer of the transformer; under torchrun.")
    ] = 1,
    log: Annotated[str, typer.Option(help="json, text, or auto: text on a terminal.")] = "auto",
) -> None:
    """Serve a policy to many robots, over its own session protocol and that of the released server."""
    from dreamzero_policy.cli import serve as room
    from dreamzero_policy.cli.console import console_for, one_line
    from dreamzero_policy.cli.share import shipped_checkpoint
    from dreamzero_policy.inference.parallel.crew import Shape, StartError
    from dreamzero_policy.inference.server.settings import Settings, SettingsError, listen_address, read_tokens

    if log not in ("auto", "json", "text"):
        raise typer.BadParameter(f"--log is {log!r}, expected auto, json or text")
    try:
        host, port = listen_address(listen)
        settings = Settings(
            checkpoint=checkpoint or shipped_checkpoint(),
            contract=contract,
            tag=tag,
            base=base,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            threads=threads,
            steps=steps,
            host=host,
            port=port,
            tokens=() if token_file is None else read_tokens(token_file),
            certificate=certificate,
            key=key,
            anyone=anyone,
            memories=memories,
            memory_bytes=None if memory_mb is None else round(memory_mb * MEGABYTE),
            most_load=load,
            idle_s=idle_s,
            resume_s=resume_s,
            drain_s=drain_s,
            most_connections=max_connections,
            most_steps=max_steps,
            message_bytes=round(max_message_mb * MEGABYTE),
            messages_hz=max_rate_hz,
            batch=batch,
            shape=Shape(cfg_parallel, tensor_parallel),
        )
        with one_line(console_for(json=True)):
            room.serve(settings, log)
    except (SettingsError, StartError) as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        console_for(json=True).print(f"cannot listen on {listen}: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
