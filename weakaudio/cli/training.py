"""Commands that train a network, write a teacher's soft targets, and evaluate a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import PASS_ON, app


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train a network: `weakaudio train --config recipes/soundscapes/weak.yaml`; --help lists all settings."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from weakaudio.training.fit import train as run

    path = run(context.args)
    if not getattr(rank_zero_only, "rank", 0):  # with several devices, each is a process
        typer.echo(f"trained: {path}")


@app.command()
def teach(
    model: Annotated[str, typer.Argument(help="Path or name of the teacher.")],
    corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .h5.")],
    split: Annotated[str, typer.Option(help="Clips to score.")] = "train",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Write a teacher's class probabilities for each clip, for `weakaudio train --teacher FILE`."""
    from weakaudio.data.corpus import Corpus
    from weakaudio.pretrained.registry import load_model
    from weakaudio.training.soft_targets import write_soft_targets

    n_clips = write_soft_targets(load_model(model), Corpus(corpus), out, {"split": split}, device=device)
    typer.echo(f"{n_clips} clips -> {out}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Path or name of a model.")],
    corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus.")],
    split: Annotated[str, typer.Option(help="Clips to measure.")] = "test",
    thresholds_from: Annotated[
        str, typer.Option(help="Split that chooses the thresholds of F1; no F1 where it is the one measured.")
    ] = "val",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for metrics.json and per_class.csv.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure a model on a corpus: mAP, mAUC, d-prime, lwlrap and, with strong labels, PSDS and F1."""
    from weakaudio.evaluation.corpus import evaluate as run

    chosen_on = None if thresholds_from == split else {"split": thresholds_from}
    found = run(model, corpus, {"split": split}, chosen_on, device=device)
    clip = found.clip
    typer.echo(
        f"{clip.n_clips} clips, {clip.n_classes} classes: mAP {clip.mean_ap:.3f} (chance {clip.prevalence:.3f}), "
        f"mAUC {clip.mean_auc:.3f}, d-prime {clip.d_prime:.2f}, lwlrap {clip.lwlrap:.3f}"
    )
    for name, metrics in (("segment-based", found.segment), ("event-based", found.event)):
        if metrics:
            typer.echo(f"{name} F1: {metrics}")
    if found.psds:
        typer.echo(f"PSDS: scenario 1 {found.psds.scenario1:.3f}, scenario 2 {found.psds.scenario2:.3f}")
    if out:
        found.save(out)
        typer.echo(f"-> {out}")
