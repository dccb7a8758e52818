"""The command `geotempo`: registration of the commands and the one place where errors become messages."""

import os
import sys

import typer

from geotempo import __version__
from geotempo.commands.build import build
from geotempo.commands.ceilings import ceilings
from geotempo.commands.chat_template import chat_template
from geotempo.commands.check import check
from geotempo.commands.compare import ListsAfterAgainst, compare
from geotempo.commands.compose import compose
from geotempo.commands.curves import curves
from geotempo.commands.demo import demo
from geotempo.commands.eval import evaluate, score
from geotempo.commands.export import export
from geotempo.commands.export_data import export_data
from geotempo.commands.import_teochat import import_teochat
from geotempo.commands.leaks import leaks
from geotempo.commands.masks_eval import masks_eval
from geotempo.commands.merge import merge
from geotempo.commands.mix import mix
from geotempo.commands.predict import predict
from geotempo.commands.show import show
from geotempo.commands.sources import sources
from geotempo.commands.train import train
from geotempo.model.errors import GeoTempoError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask dated satellite images; get text, boxes, masks and GeoJSON.",
)
app.command()(demo)
app.command()(predict)
app.command()(build)
app.command()(sources)
app.command()(merge)
app.command()(mix)
app.command()(check)
app.command()(leaks)
app.command("export-data")(export_data)
app.command()(show)
app.command()(compose)
app.command("import-teochat")(import_teochat)
app.command("chat-template")(chat_template)
app.command()(train)
app.command()(export)
app.command()(curves)
app.command("eval")(evaluate)
app.command()(score)
app.command(cls=ListsAfterAgainst)(compare)
app.command()(ceilings)
app.command("masks-eval")(masks_eval)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"geotempo {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it.")) -> None:
    """Ask dated satellite images; get text, boxes, masks and GeoJSON."""


def main() -> None:
    """Run the command line; a `GeoTempoError` becomes one line on stderr and exit code 2."""
    # Otherwise transformers tells every user that torchvision, which is not needed, is missing.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except GeoTempoError as error:
        message = " ".join(str(error).split())
        print(f"geotempo: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("geotempo: stopped; what was finished is kept, run the same command to go on", file=sys.stderr)
        raise SystemExit(130) from None
