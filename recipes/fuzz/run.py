"""Damaged files of every kind the library reads: none may crash it, hang it, or pass for whole.

python -m recipes.fuzz.run                 20,000 inputs; records the counts
python -m recipes.fuzz.run --inputs 500    fewer; records nothing

Exit code 1 if there was a fault; each is kept in OUT/faults with its input.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from recipes.fuzz.checks import check
from recipes.fuzz.mutations import make_input
from recipes.fuzz.seeds import KINDS, find_seeds, write_seeds
from recipes.fuzz.watch import FAULTS, Answer, Job, watch
from recipes.results import Row, record
from weakaudio.progress import progress

WHAT = "inputs"
FULL = 20000
_COMMAND = "python -m recipes.fuzz.run"
_PLACE = re.compile(r'File "[^"]*(weakaudio/[^"]+)", line (\d+)')


def fuzz(out: Path, inputs: int, seed: int, workers: int, kinds: Collection[str] = tuple(KINDS)) -> pd.DataFrame:
    """Read damaged files and keep those that show a fault, each in a folder of `out`/faults.

    Returns
    -------
    A row an input: number, kind, outcome ("refused", "read", or one of `FAULTS`), seconds, report. Those that were
    done, if it is interrupted.
    """
    for folder in ("seeds", "faults"):
        shutil.rmtree(out / folder, ignore_errors=True)
    write_seeds(out / "seeds")
    seeds = {kind: paths for kind, paths in find_seeds(out / "seeds").items() if kind in kinds}
    job = Job(seeds, out / "seeds", seed, check)
    with tempfile.TemporaryDirectory(prefix="weakaudio-fuzz-") as scratch:
        answers = watch(job, inputs, Path(scratch), workers)
        return keep(job, progress(answers, inputs, "reading damaged files"), out / "faults")


def keep(job: Job, answers: Iterable[Answer], faults: Path) -> pd.DataFrame:
    """Collect answers as a table, see `fuzz`; faulty inputs are written as they come."""
    contents = job.contents()
    rows = []
    try:
        for answer in answers:
            made = make_input(job.seeds, contents, answer.number, job.seed)
            rows.append((answer.number, made.kind, answer.outcome, answer.seconds, answer.report))
            if answer.outcome in FAULTS:
                folder = faults / f"{answer.number:05d}-{answer.outcome}"
                folder.mkdir(parents=True)
                (folder / Path(made.path).name).write_bytes(made.content)
                about = f"{made.kind}: {made.path}, {', '.join(made.changes)}\n{answer.outcome}\n{answer.report}"
                (folder / "report.txt").write_text(about, encoding="utf-8")
    except KeyboardInterrupt:
        pass
    columns = ["number", "kind", "outcome", "seconds", "report"]
    return pd.DataFrame(rows, columns=columns).sort_values("number", ignore_index=True)


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """By kind, and over all: counts of inputs, refused, read and faults, and the longest answer in seconds."""
    faulty = found["outcome"].isin(FAULTS)
    marked = found.assign(
        refused=found["outcome"] == "refused", read=found["outcome"] == "read", faults=faulty, inputs=True
    )
    columns = {"inputs": "sum", "refused": "sum", "read": "sum", "faults": "sum", "seconds": "max"}
    every = marked.assign(kind="all")
    table: pd.DataFrame = pd.concat([marked, every]).groupby("kind", sort=False).agg(columns)
    return table.rename(columns={"seconds": "slowest, s"})


def results(summary: pd.DataFrame, seed: int) -> list[Row]:
    """Rows for `recipes.results`."""
    facts = {"what": WHAT, "data": f"damaged on the spot, seed {seed}", "command": _COMMAND}
    return [
        {**facts, "system": str(kind), "metric": metric, "value": float(value)}
        for kind, row in summary.iterrows()
        for metric, value in row.items()
    ]


def show(summary: pd.DataFrame, found: pd.DataFrame) -> None:
    """Tables on standard output: counts by kind, and the faults, those of one cause together."""
    table = Table("kind", *summary.columns)
    for kind, row in summary.iterrows():
        table.add_row(str(kind), *(f"{count:,.0f}" for count in row.iloc[:-1]), f"{row.iloc[-1]:.3f}")
    Console().print(table)
    faults = found[found["outcome"].isin(FAULTS)]
    if len(faults):
        causes = faults.assign(cause=[_cause(report) for report in faults["report"]])
        table = Table("kind", "fault", "cause", "count", "first")
        for key, group in causes.groupby(["kind", "outcome", "cause"]):
            assert isinstance(key, tuple)
            table.add_row(*map(str, key), str(len(group)), str(group["number"].iloc[0]))
        Console().print(table)


def _cause(report: str) -> str:
    """The last line of a traceback, up to what differs from case to case, and where in the library it comes from."""
    places = _PLACE.findall(report)
    last = re.split(r"[(:] ?.?\d|: \[|'", (report.strip().splitlines() or [""])[-1])[0][:60]
    return f"{last} {':'.join(places[-1])}" if places else last


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(_COMMAND, description="Read damaged files of every kind the library reads.")
    parser.add_argument("--inputs", type=int, default=FULL, help=f"how many; fewer than {FULL} are not recorded")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only these; nothing is recorded then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="for seeds and faults")
    options = parser.parse_args(args)
    found = fuzz(options.out, options.inputs, options.seed, options.workers, options.kind or KINDS)
    summary = summarise(found)
    show(summary, found)
    if len(found) < options.inputs:
        print(f"interrupted after {len(found)} inputs")
    elif options.inputs >= FULL and not options.kind:
        record("fuzz", results(summary, options.seed))
    return int(bool(summary["faults"].sum()))


if __name__ == "__main__":
    raise SystemExit(main())
