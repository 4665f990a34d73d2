"""The command line: one verb a job. Heavy imports wait until a verb needs them, so that --help answers at once."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from weakaudio.errors import DataPrepError, WeakAudioError

SOME_FAILED = 3  # exit code: done, but some files were left out
CANNOT = 2  # exit code: an error that the user can mend

app = typer.Typer(
    help="Learn sound events from weakly labelled clips; embed recordings; transfer through scikit-learn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Path of a model file, or a name of `weakaudio models`.")
]


class Layer(str, Enum):
    """Which representation of arXiv 1711.01369."""

    f1 = "f1"
    f2 = "f2"


class Pooling(str, Enum):
    """How segments become a clip."""

    mean = "mean"
    max = "max"


class Level(str, Enum):
    """One row a clip, or one a segment."""

    clip = "clip"
    segment = "segment"


LayerOption = Annotated[Layer, typer.Option(help="f1: the embedding; f2: the class probabilities.")]
PoolingOption = Annotated[Pooling, typer.Option(help="How segments become a clip.")]


@app.command(context_settings=_PASS_ON)
def prepare(context: typer.Context) -> None:
    """Make a corpus of a data set: `weakaudio prepare esc50 ROOT OUT`; `weakaudio prepare NAME --help`."""
    from jsonargparse import auto_cli

    known = {point.name: point for point in entry_points(group="weakaudio.data_prep")}
    name, *arguments = context.args or ["--help"]
    if name in ("-h", "--help"):
        typer.echo("Usage: weakaudio prepare NAME [ARGUMENTS]; with --help after NAME, what it takes.\n")
        typer.echo(f"NAME: {', '.join(sorted(known))}")
        return
    if name not in known:
        raise DataPrepError(f"data set {name!r}: unknown; there are {', '.join(sorted(known))}")
    function = known[name].load()
    summary = auto_cli(function, args=arguments, prog=f"weakaudio prepare {name}", fail_untyped=False)
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


@app.command()
def verify(corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus with a clip store.")]) -> None:
    """Find clips that were lost or altered since a corpus was packed; exit code 3 if there are any."""
    from weakaudio.data.verify import verify_corpus

    faults = verify_corpus(corpus)
    for path, fault in faults.itertuples(index=False):
        typer.echo(f"{path}: {fault}")
    typer.echo(f"{corpus}: {len(faults)} faults" if len(faults) else f"{corpus}: every clip is as it was packed")
    if len(faults):
        raise typer.Exit(SOME_FAILED)


@app.command(context_settings=_PASS_ON)
def train(context: typer.Context) -> None:
    """Train a network: `weakaudio train --config recipes/soundscapes/weak.yaml`; --help shows all settings."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from weakaudio.training.command import train as run

    path = run(context.args)
    if not getattr(rank_zero_only, "rank", 0):  # with several devices, each is a process
        typer.echo(f"trained: {path}")


@app.command()
def teach(
    model: Annotated[str, typer.Argument(help="Path or name of the teacher.")],
    corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .h5.")],
    split: Annotated[str, typer.Option(help="Clips to ask the teacher about.")] = "train",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Write a model's class probabilities of each clip, for `weakaudio train --teacher FILE`."""
    from weakaudio.data.corpus import Corpus
    from weakaudio.pretrained import load_model
    from weakaudio.training.teacher import write_soft_targets

    n_clips = write_soft_targets(load_model(model), Corpus(corpus), out, {"split": split}, device=device)
    typer.echo(f"{n_clips} clips -> {out}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Path or name of a model.")],
    corpus: Annotated[Path, typer.Argument(help="Folder of a prepared corpus.")],
    split: Annotated[str, typer.Option(help="Clips to measure.")] = "test",
    thresholds_from: Annotated[
        str, typer.Option(help="Split that chooses the thresholds of F1; F1 is left out if it is the one measured.")
    ] = "val",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for metrics.json and per_class.csv.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure a model on clips of a corpus: mAP, mAUC, d-prime, lwlrap and, where onsets are known, PSDS and F1."""
    from weakaudio.data.corpus import Corpus
    from weakaudio.pretrained import load_model
    from weakaudio.training.evaluation import evaluate as run

    chosen_on = None if thresholds_from == split else {"split": thresholds_from}
    found = run(load_model(model), Corpus(corpus), {"split": split}, chosen_on, device=device)
    clip = found.clip
    typer.echo(
        f"{clip.n_clips} clips, {clip.n_classes} classes: mAP {clip.mean_ap:.3f} (chance {clip.prevalence:.3f}), "
        f"mAUC {clip.mean_auc:.3f}, d-prime {clip.d_prime:.2f}, lwlrap {clip.lwlrap:.3f}"
    )
    for name, f1 in (("segment-based", found.segment), ("event-based", found.event)):
        if f1:
            typer.echo(f"{name} F1: micro {f1.micro:.3f}, macro {f1.macro:.3f}")
    if found.psds:
        typer.echo(f"PSDS: scenario 1 {found.psds.scenario1:.3f}, scenario 2 {found.psds.scenario2:.3f}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        found.save(out)
        typer.echo(f"-> {out}")


@app.command()
def embed(
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .h5, .npz or .parquet.")],
    model: ModelName,
    level: Annotated[Level, typer.Option(help="One row a clip, or one a segment.")] = Level.clip,
    layer: LayerOption = Layer.f1,
    pooling: PoolingOption = Pooling.mean,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Embed a recording or a folder; a run that was killed goes on where it was."""
    from weakaudio.inference.embedding import Embedder
    from weakaudio.inference.folder import embed_folder

    embedder = Embedder.from_pretrained(model, layer.value, pooling.value, device)
    summary = embed_folder(embedder, source, out, level.value, model, shlex.join(["weakaudio", *sys.argv[1:]]))
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


@app.command()
def transfer(
    manifest: Annotated[
        Path, typer.Argument(help="CSV with path, labels, fold, as `prepare` writes it; or its folder.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="As for embed, or logmel-statistics: no network.")],
    layer: LayerOption = Layer.f1,
    pooling: PoolingOption = Pooling.mean,
    classifier: Annotated[str, typer.Option(help="linear-svm or rbf-svm.")] = "linear-svm",
    allow_shared_sources: Annotated[
        bool, typer.Option("--allow-shared-sources", help="Keep folds that share recordings, as ESC-50's.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for scores.json and predictions.csv.")] = Path(
        "runs/transfer"
    ),
) -> None:
    """Cross-validate a classifier of embeddings over a manifest's folds."""
    from weakaudio.data.corpus import MANIFEST
    from weakaudio.transfer.command import transfer as run

    table = manifest / MANIFEST if manifest.is_dir() else manifest
    scores = run(table, out, model, layer.value, pooling.value, classifier, allow_shared_sources)
    for fold, accuracy in scores.accuracies.items():
        typer.echo(f"fold {fold}: {accuracy:.1%}")
    typer.echo(f"{scores} -> {out}")


@app.command()
def models() -> None:
    """List the models that are known by name."""
    from rich.console import Console
    from rich.table import Table

    from weakaudio.pretrained import load_model, model_names

    table = Table("name", "classes", "sample rate", "front end", "parameters", "training")
    for name in model_names():
        model = load_model(name)
        size = sum(parameter.numel() for parameter in model.network.parameters())
        training = str(model.notes.get("training", ""))
        row = (str(len(model.labels)), f"{model.sample_rate} Hz", model.front_end.name, f"{size / 1e6:.2f} M")
        table.add_row(name, *row, training)
    Console().print(table)


def main() -> None:
    """The console script: errors that a user can mend are one line on standard error, and exit code 2."""
    try:
        app()
    except WeakAudioError as error:
        typer.echo(f"weakaudio: {error}", err=True)
        sys.exit(CANNOT)


if __name__ == "__main__":
    main()
