"""Measured figures: recipes record them in `results.json`, the tables of the READMEs are written from there.

    python -m recipes.results            rewrite the tables
    python -m recipes.results --check    exit 1 and name the files whose tables disagree

A table stands in README.md, recipes/*/README.md or a model card, pretrained/*.md, between
`<!-- results: RECIPE / WHAT -->` and `<!-- /results -->`. A figure is stale once the code under it (`CODE`) differs
from what it was measured with.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]

_DISTILLING = [
    "weakaudio/audio",
    "weakaudio/networks",
    "weakaudio/data/corpus.py",
    "weakaudio/data/mixtures.py",
    "weakaudio/data/sampling.py",
    "weakaudio/data/store.py",
    "weakaudio/pretrained/checkpoint.py",
    "weakaudio/training/distillation.py",
    "weakaudio/training/thinned.py",
    "weakaudio/search/proxy.py",
    "weakaudio/search/short_training.py",
]

# What the figures of a recipe depend on, beside the YAML files in its folder; absent paths are skipped.
CODE: dict[str, list[str]] = {
    "benchmark": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data",
        "weakaudio/training/tagger.py",
        "data_prep/folder.py",
        "data_prep/packing.py",
        "data_prep/summary.py",
        "recipes/benchmark",
    ],
    "soundscapes": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data/corpus.py",
        "weakaudio/data/dataset.py",
        "weakaudio/data/sampling.py",
        "weakaudio/data/store.py",
        "weakaudio/training",
        "data_prep/esc50.py",
        "data_prep/soundscapes.py",
        "data_prep/urbansound8k.py",
        "recipes/soundscapes",
    ],
    # Of the weights as they are: how they were trained stands in their cards.
    "distillation": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/transfer/classifiers.py",
        "weakaudio/transfer/folds.py",
        "weakaudio/inference/embedding.py",
        "weakaudio/inference/parts.py",
        "weakaudio/inference/windows.py",
        "weakaudio/pretrained",
        "data_prep/esc50.py",
        "recipes/distillation/evaluate.py",
        "recipes/distillation/lag.py",
    ],
    "fuzz": [
        "weakaudio/audio/io.py",
        "weakaudio/audio/resampling.py",
        "weakaudio/data",
        "weakaudio/inference/embedding_file.py",
        "weakaudio/pretrained/checkpoint.py",
        "recipes/fuzz",
    ],
    "field": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/inference/analysis.py",
        "weakaudio/inference/detect_folder.py",
        "weakaudio/inference/detection.py",
        "weakaudio/inference/embedding.py",
        "weakaudio/inference/embedding_file.py",
        "weakaudio/inference/event_files.py",
        "weakaudio/inference/event_formats.py",
        "weakaudio/inference/events.py",
        "weakaudio/inference/folder.py",
        "weakaudio/inference/journal.py",
        "weakaudio/inference/parts.py",
        "weakaudio/inference/recordings.py",
        "weakaudio/inference/run.py",
        "weakaudio/inference/windows.py",
        "recipes/field",
    ],
    "latency": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/pretrained",
        "weakaudio/memory.py",
        "weakaudio/inference/embedding.py",
        "weakaudio/transfer/classifiers.py",
        "weakaudio/transfer/features.py",
        "weakaudio/transfer/folds.py",
        "weakaudio/deploy",
        "weakaudio/latency/device.py",
        "weakaudio/latency/fastest.py",
        "weakaudio/latency/graphs.py",
        "data_prep/esc50.py",
        "recipes/benchmark",
        "recipes/latency/frontier.py",
        "recipes/latency/on_gpu.py",
        "recipes/latency/published.py",
    ],
    "transfer": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/transfer",
        "weakaudio/inference/embedding.py",
        "weakaudio/pretrained",
        "data_prep/esc50.py",
        "data_prep/mixing.py",
        "data_prep/scenes_synthetic.py",
        "data_prep/urbansound8k.py",
        "recipes/transfer",
    ],
}

# By recipe and table: those whose figures depend on something else than the recipe's others. No YAML file counts.
CODE_OF_TABLES: dict[tuple[str, str], list[str]] = {
    ("latency", "foretold latency"): [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/memory.py",
        "weakaudio/training/thinned.py",
        "weakaudio/deploy",
        "weakaudio/latency",
        "recipes/latency/foretold.py",
    ],
    ("latency", "depth and width"): [
        *_DISTILLING,
        "weakaudio/search/law.py",
        "weakaudio/search/law_grid.py",
        "recipes/latency/law.py",
    ],
    ("latency", "proxies"): [
        *_DISTILLING,
        "weakaudio/latency/clip_latency.py",
        "weakaudio/latency/genome.py",
        "weakaudio/latency/pieces.py",
        "weakaudio/latency/predict.py",
        "weakaudio/search/blockwise.py",
        "weakaudio/search/lessons.py",
        "weakaudio/search/stage_store.py",
        "weakaudio/search/workers.py",
        "recipes/latency/proxies.py",
    ],
    ("latency", "weight normalisation"): [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data/corpus.py",
        "weakaudio/data/dataset.py",
        "weakaudio/data/sampling.py",
        "weakaudio/data/store.py",
        "weakaudio/pretrained/checkpoint.py",
        "weakaudio/training/callbacks.py",
        "weakaudio/training/command.py",
        "weakaudio/training/evaluation.py",
        "weakaudio/training/localisation.py",
        "weakaudio/training/losses.py",
        "weakaudio/training/metrics.py",
        "weakaudio/training/tagger.py",
        "weakaudio/training/weight_norm.py",
        "recipes/latency/weight_norm.py",
    ],
}

_GIVEN = ("what", "system", "metric", "value", "data", "command")  # every row must name these
_FIELDS = (*_GIVEN[:4], "spread", "n", *_GIVEN[4:], "commit", "machine", "date", "note", "code")
_TABLE = re.compile(r"(<!-- results: (?P<recipe>\S+) / (?P<what>.+?) -->\n).*?(<!-- /results -->)", re.DOTALL)
_OPEN, _CLOSE = "<!-- results: RECIPE / WHAT -->", "<!-- /results -->"


def record(recipe: str, rows: Sequence[Row], root: Path = ROOT) -> Path:
    """Write figures into a recipe's `results.json`.

    Rows with the same (what, system, metric, data) are replaced, others are kept. Within a `what`, the order
    is that of first recording.

    Parameters
    ----------
    recipe
        Name of a folder in `recipes`.
    rows
        Each with what, system, metric, value, data and command, and if known spread (same unit as value),
        n (seeds, folds or repeats) and note. Commit, machine and date are filled in unless they are given.
    root
        Folder of the project.

    Returns
    -------
    The path of the file, which is written beside and then renamed.

    Raises
    ------
    ValueError
        A field is missing or unknown, or a value is not a finite number.
    """
    facts = {
        "spread": None,
        "n": 1,
        "note": None,
        "commit": commit(root),
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    known = {_key(row): row for row in load(recipe, root)}
    for row in rows:
        _validate(recipe, row)
    codes = {what: code_digest(recipe, what, root) for what in {row["what"] for row in rows}}
    for row in rows:
        known[_key(row)] = {**facts, **row, "code": codes[row["what"]]}
    ordered = sorted(known.values(), key=lambda row: str(row["what"]))  # stable: keeps the order of recording
    tidy = [{name: row[name] for name in _FIELDS} for row in ordered]
    path = _results_path(recipe, root)
    _write(path, json.dumps(tidy, indent=1, ensure_ascii=False) + "\n")
    return path


def load(recipe: str, root: Path = ROOT) -> list[Row]:
    """The rows of a recipe's `results.json`; none if there is no such file."""
    path = _results_path(recipe, root)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def code_digest(recipe: str, what: str, root: Path = ROOT) -> str:
    """SHA-256, in hexadecimal, of the code under the figures of a recipe's table.

    Over the syntax trees of the Python files that `CODE_OF_TABLES` or else `CODE` names, so comments, docstrings and
    layout do not count; and over the bytes of the recipe's YAML files.

    Raises
    ------
    ValueError
        The recipe is not in `CODE`.
    """
    if recipe not in CODE:
        raise ValueError(f"recipe {recipe!r}: not in recipes.results.CODE, which has {', '.join(CODE)}")
    own = CODE_OF_TABLES.get((recipe, what))
    digest = hashlib.sha256()
    for path in _python_files(CODE[recipe] if own is None else own, root):
        digest.update(f"{path.relative_to(root).as_posix()}\n{_syntax(path)}\n".encode())
    for path in () if own is not None else sorted((root / "recipes" / recipe).glob("*.yaml")):
        digest.update(path.name.encode() + b"\n" + path.read_bytes() + b"\n")
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str:
    """Short hash of git's HEAD, with "+" if tracked Python files differ from it; "unknown" outside of git."""
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def machine() -> str:
    """Processor, number of cores and, if there is one, GPU."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores} cores{gpu}"


def table(recipe: str, what: str, root: Path = ROOT) -> str:
    """Markdown of one table: a row for each system, a column for each metric, and the figures' origin."""
    rows = [row for row in load(recipe, root) if row["what"] == what]
    if not rows:
        return "No figures recorded yet.\n"
    today = code_digest(recipe, what, root)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines = list(dict.fromkeys((row["system"], row["data"]) for row in rows))
    by_data = len({data for _, data in lines}) > 1
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    cells = {(row["system"], row["data"], row["metric"]): _cell(row, notes, today) for row in rows}

    head = ["system", *(["data"] if by_data else []), *metrics]
    text = [_line(head), _line(["---"] * (len(head) - len(metrics)) + ["---:"] * len(metrics))]
    for system, data in lines:
        values = [cells.get((system, data, metric), "") for metric in metrics]
        text.append(_line([system, *([data] if by_data else []), *values]))
    text += ["", f"<sub>{_provenance(rows, by_data)}</sub>"]
    text += [f"<br><sub>{n}: {note}</sub>" for n, note in enumerate(notes, 1)]
    return "\n".join(text) + "\n"


def render(path: Path, root: Path = ROOT) -> str:
    """The text of a README with its tables as `results.json` has them.

    Raises
    ------
    ValueError
        A table is opened and not closed, or names a recipe that is not in `CODE`.
    """
    text = path.read_text(encoding="utf-8")
    if text.count("<!-- results: ") != len(_TABLE.findall(text)):
        raise ValueError(f"{path}: a table must open with `{_OPEN}` and close with `{_CLOSE}`")
    return _TABLE.sub(lambda found: found[1] + table(found["recipe"], found["what"], root) + found[4], text)


def disagreeing(root: Path = ROOT) -> list[Path]:
    """READMEs whose tables are not what `results.json` and today's code say."""
    return [path for path in _readmes(root) if render(path, root) != path.read_text(encoding="utf-8")]


def rewrite(root: Path = ROOT) -> list[Path]:
    """Bring all tables up to date; returns the READMEs that changed."""
    changed = disagreeing(root)
    for path in changed:
        _write(path, render(path, root))
    return changed


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser("python -m recipes.results", description="Tables of figures in READMEs.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table disagrees")
    check = parser.parse_args(args).check
    changed = disagreeing(root) if check else rewrite(root)
    for path in changed:
        name = path.relative_to(root)
        print(f"{name}: tables disagree; run `python -m recipes.results`" if check else f"{name}: rewritten")
    return int(check and bool(changed))


def _key(row: Row) -> tuple[str, str, str, str]:
    return row["what"], row["system"], row["metric"], row["data"]


def _validate(recipe: str, row: Row) -> None:
    missing = [name for name in _GIVEN if name not in row]
    unknown = sorted(row.keys() - set(_FIELDS[:-1]))
    if missing or unknown:
        raise ValueError(f"{recipe}: row {row}: missing {missing}, unknown {unknown}")
    numbers = [row["value"], row.get("spread") or 0.0]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise ValueError(f"{recipe}: {_key(row)}: value and spread must be finite numbers, got {numbers}")


def _python_files(names: Sequence[str], root: Path) -> Iterator[Path]:
    for name in names:
        path = root / name
        if path.is_dir():
            yield from sorted(path.rglob("*.py"))
        elif path.is_file():
            yield path


def _syntax(path: Path) -> str:
    """Like `ast.dump` without docstrings, and the same under every version of Python (ast.dump is not)."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return repr(_plain(tree))


def _plain(node: object) -> object:
    if isinstance(node, ast.AST):
        fields = [(name, _plain(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, fields
    return [_plain(item) for item in node] if isinstance(node, list) else node


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def _cell(row: Row, notes: list[str], today: str) -> str:
    digits = _digits(row["value"])
    text = f"{row['value']:,.{digits}f}"
    if row["spread"] is not None:
        text += f" ± {row['spread']:,.{digits}f}"
    if row["n"] > 1:
        text += f" (n={row['n']})"
    if row["note"]:
        text += f" <sup>{notes.index(row['note']) + 1}</sup>"
    return text + (" (stale)" if row["code"] != today else "")


def _digits(value: float) -> int:
    """Decimals that leave three significant digits, or all digits of a whole number."""
    if value == 0 or float(value).is_integer():
        return 0
    return max(0, 2 - math.floor(math.log10(abs(value))))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _provenance(rows: list[Row], by_data: bool) -> str:
    def merged(name: str) -> list[str]:
        return list(dict.fromkeys(row[name] for row in rows))

    parts = [] if by_data else merged("data")
    parts += [f"`{command}`" for command in merged("command")]
    parts += merged("machine")
    parts += [f"commit {', '.join(merged('commit'))}", ", ".join(merged("date"))]
    return "; ".join(parts)


def _readmes(root: Path) -> list[Path]:
    recipes, cards = sorted((root / "recipes").glob("*/README.md")), sorted((root / "pretrained").glob("*.md"))
    paths = [root / "README.md", *recipes, *cards]
    return [path for path in paths if path.is_file()]


def _results_path(recipe: str, root: Path) -> Path:
    return root / "recipes" / recipe / "results.json"


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    raise SystemExit(main())
