"""The code under measured figures: once it differs from what a figure was measured with, that figure is stale."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

_DISTILLING = [
    "weakaudio/audio",
    "weakaudio/networks",
    "weakaudio/data/corpus.py",
    "weakaudio/data/mixtures.py",
    "weakaudio/data/sampling.py",
    "weakaudio/data/store.py",
    "weakaudio/pretrained/checkpoint.py",
    "weakaudio/training/distillation.py",
    "weakaudio/training/decimated.py",
    "weakaudio/nas/proxies.py",
    "weakaudio/nas/short_training.py",
]

# What the figures of a recipe depend on, beside the YAML files in its folder; absent paths are skipped.
CODE: dict[str, list[str]] = {
    "benchmark": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data",
        "weakaudio/training/lightning_module.py",
        "data_prep/folder.py",
        "data_prep/packing.py",
        "data_prep/summary.py",
        "recipes/benchmark",
    ],
    "soundscapes": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data/corpus.py",
        "weakaudio/data/datamodule.py",
        "weakaudio/data/sampling.py",
        "weakaudio/data/store.py",
        "weakaudio/training/callbacks.py",
        "weakaudio/training/fit.py",
        "weakaudio/evaluation/corpus.py",
        "weakaudio/evaluation/localisation.py",
        "weakaudio/training/losses.py",
        "weakaudio/evaluation/tagging.py",
        "weakaudio/training/lightning_module.py",
        "weakaudio/training/teacher.py",
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
        "weakaudio/transfer/cross_validation.py",
        "weakaudio/inference/embedder.py",
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
        "weakaudio/formats/embeddings.py",
        "weakaudio/pretrained/checkpoint.py",
        "recipes/fuzz",
    ],
    "field": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/batch/runner.py",
        "weakaudio/batch/detect.py",
        "weakaudio/inference/detector.py",
        "weakaudio/inference/embedder.py",
        "weakaudio/formats/embeddings.py",
        "weakaudio/formats/events.py",
        "weakaudio/formats/event_formats.py",
        "weakaudio/inference/postprocess.py",
        "weakaudio/batch/embed.py",
        "weakaudio/batch/checkpoint.py",
        "weakaudio/inference/parts.py",
        "weakaudio/batch/recordings.py",
        "weakaudio/batch/run.py",
        "weakaudio/inference/windows.py",
        "recipes/field",
    ],
    "latency": [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/pretrained",
        "weakaudio/memory.py",
        "weakaudio/inference/embedder.py",
        "weakaudio/transfer/classifiers.py",
        "weakaudio/transfer/features.py",
        "weakaudio/transfer/cross_validation.py",
        "weakaudio/deploy",
        "weakaudio/deploy/timing.py",
        "weakaudio/deploy/benchmark.py",
        "weakaudio/deploy/cuda_graphs.py",
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
        "weakaudio/inference/embedder.py",
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
        "weakaudio/training/decimated.py",
        "weakaudio/deploy",
        "weakaudio/latency",
        "recipes/latency/foretold.py",
    ],
    ("latency", "depth and width"): [
        *_DISTILLING,
        "weakaudio/nas/scaling_law.py",
        "weakaudio/nas/scaling_grid.py",
        "recipes/latency/law.py",
    ],
    ("latency", "proxies"): [
        *_DISTILLING,
        "weakaudio/nas/clip_latency.py",
        "weakaudio/nas/search_space.py",
        "weakaudio/nas/components.py",
        "weakaudio/nas/latency_model.py",
        "weakaudio/nas/blockwise.py",
        "weakaudio/nas/distillation_targets.py",
        "weakaudio/nas/stage_store.py",
        "weakaudio/nas/workers.py",
        "recipes/latency/proxies.py",
    ],
    ("latency", "weight normalisation"): [
        "weakaudio/audio",
        "weakaudio/networks",
        "weakaudio/data/corpus.py",
        "weakaudio/data/datamodule.py",
        "weakaudio/data/sampling.py",
        "weakaudio/data/store.py",
        "weakaudio/pretrained/checkpoint.py",
        "weakaudio/training/callbacks.py",
        "weakaudio/training/fit.py",
        "weakaudio/evaluation/corpus.py",
        "weakaudio/evaluation/localisation.py",
        "weakaudio/training/losses.py",
        "weakaudio/evaluation/tagging.py",
        "weakaudio/training/lightning_module.py",
        "weakaudio/training/weight_norm.py",
        "recipes/latency/weight_norm.py",
    ],
}


def code_digest(recipe: str, what: str, root: Path) -> str:
    """SHA-256, in hexadecimal, of the code under the figures of a recipe's table.

    Over the syntax trees of the Python files that `CODE_OF_TABLES` or else `CODE` names, so comments, docstrings and
    layout do not count; and, for a table that `CODE_OF_TABLES` does not name, over the recipe's YAML files.

    Raises
    ------
    ValueError
        The recipe is not in `CODE`.
    """
    if recipe not in CODE:
        raise ValueError(f"recipe {recipe!r}: not in recipes.code.CODE, which has {', '.join(CODE)}")
    own = CODE_OF_TABLES.get((recipe, what))
    digest = hashlib.sha256()
    for path in _python_files(CODE[recipe] if own is None else own, root):
        digest.update(f"{path.relative_to(root).as_posix()}\n{_syntax(path)}\n".encode())
    for path in () if own is not None else sorted((root / "recipes" / recipe).glob("*.yaml")):
        digest.update(path.name.encode() + b"\n" + path.read_bytes() + b"\n")
    return digest.hexdigest()


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
