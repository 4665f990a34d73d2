"""Options and exit codes that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

SOME_FAILED = 3  # exit code: done, but some files were left out
CANNOT = 2  # exit code: an error that the user can mend

app = typer.Typer(
    help="Learn sound events from weakly labelled clips; embed recordings; transfer through scikit-learn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Path of a model file, or a name of `weakaudio models`.")
]


class Level(str, Enum):
    """One row a clip, or one a segment."""

    clip = "clip"
    segment = "segment"


LayerOption = Annotated[
    str, typer.Option(help="f1: the embedding; f2: the class probabilities; f1+f2: one after the other.")
]
PoolingOption = Annotated[
    str, typer.Option(help="How segments become a clip: mean, max, std, or several, as mean+max.")
]
