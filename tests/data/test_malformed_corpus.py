"""Damaged stores, manifests, class lists and tables of events are refused, or read as they were written."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from malformed import Check, Outcome, expect, read_damaged

from weakaudio.data.corpus import MANIFEST, STORE, Corpus, read_labels, verify_corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.data.store import ClipStore, StoreWriter
from weakaudio.errors import WeakAudioError


def _check_corpus(path: Path, seed: Path, _: tuple[str, ...]) -> Outcome:
    """By `verify_corpus`, which must report any difference of audio and weak labels; then by all other readers."""
    parent = STORE if path.suffix == ".h5" else "."
    root, whole = (file.parents[1] if parent == STORE else file.parent for file in (path, seed))
    outcome: Outcome = "refused"
    with suppress(WeakAudioError):
        if verify_corpus(root).empty:
            expect(_contents(root) == _written(whole), "verified, but not what was packed")
            outcome = "read"
    with suppress(WeakAudioError):
        store = ClipStore(root / STORE)
        for n in range(len(store)):
            with suppress(WeakAudioError):
                store.audio(n)
    with suppress(WeakAudioError), StoreWriter(root / STORE, 16000):
        pass
    with suppress(WeakAudioError):
        corpus = Corpus(root)
        corpus.targets(corpus.select({"split": "train"}))
    return outcome


def _check_manifest(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    for labels in (None, read_labels(path.parent)):
        for check_files in (False, True):
            with suppress(WeakAudioError):
                manifest = read_manifest(path, labels, check_files)
                paths = list(manifest.table["path"])
                sane = all(isinstance(name, str) and name for name in paths) and len(set(paths)) == len(paths)
                expect(sane, f"paths {paths}")
                expect(
                    all(isinstance(names, list) for names in manifest.table["labels"]), "labels that are not lists"
                )
                with suppress(WeakAudioError):
                    expect(len(manifest.label_set) > 0, "no labels")
    return _check_corpus(path, seed, changes)


def _check_events(path: Path, _seed: Path, _changes: tuple[str, ...]) -> Outcome:
    try:
        events = Corpus(path.parent).events()
    except WeakAudioError:
        return "refused"
    expect({"path", "label", "onset", "offset"} <= set(events.columns), f"columns {list(events.columns)}")
    for column in ("onset", "offset"):
        expect(pd.api.types.is_numeric_dtype(events[column]), f"{column} is not a number")
        expect(bool(np.isfinite(events[column]).all()), f"{column} is not finite")
    expect(bool((events["onset"] <= events["offset"]).all()), "an event that ends before it begins")
    expect(all(isinstance(name, str) for column in ("path", "label") for name in events[column]), "no names")
    return "read"


@cache
def _written(root: Path) -> dict[str, Any]:
    return _contents(root)


def _contents(root: Path) -> dict[str, Any]:
    """All that verification covers: rate, samples and labels of the store, paths and labels of the manifest."""
    store = ClipStore(root / STORE)
    table = read_manifest(root / MANIFEST, check_files=False).table
    return {
        "sample_rate": store.sample_rate,
        "store": {key: (store.labels[n], store.audio(n).tobytes()) for n, key in enumerate(store.keys)},
        "manifest": dict(zip(table["path"], table["labels"], strict=True)),
    }


CHECKS: dict[str, Check] = {
    "clip store": _check_corpus,
    "manifest": _check_manifest,
    "class list": _check_corpus,
    "strong truth": _check_events,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_a_damaged_corpus_is_refused_or_read_as_it_was_written(kind: str, intact: Path, scratch: Path) -> None:
    read_damaged(kind, CHECKS[kind], intact, scratch)
