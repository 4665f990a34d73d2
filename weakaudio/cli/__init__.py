"""The command line: one verb a job. Heavy imports wait until a verb needs them, so that --help answers at once."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

import typer

from weakaudio.cli.options import CANNOT, app
from weakaudio.errors import WeakAudioError

_ROOMS = ("corpora", "training", "field", "transfer", "models", "search", "benchmark", "export")  # as --help has them
for _name in _ROOMS:
    import_module(f"weakaudio.cli.{_name}")


def _one_line(message: Warning | str, category: type[Warning], *where: object) -> None:
    typer.echo(f"weakaudio: warning: {message}", err=True)


def main() -> None:
    """The console script: errors that a user can mend are one line on standard error, and exit code 2."""
    warnings.showwarning = _one_line  # type: ignore[assignment]
    try:
        app()
    except WeakAudioError as error:
        typer.echo(f"weakaudio: {error}", err=True)
        sys.exit(CANNOT)
