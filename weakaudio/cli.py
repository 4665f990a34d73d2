"""The command line: one verb a job. Heavy imports wait until a verb needs them, so that --help answers at once."""

from __future__ import annotations

import shlex
import sys
import warnings
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakaudio.errors import CheckpointError, DataPrepError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL

if TYPE_CHECKING:
    from weakaudio.inference.detection import Detector

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
    layer: LayerOption = "f1",
    pooling: PoolingOption = "mean",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Embed a recording or a folder; a run that was killed goes on where it was."""
    from weakaudio.inference.embedding import Embedder
    from weakaudio.inference.folder import embed_folder

    embedder = Embedder.from_pretrained(model, layer, pooling, device)
    summary = embed_folder(embedder, source, out, level.value, model, shlex.join(["weakaudio", *sys.argv[1:]]))
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


@app.command()
def detect(
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table to write: .csv. Without it, events are shown here.")
    ] = None,
    model: ModelName = DEFAULT_MODEL,
    threshold: Annotated[
        float | None, typer.Option(help="Probability from which on a class counts as heard; else the model's own.")
    ] = None,
    min_length: Annotated[
        float | None, typer.Option(help="Leave out shorter events; seconds; else the model's own.")
    ] = None,
    merge_gap: Annotated[float, typer.Option(help="Join events of a class no farther apart; seconds.")] = 0.0,
    top: Annotated[int, typer.Option(min=0, help="How many tags of the whole recording are shown.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Find events: `weakaudio detect street.wav` shows them; with -o, those of a recording or a folder become CSV."""
    from weakaudio.inference.detection import Detector, detect_folder

    if out is None and source.is_dir():
        raise WeakAudioError(f"{source}: a folder; say with -o EVENTS.csv where its table of events is to go")
    detector = Detector.from_pretrained(model, threshold, min_length, merge_gap, device)
    if out is None:
        _show(detector, source, top)
        return
    summary = detect_folder(detector, source, out)
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


def _show(detector: Detector, path: Path, top: int) -> None:
    """Print tags and events of a recording."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = detector.detect_file(path)
    tags, events = Table("tag", "score", title="the whole"), Table("start", "end", "event", "score", title="events")
    for label, score in found.tags.head(top).itertuples(index=False):
        tags.add_row(Text(label), f"{score:.2f}")
    for start, end, label, score in found.events.itertuples(index=False):
        events.add_row(f"{start:.2f}", f"{end:.2f}", Text(label), f"{score:.2f}")
    console = Console()
    typer.echo(f"{path}: {found.seconds:.2f} s, {len(found.events)} events")
    if top:
        console.print(tags)
    if len(found.events):
        console.print(events)


@app.command()
def transfer(
    manifest: Annotated[
        Path, typer.Argument(help="CSV with path, labels, fold, as `prepare` writes it; or its folder.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="As for embed, or logmel-statistics: no network.")],
    layer: LayerOption = "f1",
    pooling: PoolingOption = "mean",
    classifier: Annotated[str, typer.Option(help="linear-svm or rbf-svm.")] = "linear-svm",
    adapt: Annotated[
        str | None, typer.Option(help="Adapt the network on the other folds first: head, I, II, III or full.")
    ] = None,
    heard: Annotated[
        str, typer.Option(help="With --adapt, what is done with a fold's audio before: nothing, norms or entropy.")
    ] = "nothing",
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
    scores = run(table, out, model, layer, pooling, classifier, allow_shared_sources, adapt, heard)
    for fold, accuracy in scores.accuracies.items():
        typer.echo(f"fold {fold}: {accuracy:.1%}")
    typer.echo(f"{scores} -> {out}")


@app.command()
def adapt(
    source: Annotated[
        Path, typer.Argument(help="A folder with a folder of audio for each class, or a CSV of paths and labels.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write: .safetensors.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Path or name of the model to begin with.")
    ] = DEFAULT_MODEL,
    preset: Annotated[
        str, typer.Option(help="What is trained: head (seconds), or I, II, III, full (minutes and more).")
    ] = "head",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make a model of own classes from a few clips of each, and say how good it is; exit code 3 if some failed."""
    from weakaudio.transfer.adapt_command import adapt_folder

    summary = adapt_folder(source, out, model, preset, device)
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


@app.command()
def models(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also how fast those are that need no download, on this processor.")
    ] = False,
) -> None:
    """List the models that are known by name: size, figures, licence, and where they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from weakaudio.pretrained.catalogue import catalogue
    from weakaudio.pretrained.overview import COLUMNS, NOTE, facts, whereabouts

    entries = list(catalogue().values())
    last: dict[str, tuple[str, ...]] = {entry.name: (whereabouts(entry),) for entry in entries}
    failures: list[str] = []
    if measure:
        last, failures = _speeds([entry.name for entry in entries if entry.at_hand])
    columns = (*COLUMNS, *(("speed", "ms") if measure else ("where",)))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for entry in entries:
        table.add_row(*facts(entry), *last.get(entry.name, ()))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    console.print(table)
    typer.echo(NOTE)
    if measure:
        typer.echo(
            "speed: seconds of audio a second, from waveform, in batches of 8 clips of 10 s. ms: for one such clip. "
            "Left out: what needs a download or is missing here."
        )
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(SOME_FAILED)


def _speeds(names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Times real time and milliseconds for a clip of each model; and what is wrong with those that do not open."""
    from weakaudio.pretrained import load_model
    from weakaudio.pretrained.measure import measure
    from weakaudio.progress import progress

    speeds: dict[str, tuple[str, ...]] = {}
    failures = []
    for name in progress(names, len(names), "measuring"):
        try:
            speed = measure(load_model(name))
        except WeakAudioError as error:
            failures.append(str(error))
        else:
            speeds[name] = (f"{speed.times_real_time:.0f}", f"{1000 * speed.latency:.0f}")
    return speeds, failures


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="efficientat, panns or paper (the N_S of arXiv 1711.01369).")],
    file: Annotated[Path, typer.Argument(help="Weights as they are published, a file of torch.save.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write: .safetensors.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Class names in the order of the outputs: AudioSet's class_labels_indices.csv, one name a line, or "
            "(for the kind paper, which needs it) classes_id_name.txt. Else AudioSet's 527."
        ),
    ] = None,
) -> None:
    """Make a model file of weights that others publish; a pickle with code in it is refused, and its code not run."""
    from weakaudio.pretrained import convert as run
    from weakaudio.pretrained import save_model
    from weakaudio.pretrained.class_list import read_class_list

    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: a model file's name ends in .safetensors")
    model = run(kind, file, read_class_list(labels) if labels else None)
    save_model(model, out)
    licence = model.notes["licence"]
    typer.echo(f"{len(model.labels)} classes, {model.sample_rate} Hz, licence of the weights: {licence} -> {out}")


def _one_line(message: Warning | str, category: type[Warning], *where: object) -> None:
    typer.echo(f"weakaudio: warning: {message}", err=True)


def main() -> None:
    """The console script: errors that a user can mend are one line on standard error, and exit code 2."""
    warnings.showwarning = _one_line  # type: ignore[assignment]
    try:
        app()
    except WeakAudioError as error:
        typer.echo(f"weakaudio: {error}", err=True)
        sys.exit(CANNOT)


if __name__ == "__main__":
    main()
