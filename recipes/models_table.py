"""The table of models in README.md, written from `pretrained/registry.toml`.

    python -m recipes.models_table            rewrite it
    python -m recipes.models_table --check    exit 1 if it disagrees

It stands between `<!-- models -->` and `<!-- /models -->`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from weakaudio.pretrained.catalogue import COLUMNS, NOTE, catalogue

README = Path(__file__).resolve().parents[1] / "README.md"
_TABLE = re.compile(r"(<!-- models -->\n).*?(<!-- /models -->)", re.DOTALL)


def table() -> str:
    """Markdown: a row for each model that is known by name."""
    entries = list(catalogue().values())
    lines = [[*COLUMNS, "comes"], ["---", *["---:"] * 5, "---", "---"]]
    lines += [[f"`{entry.name}`", *entry.cells[1:], entry.origin] for entry in entries]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    sources = dict.fromkeys(f"{m.data} {m.metric}: {m.source}" for entry in entries for m in entry.metrics)
    return f"{text}\n<sub>{NOTE} Sources: {'; '.join(sources)}.</sub>\n"


def render(readme: Path) -> str:
    """The text of a README with the table as the registry has it.

    Raises
    ------
    ValueError
        It does not have the two marks once each.
    """
    text, n_tables = _TABLE.subn(lambda found: found[1] + table() + found[2], readme.read_text(encoding="utf-8"))
    if n_tables != 1:
        raise ValueError(f"{readme}: expected `<!-- models -->` and then `<!-- /models -->` once, got {n_tables}")
    return text


def main(args: Sequence[str] | None = None, readme: Path = README) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser("python -m recipes.models_table", description="Table of models in README.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the table disagrees")
    check = parser.parse_args(args).check
    text = render(readme)
    if text == readme.read_text(encoding="utf-8"):
        return 0
    if check:
        print(f"{readme.name}: the table of models disagrees; run `python -m recipes.models_table`")
        return 1
    beside = readme.with_name(f".{readme.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, readme)
    print(f"{readme.name}: rewritten")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
