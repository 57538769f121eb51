"""The command line: ``emoreg stories | extract | validate | import | export | push | train | demo``."""

from typing import Annotated

import typer

from emoreg.cli import exchange, extract, shell, stories, training, validate

app = typer.Typer(
    help="Keep a model's internal desperation down while it is being fine-tuned, and see what became of it.",
    epilog="Start with: emoreg demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    shell.show_traceback = traceback


app.command()(stories.stories)
app.command()(extract.extract)
app.command()(validate.validate)
app.command("import")(exchange.import_)
app.command()(exchange.export)
app.command()(exchange.push)
app.command(context_settings={"ignore_unknown_options": True})(training.train)
app.command()(training.demo)


def main() -> None:
    """Entry point."""
    app()
