"""Measured figures: recipes record them in `results.json`, the tables of the READMEs are written from there.

    python -m recipes.results            rewrite the tables
    python -m recipes.results --check    exit 1 and name the files whose tables disagree

A table stands in README.md, recipes/*/README.md or a model card, pretrained/*.md, between
`<!-- results: RECIPE / WHAT -->` and `<!-- /results -->`. A figure is stale once the code under it
(`recipes.code`) differs from what it was measured with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from recipes.code import code_digest

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]

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
