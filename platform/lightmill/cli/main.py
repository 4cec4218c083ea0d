"""The entry point: one clear error, an exit code that scripts can use, no stack trace unless `--debug`.

Exit codes: 0 done; 1 something unexpected; 2 a wrong request or argument; 3 not found; 4 conflict (a port in
use, a changed alias); 5 not authenticated or not allowed; 6 stored bytes are not what was written; 7 not
available now; 8 a job failed; 130 interrupted.
"""

from __future__ import annotations

import sys

import typer

from lightmill.cli import (
    api_keys,
    assets,
    demo,
    endpoints,
    jobs,
    keys,
    lineage,
    masking,
    node,
    planning,
    registry,
    simulating,
    traffic,
)
from lightmill.cli.output import fail
from lightmill.errors import LightmillError

app = typer.Typer(
    name="lightmill",
    help="Datasets in, secured model endpoints out, on one Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
node.add_to(app)
demo.add_to(app)
jobs.add_to(app)
planning.add_to(app)
assets.add_to(app)
lineage.add_to(app)
endpoints.add_to(app)
traffic.add_to(app)
simulating.add_to(app)
registry.add_to(app)
keys.add_to(app)
api_keys.add_to(app)
masking.add_to(app)


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show stack traces of expected errors."),
) -> None:
    """Datasets in, secured model endpoints out, on one Ray cluster."""


def main() -> None:
    """Run the command line."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except LightmillError as exc:
        if debug:
            raise
        sys.exit(fail(exc, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
