"""Commands for recordings: embed, detect, listen, similar, evaluate-events."""

from __future__ import annotations

import json
import os
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakaudio.cli.options import SOME_FAILED, LayerOption, Level, ModelName, PoolingOption, app
from weakaudio.errors import WeakAudioError
from weakaudio.files import printable
from weakaudio.inference import DEFAULT_MODEL

if TYPE_CHECKING:
    import pandas as pd

    from weakaudio.batch.recordings import Recording
    from weakaudio.batch.runner import AnalyseGroups, RunSummary
    from weakaudio.inference.detector import Detector


class EngineName(str, Enum):
    """Where recordings are analysed."""

    local = "local"
    ray = "ray"


class Search(str, Enum):
    """Library that searches for nearest neighbours."""

    sklearn = "sklearn"
    faiss = "faiss"


Source = Annotated[
    str, typer.Argument(help="A recording, a folder of recordings, or - for a list of paths on standard input.")
]
Include = Annotated[
    list[str] | None, typer.Option(help="Only recordings whose path matches, as 'site*/*.wav'; repeatable.")
]
Exclude = Annotated[list[str] | None, typer.Option(help="Skip recordings whose path matches; repeatable.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Start again if the output was made with other settings or from another source."
    ),
]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="local, or ray for a Ray cluster.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where it is native.")]
MinLength = Annotated[
    float | None, typer.Option(help="Drop shorter events; seconds.", show_default="the model's own, else 0")
]
MergeGap = Annotated[float, typer.Option(help="Merge events of a class that are no farther apart; seconds.")]
Hysteresis = Annotated[
    float, typer.Option(help="An event lasts while its score stays at or above this fraction of the threshold.")
]
Median = Annotated[float, typer.Option(help="Length of a median filter over the scores; seconds.")]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Score that an event must reach, 0 to 1.", show_default="the model's own, else 0.5"),
]
Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="CSV of class and threshold, as per_class.csv of `weakaudio evaluate`; only these classes are detected."
    ),
]


@app.command()
def embed(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .h5, .npz or .parquet.")],
    model: ModelName = DEFAULT_MODEL,
    level: Annotated[Level, typer.Option(help="One row a clip, or one a segment.")] = Level.clip,
    layer: LayerOption = "f1",
    pooling: PoolingOption = "mean",
    include: Include = None,
    exclude: Exclude = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    engine: EngineOption = EngineName.local,
) -> None:
    """Embed a recording or a folder. A killed run resumes; a later one embeds what is new."""
    from weakaudio.batch.embed import embed_folder
    from weakaudio.inference.embedder import Embedder

    embedder = Embedder.from_pretrained(model, layer, pooling, device, _dtype(dtype, out, overwrite))
    summary = embed_folder(
        embedder,
        _recordings(source),
        out,
        level.value,
        model_name=model,
        command=shlex.join(["weakaudio", *sys.argv[1:]]),
        include=include or (),
        exclude=exclude or (),
        overwrite=overwrite,
        engine=_engine(engine),
    )
    _done(summary)


@app.command()
def detect(
    source: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Table of events: .csv, .parquet, .jsonl, .txt (Raven), .labels (Audacity) or .tsv (DESED). Without "
            "it, events of one recording are printed.",
        ),
    ] = None,
    model: ModelName = DEFAULT_MODEL,
    threshold: ThresholdOption = None,
    thresholds: Thresholds = None,
    min_length: MinLength = None,
    merge_gap: MergeGap = 0.0,
    hysteresis: Hysteresis = 1.0,
    median: Median = 0.0,
    max_events: Annotated[
        int | None, typer.Option(help="Keep the N highest-scoring events of each recording.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="HTML page of the events, to sort, filter, see and hear.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="csv, parquet, jsonl, raven, audacity or desed.", show_default="by the suffix of --out"),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    overwrite: Overwrite = False,
    top: Annotated[int, typer.Option(min=0, help="Number of clip-level tags that are printed.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    engine: EngineOption = EngineName.local,
) -> None:
    """Detect events: `weakaudio detect street.wav` prints them; -o writes those of a file or a folder.

    With -o, scores are kept beside the table: other thresholds, filters or formats need no second analysis.
    """
    from weakaudio.batch.detect import detect_folder
    from weakaudio.batch.runner import check_writable
    from weakaudio.inference.detector import Detector

    if out is None and (report or format or overwrite or engine != EngineName.local):
        raise WeakAudioError("--report, --format, --overwrite and --engine need -o, the table of events to write")
    if out is None and (source == "-" or Path(source).is_dir()):
        raise WeakAudioError(f"{source}: several recordings; give the table of events to write with -o EVENTS.csv")
    detector = Detector.from_pretrained(
        model,
        _thresholds(threshold, thresholds),
        min_length,
        merge_gap,
        hysteresis,
        median,
        max_events,
        device,
        dtype if out is None else _dtype(dtype, out, overwrite),
    )
    if report:
        check_writable(report)
    if out is None:
        _show(detector, Path(source), top)
        return
    summary = detect_folder(
        detector,
        _recordings(source),
        out,
        format,
        include=include or (),
        exclude=exclude or (),
        overwrite=overwrite,
        engine=_engine(engine),
    )
    if report:
        from weakaudio.reports.excerpts import write_run_page  # it loads matplotlib

        title = f"{len(summary.recordings)} recordings" if source == "-" else printable(Path(source).resolve().name)
        write_run_page(report, detector, summary, f"Events in {title}")
    _done(summary)


@app.command()
def listen(
    model: ModelName = DEFAULT_MODEL,
    threshold: ThresholdOption = None,
    thresholds: Thresholds = None,
    min_length: MinLength = None,
    merge_gap: MergeGap = 0.0,
    hysteresis: Hysteresis = 1.0,
    median: Median = 0.0,
    mic: Annotated[bool, typer.Option("--mic", help="Listen to a microphone instead of standard input.")] = False,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of raw audio without a header: s16le, s24le, s32le or f32le.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Sample rate of raw audio; Hz.")] = 48000,
    channels: Annotated[int, typer.Option(help="Channels of raw audio.")] = 1,
    step: Annotated[float, typer.Option(help="Seconds analysed at once: shorter steps have less delay.")] = 1.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Print events of live audio as they end, as JSON lines: `arecord -f S16_LE -r 48000 | weakaudio listen`."""
    from weakaudio.audio.microphone import microphone
    from weakaudio.audio.pipe import RawFormat, read_pipe
    from weakaudio.inference.detector import Detector
    from weakaudio.inference.streaming import StreamingDetector

    chosen = _thresholds(threshold, thresholds)
    detector = Detector.from_pretrained(model, chosen, min_length, merge_gap, hysteresis, median, None, device, dtype)
    if mic:
        rate, blocks = detector.model.sample_rate, microphone(detector.model.sample_rate, step)
    else:
        raw = RawFormat(sample_rate, channels, encoding) if encoding else None
        rate, blocks = read_pipe(sys.stdin.buffer, raw, step)
    stream = StreamingDetector(detector, rate, step)
    typer.echo(f"listening at {rate} Hz; an event is printed at most {stream.delay:.1f} s after its end", err=True)
    try:
        for block in blocks:
            _print_events(stream.push(block))
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:  # however the audio ends, its last events are printed
        if stream.seconds:
            _print_events(stream.finish())


@app.command()
def similar(
    store: Annotated[Path, typer.Argument(help="Embeddings by `weakaudio embed --level segment`.")],
    example: Annotated[str, typer.Argument(help="A recording: its path, or its name in STORE.")],
    at: Annotated[
        float | None, typer.Option(help="Start of the sound in it; seconds.", show_default="the whole recording")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the sound; seconds.")] = 1.0,
    top: Annotated[int, typer.Option(min=1, help="Number of sounds to find.")] = 20,
    gap: Annotated[
        float, typer.Option(min=0, help="Of sounds that are no farther apart, return only the most similar; seconds.")
    ] = 1.0,
    folder: Annotated[
        Path | None, typer.Option(help="Folder that was embedded; a page takes its sounds from there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A page (.html) or a table (.csv).", show_default="print")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model that made STORE, if its name or path has changed.")
    ] = "",
    search: Annotated[Search, typer.Option(help="sklearn, or faiss if it is installed.")] = Search.sklearn,
    device: Device = "auto",
) -> None:
    """Find the most similar sounds: `weakaudio similar STORE dog.wav --at 12.5 --folder FOLDER -o page.html`."""
    from weakaudio.files import write_table
    from weakaudio.inference.similarity import EmbeddingIndex, choose_example

    if out is not None and out.suffix not in (".html", ".csv"):
        raise WeakAudioError(f"{out}: the name must end in .html or .csv")
    if out is not None and out.suffix == ".html" and folder is None:
        raise WeakAudioError(f"{out}: a page needs the recordings; give the folder that was embedded (--folder)")
    index = EmbeddingIndex.from_file(store, search.value)
    chosen = choose_example(index, example, at, seconds, folder, model, device)
    found = index.similar(chosen, top, gap)
    if out is None:
        typer.echo(found.to_string(index=False, float_format="{:.3f}".format))
        return
    if folder is not None and out.suffix == ".html":
        from weakaudio.reports.similarity_page import write_similar_page

        write_similar_page(out, found, chosen, folder)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_table(found.round({"similarity": 6}), out)
    typer.echo(f"{len(found)} similar sounds -> {out}")


@app.command("evaluate-events")
def evaluate_events(
    events: Annotated[Path, typer.Argument(help="Detected events: a table of `weakaudio detect`.")],
    truth: Annotated[
        Path, typer.Argument(help="Reference events: such a table, a DESED TSV, Raven or Audacity labels.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for metrics.json and per_class.csv.")
    ] = None,
) -> None:
    """Evaluate events against reference events: segment- and event-based F1."""
    from weakaudio.evaluation.events import evaluate_events as run
    from weakaudio.formats.events import read_events

    found = run(read_events(events), read_events(truth))
    typer.echo(str(found))
    if out:
        found.save(out)
        typer.echo(f"-> {out}")


def _recordings(source: str) -> Path | list[Recording]:
    """The recordings that a source names, for `embed_folder` and `detect_folder`."""
    from weakaudio.batch.recordings import listed_recordings

    return listed_recordings(map(os.fsdecode, sys.stdin.buffer)) if source == "-" else Path(source)


def _engine(engine: EngineName) -> AnalyseGroups:
    if engine == EngineName.ray:
        from weakaudio.batch.ray import analyse_on_ray

        return analyse_on_ray
    from weakaudio.batch.runner import analyse_groups

    return analyse_groups


def _dtype(dtype: str, out: Path, overwrite: bool) -> str:
    """The dtype of a run: one that is resumed keeps its own unless another is named, also on another machine."""
    from weakaudio.batch.checkpoint import kept_dtype
    from weakaudio.batch.runner import checkpoint_path

    return (kept_dtype(checkpoint_path(out)) or dtype) if dtype == "auto" and not overwrite else dtype


def _thresholds(threshold: float | None, thresholds: Path | None) -> float | dict[str, float] | None:
    """The thresholds of `Detector`: one for all classes, or those of a table."""
    from weakaudio.formats.thresholds import read_thresholds

    if threshold is not None and thresholds is not None:
        raise WeakAudioError("--threshold and --thresholds: give one of them")
    return threshold if thresholds is None else read_thresholds(thresholds)


def _done(summary: RunSummary) -> None:
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)


def _print_events(events: pd.DataFrame) -> None:
    """Print events at once, one JSON object a line."""
    for event in events.round({"start": 3, "end": 3, "score": 4}).to_dict("records"):
        typer.echo(json.dumps(event, ensure_ascii=False))


def _show(detector: Detector, path: Path, top: int) -> None:
    """Print the tags and events of a recording."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = detector.detect_file(path)
    tags, events = (
        Table("tag", "score", title="clip-level tags"),
        Table("start", "end", "event", "score", title="events"),
    )
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
