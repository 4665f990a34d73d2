"""Measured figures: recipes record them in `results.json`, the tables of READMEs and model cards come from there.

    python -m recipes.results            rewrite the tables
    python -m recipes.results --check    exit 1 and name the files whose tables differ

A table stands between `<!-- results: RECIPE / WHAT -->` and `<!-- /results -->`, the table of models (from
`pretrained/registry.toml`) between `<!-- models -->` and `<!-- /models -->`. A figure is a fact with a date: it says
on which machine and at which commit it was measured, and stays as it is until it is measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from weakaudio.files import atomic_write

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = ("what", "system", "metric", "value", "data", "command")
FIELDS = (*REQUIRED[:4], "spread", "n", *REQUIRED[4:], "commit", "machine", "date", "note")

_TABLE = re.compile(
    r"(<!-- (?:results: (?P<recipe>\S+) / (?P<what>.+?)|models) -->\n).*?(<!-- /(?:results|models) -->)", re.DOTALL
)


def record(recipe: str, rows: Sequence[Row], root: Path = ROOT) -> None:
    """Write figures into a recipe's `results.json`.

    A row has the fields of `REQUIRED`, and if known spread (unit of the value), n (seeds, folds or repeats) and note;
    commit, machine and date are those of now unless given. Rows with the same (what, system, metric, data) are
    replaced. Tables are sorted by name, their rows stay in the order in which they were first recorded.

    Raises
    ------
    ValueError
        A field is missing or unknown, or a value is not a finite number.
    """
    for row in rows:
        _validate(row)
    facts = {**dict.fromkeys(FIELDS), "n": 1, **origin(root)}
    known = {_key(row): row for row in [*load(recipe, root), *({**facts, **row} for row in rows)]}
    ordered = sorted(known.values(), key=lambda row: str(row["what"]))
    with atomic_write(_results(recipe, root)) as part:
        part.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(recipe: str, root: Path = ROOT) -> list[Row]:
    """Rows of a recipe's `results.json`; none without that file."""
    path = _results(recipe, root)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def origin(root: Path = ROOT) -> Row:
    """Commit, machine and date of a measurement that is made now."""
    return {"commit": commit(root), "machine": machine(), "date": date.today().isoformat()}


def commit(root: Path = ROOT) -> str:
    """Short hash of HEAD, with "+" where tracked Python files differ from it; "unknown" outside of git."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("diff", "--name-only", "HEAD", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """Processor with the vector instructions that it may use, cores, GPU if any, versions of torch and Python."""
    import torch

    from weakaudio.deploy.benchmark import describe

    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([str(describe(torch.device("cpu"))), *gpus, f"Python {platform.python_version()}"])


def table(recipe: str, what: str, root: Path = ROOT) -> str:
    """Markdown of a table: a row per system, a column per metric; below it how, where and when it was measured."""
    rows = [row for row in load(recipe, root) if row["what"] == what]
    if not rows:
        raise ValueError(f"recipes/{recipe}/results.json: no rows for the table {what!r}")
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines = list(dict.fromkeys((row["system"], row["data"]) for row in rows))
    by_data = len({data for _, data in lines}) > 1
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    cells = {(row["system"], row["data"], row["metric"]): _cell(row, notes) for row in rows}
    text = [
        _line(["system", *(["data"] if by_data else []), *metrics]),
        _line([*(["---"] * (1 + by_data)), *(["---:"] * len(metrics))]),
    ]
    for system, data in lines:
        values = [cells.get((system, data, metric), "") for metric in metrics]
        text.append(_line([system, *([data] if by_data else []), *values]))
    below = [] if by_data else [lines[0][1]]
    below += dict.fromkeys(f"`{row['command']}`" for row in rows)
    below += dict.fromkeys(f"{row['machine']}; commit {row['commit']}; {row['date']}" for row in rows)
    text += [
        "",
        f"<sub>{'; '.join(below)}</sub>",
        *(f"<br><sub>{n}: {note}</sub>" for n, note in enumerate(notes, 1)),
    ]
    return "\n".join(text) + "\n"


def models_table() -> str:
    """Markdown of the table of models: a row for each that is known by name."""
    from weakaudio.pretrained.catalogue import COLUMNS, NOTE, catalogue

    entries = list(catalogue().values())
    lines = [[*COLUMNS, "comes"], ["---", *["---:"] * 5, "---", "---"]]
    lines += [[f"`{entry.name}`", *entry.cells[1:], entry.origin] for entry in entries]
    sources = dict.fromkeys(f"{m.data} {m.metric}: {m.source}" for entry in entries for m in entry.metrics)
    return "\n".join(map(_line, lines)) + f"\n\n<sub>{NOTE} Sources: {'; '.join(sources)}.</sub>\n"


def render(path: Path, root: Path = ROOT) -> str:
    """Text of a Markdown file with its tables as they should be.

    Raises
    ------
    ValueError
        A table is opened and not closed, or nothing is recorded for it.
    """
    text = path.read_text(encoding="utf-8")
    if text.count("<!-- results: ") + text.count("<!-- models -->") != len(_TABLE.findall(text)):
        raise ValueError(f"{path}: a table is opened and not closed")

    def filled(found: re.Match[str]) -> str:
        body = table(found["recipe"], found["what"], root) if found["recipe"] else models_table()
        return f"{found[1]}{body}{found[4]}"

    return _TABLE.sub(filled, text)


def main(args: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser("python -m recipes.results", description="Write the tables of figures.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table differs")
    check = parser.parse_args(args).check
    cards, readmes = sorted(root.glob("pretrained/*.md")), sorted(root.glob("recipes/*/README.md"))
    texts = {path: render(path, root) for path in [root / "README.md", *readmes, *cards] if path.is_file()}
    changed = [path for path, text in texts.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        print(
            f"{path.relative_to(root)}: {'tables differ; run `python -m recipes.results`' if check else 'rewritten'}"
        )
        if not check:
            path.write_text(texts[path], encoding="utf-8")
    return int(check and bool(changed))


def _key(row: Row) -> tuple[str, str, str, str]:
    return row["what"], row["system"], row["metric"], row["data"]


def _validate(row: Row) -> None:
    missing, unknown = [name for name in REQUIRED if name not in row], sorted(row.keys() - set(FIELDS))
    if missing or unknown:
        raise ValueError(f"row {row}: missing {missing}, unknown {unknown}")
    numbers = [row["value"], row.get("spread") or 0.0]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise ValueError(f"row {row}: value and spread must be finite numbers")


def _cell(row: Row, notes: list[str]) -> str:
    """Value with three significant digits, or all digits of an int; spread, repeats and note."""
    value = row["value"]
    digits = 0 if value == 0 or isinstance(value, int) else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    text += "" if row["spread"] is None else f" ± {row['spread']:,.{digits}f}"
    text += f" (n={row['n']})" if row["n"] > 1 else ""
    return text + (f" <sup>{notes.index(row['note']) + 1}</sup>" if row["note"] else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _results(recipe: str, root: Path) -> Path:
    return root / "recipes" / recipe / "results.json"


if __name__ == "__main__":
    raise SystemExit(main())
