"""The command line that all recipes share: options from a signature, help from its docstring, figures recorded."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from docstring_parser import parse

from recipes.results import ROOT, Row, origin, record
from weakaudio.errors import WeakAudioError
from weakaudio.transfer.folds import FoldScores


class Command:
    """A function as a command: `python -m` and the module that it is in.

    Positional-only parameters are arguments, the others options: a `bool` is a flag, a `Sequence` takes several
    values, a `Literal` is a choice. Rows that the function yields are recorded and printed one by one.
    """

    def __init__(self, function: Callable[..., Iterable[Row] | None], recipe: str | None) -> None:
        self.function, self.recipe = function, recipe
        module = Path(inspect.getfile(function)).resolve().relative_to(ROOT).with_suffix("")
        self.words = ["python", "-m", ".".join(module.parts)]
        self.parameters = inspect.signature(function).parameters

    def parser(self) -> argparse.ArgumentParser:
        """Parser of the command's arguments; those that are not given are left out of its result."""
        described, hints = parse(self.function.__doc__ or ""), get_type_hints(self.function)
        texts = {name: one.description for one in described.params for name in one.arg_name.split(", ")}
        parser = argparse.ArgumentParser(shlex.join(self.words), description=described.short_description)
        for name, parameter in self.parameters.items():
            kind, options = hints[name], {"help": (texts.get(name) or "").replace("%", "%%")}  # type: Any, dict[str, Any]
            flag = name if parameter.kind is parameter.POSITIONAL_ONLY else f"--{name.replace('_', '-')}"
            if flag != name:
                options |= {"required": parameter.default is parameter.empty, "default": argparse.SUPPRESS}
            if parameter.default not in (parameter.empty, None, False, ()):
                options["help"] += f" (default: {parameter.default})"
            if NoneType in get_args(kind):
                kind = get_args(kind)[0]
            if get_origin(kind) is Sequence:
                options |= {"nargs": "+", "action": "extend"}
                kind = get_args(kind)[0]
            if get_origin(kind) is Literal:
                options["choices"], kind = get_args(kind), str
            parser.add_argument(flag, **options, **({"action": "store_true"} if kind is bool else {"type": kind}))
        return parser

    def __call__(self, args: Sequence[str] | None = None, root: Path = ROOT) -> int:
        """Run the command, recording below `root`; returns its exit code, 2 after a `WeakAudioError`."""
        words = list(sys.argv[1:] if args is None else args)
        given = vars(self.parser().parse_args(words))
        first = [given.pop(name) for name, one in self.parameters.items() if one.kind is one.POSITIONAL_ONLY]
        facts = {"command": shlex.join([*self.words, *words]), **(origin(root) if self.recipe else {})}
        try:
            for row in self.function(*first, **given) or ():
                spread = f" ± {row['spread']:.4g}" if row.get("spread") is not None else ""
                print(f"{row['what']}: {row['system']}, {row['metric']}: {row['value']:.4g}{spread}", flush=True)
                if self.recipe and not given.get("quick"):
                    record(self.recipe, [{**facts, **row}], root)
        except WeakAudioError as error:
            print(f"{self.words[-1].split('.', 1)[1]}: {error}", file=sys.stderr)
            return 2
        return 0


def command(recipe: str | None = None) -> Callable[[Callable[..., Iterable[Row] | None]], Command]:
    """Make a function a `Command` whose rows are figures of `recipe`; with `--quick`, where it exists, none is kept."""
    return lambda function: Command(function, recipe)


def over_seeds(values: Sequence[float]) -> Row:
    """Mean, number, and sample standard deviation where there are several values."""
    spread = {"spread": float(np.std(values, ddof=1))} if len(values) > 1 else {}
    return {"value": float(np.mean(values)), "n": len(values), **spread}


def over_folds(scores: FoldScores) -> Row:
    """Mean accuracy in percent, sample standard deviation over folds, and their number."""
    return {"value": 100 * scores.mean, "spread": 100 * scores.std, "n": len(scores.accuracies)}


def run_name(model: str | Path) -> str:
    """Name of a model in a table; a run is known by its folder."""
    path = Path(model)
    return path.parent.name if path.name == "model.safetensors" else path.stem
