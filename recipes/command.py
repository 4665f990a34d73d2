"""The command line that all recipes share: options from a function's signature, its figures recorded."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from recipes.results import ROOT, Row, origin, record
from weakaudio.errors import WeakAudioError
from weakaudio.transfer.cross_validation import FoldScores

Function = Callable[..., Iterable[Row] | Path | None]


class Command:
    """A function as a command: `python -m` and the module that it is in.

    Parameters are annotated with their help. Positional-only ones are arguments, the others options: a `bool` is a
    flag, a `Sequence` takes several values, a `Literal` is a choice, a `dict` is JSON; `--config` names a YAML file
    of options. Rows that the function yields are recorded and printed one by one; a path is printed.
    """

    def __init__(self, function: Function, recipe: str | None) -> None:
        self.function, self.recipe = function, recipe
        module = Path(inspect.getfile(function)).resolve().relative_to(ROOT).with_suffix("")
        self.words = ["python", "-m", ".".join(module.parts)]
        self.parameters = inspect.signature(function).parameters

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Arguments that are given, on the command line or else in a file."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--config", type=Path, help="YAML file of options")
        file, words = first.parse_known_args(words)
        if file.config:
            options = yaml.safe_load(file.config.read_text(encoding="utf-8")).items()
            texts = [(f"--{name}", value if isinstance(value, str) else json.dumps(value)) for name, value in options]
            words = [*itertools.chain(*texts), *words]
        about = (self.function.__doc__ or "").partition("\n")[0]
        parser = argparse.ArgumentParser(shlex.join(self.words), description=about, parents=[first])
        hints = get_type_hints(self.function, include_extras=True)
        for name, parameter in self.parameters.items():
            kind, text = get_args(hints[name])
            if parameter.default not in (parameter.empty, None, False, ()):
                text += f" (default: {parameter.default})"
            kwargs: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
            if NoneType in get_args(kind):
                kind = get_args(kind)[0]
            if get_origin(kind) is Sequence:
                kwargs |= {"nargs": "+", "action": "extend"}
                kind = get_args(kind)[0]
            if get_origin(kind) is Literal:
                kwargs["choices"], kind = get_args(kind), str
            if kind is bool:
                kwargs["action"] = "store_true"
            else:
                kwargs["type"] = json.loads if get_origin(kind) is dict else kind
            flags = list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
            if parameter.kind is parameter.POSITIONAL_ONLY:
                flags = [name]
            elif parameter.default is parameter.empty:
                kwargs["required"] = True
            parser.add_argument(*flags, **kwargs)
        given = vars(parser.parse_args(words))
        del given["config"]
        return given

    def __call__(self, args: Sequence[str] | None = None, root: Path = ROOT) -> int:
        """Run the command, recording below `root`; returns its exit code, 2 after a `WeakAudioError`."""
        words = list(sys.argv[1:] if args is None else args)
        given = self.parse(words)
        arguments = [given.pop(name) for name, one in self.parameters.items() if one.kind is one.POSITIONAL_ONLY]
        facts = {"command": shlex.join([*self.words, *words]), **(origin(root) if self.recipe else {})}
        try:
            found = self.function(*arguments, **given)
            if isinstance(found, Path):
                print(found)
                return 0
            for row in found or ():
                spread = f" ± {row['spread']:.4g}" if row.get("spread") is not None else ""
                print(f"{row['what']}: {row['system']}, {row['metric']}: {row['value']:.4g}{spread}", flush=True)
                if self.recipe and not given.get("quick"):
                    record(self.recipe, [{**facts, **row}], root)
        except WeakAudioError as error:
            print(f"{self.words[-1].split('.', 1)[1]}: {error}", file=sys.stderr)
            return 2
        return 0


def command(recipe: str | None = None) -> Callable[[Function], Command]:
    """Make a function a `Command` whose rows are figures of `recipe`; none is recorded with `--quick`."""
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
