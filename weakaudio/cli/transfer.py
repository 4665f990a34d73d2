"""Commands that train classifiers of the user's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weakaudio.cli.options import SOME_FAILED, LayerOption, PoolingOption, app
from weakaudio.inference import DEFAULT_MODEL


@app.command()
def transfer(
    manifest: Annotated[
        Path, typer.Argument(help="CSV with path, labels and fold, as `prepare` writes it; or its folder.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or path of a model, or logmel-statistics.")],
    layer: LayerOption = "f1",
    pooling: PoolingOption = "mean",
    classifier: Annotated[str, typer.Option(help="linear-svm, calibrated-svm, logistic or rbf-svm.")] = "linear-svm",
    adapt: Annotated[
        str | None, typer.Option(help="Fine-tune the network on the other folds first: head, I, II, III or full.")
    ] = None,
    heard: Annotated[
        str,
        typer.Option(help="With --adapt, how to adapt to the test fold's audio: nothing, norms or entropy."),
    ] = "nothing",
    allow_shared_sources: Annotated[
        bool, typer.Option("--allow-shared-sources", help="Accept folds that share recordings, as in ESC-50.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for scores.json and predictions.csv.")] = Path(
        "runs/transfer"
    ),
) -> None:
    """Cross-validate a classifier of embeddings over the folds of a manifest."""
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
        Path, typer.Argument(help="A folder with one folder of audio for each class, or a CSV of paths and labels.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write: .safetensors.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Path or name of the model to start from.")
    ] = DEFAULT_MODEL,
    preset: Annotated[
        str, typer.Option(help="Layers to train: head (seconds), or I, II, III, full (minutes or more).")
    ] = "head",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a model of your own classes from a few clips of each, with its accuracy; exit code 3 if clips failed."""
    from weakaudio.transfer.own_classes import adapt_folder

    summary = adapt_folder(source, out, model, preset, device)
    typer.echo(str(summary))
    if summary.failures:
        raise typer.Exit(SOME_FAILED)
