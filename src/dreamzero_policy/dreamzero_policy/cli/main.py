"""`dreamzero`: the one command line of the stack.

With --json a subcommand prints one JSON object on standard output and everything else on standard error.
"""

import typer

from dreamzero_policy.cli.commands.bench import bench
from dreamzero_policy.cli.commands.calibrate import calibrate
from dreamzero_policy.cli.commands.chaos import chaos
from dreamzero_policy.cli.commands.collect import collect
from dreamzero_policy.cli.commands.convert import convert
from dreamzero_policy.cli.commands.data import data
from dreamzero_policy.cli.commands.demo import demo
from dreamzero_policy.cli.commands.evaluate import evaluate
from dreamzero_policy.cli.commands.inspect import inspect
from dreamzero_policy.cli.commands.replay import replay
from dreamzero_policy.cli.commands.serve import serve
from dreamzero_policy.cli.commands.train import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The ROS 2 runtime for world-action models.",
    pretty_exceptions_enable=False,
)
app.command()(calibrate)
app.command()(chaos)
app.command()(collect)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(replay)
app.command()(serve)
app.command()(train)
app.command()(inspect)
app.add_typer(bench, name="bench")
app.add_typer(convert, name="convert")
app.add_typer(data, name="data")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
