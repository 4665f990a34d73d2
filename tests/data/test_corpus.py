from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from weakaudio.data.corpus import EVENTS, LABELS, MANIFEST, STORE, Corpus, verify_corpus, write_labels
from weakaudio.data.labels import LabelSet
from weakaudio.data.store import StoreWriter
from weakaudio.errors import LabelError, ManifestError, StoreError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Clips a, b, c in the manifest; only c and a, in this order, in the store."""
    with StoreWriter(tmp_path / STORE, 8000) as writer:
        writer.add("c.wav", np.full(30, 3, dtype=np.int16), ["rain"])
        writer.add("a.wav", np.full(10, 1, dtype=np.int16), ["dog", "rain"])
    (tmp_path / MANIFEST).write_text("path,labels,fold\na.wav,dog;rain,1\nb.wav,dog,2\nc.wav,rain,1\n")
    write_labels(LabelSet(["rain", "dog"]), tmp_path)
    return tmp_path


def test_selected_clips_are_in_the_order_of_the_manifest(root: Path) -> None:
    corpus = Corpus(root)
    positions = corpus.select({"fold": [1, 2]})
    assert [corpus.store.keys[n] for n in positions] == ["a.wav", "c.wav"]
    assert corpus.targets(positions).tolist() == [[1, 1], [1, 0]]  # rain, dog: the order of labels.txt


def test_a_selection_without_any_packed_clip_is_refused(root: Path) -> None:
    with pytest.raises(StoreError, match="none of the 1 clips"):
        Corpus(root).select({"fold": 2})


def test_a_folder_that_is_not_a_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"{tmp_path.name}: not a prepared corpus"):
        Corpus(tmp_path)


def test_a_corpus_without_store_or_manifest_is_refused(root: Path) -> None:
    shutil.rmtree(root / STORE)
    with pytest.raises(StoreError, match="no clip store"):
        Corpus(root)
    (root / MANIFEST).unlink()
    with pytest.raises(ManifestError, match=r"manifest\.csv: no such file"):
        Corpus(root)


def test_a_label_outside_the_class_list_is_refused(root: Path) -> None:
    (root / LABELS).write_text("rain\n")
    with pytest.raises(LabelError, match="'dog'"):
        Corpus(root)


def test_events_are_read_if_the_corpus_has_them(root: Path) -> None:
    with pytest.raises(ManifestError, match=EVENTS):
        Corpus(root).events()
    truth = pd.DataFrame({"path": ["a.wav"], "label": ["None"], "onset": [0.25], "offset": [1.0]})
    truth.to_csv(root / EVENTS, index=False)
    pd.testing.assert_frame_equal(Corpus(root).events(), truth, check_dtype=False)


@pytest.mark.parametrize("content", [b"rain\ndo\xff\n", b"", b"rain\ndog\nrain\n"])
def test_a_damaged_class_list_is_named(root: Path, content: bytes) -> None:
    (root / LABELS).write_bytes(content)
    with pytest.raises(LabelError, match=r"labels\.txt: damaged class list"):
        Corpus(root)
    with pytest.raises(LabelError, match=r"labels\.txt: damaged class list"):
        verify_corpus(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label,onset,offset\na.wav,do\xffg,0,1\n", "not a CSV table"),
        (b"path,label,onset\na.wav,dog,0\n", "column offset missing"),
        (b"path,label,onset,offset\na.wav,dog,0,1\na.wav,dog,zero,1\n", "line 3 is not an event"),
        (b"path,label,onset,offset\na.wav,dog,0,\n", "line 2 is not an event"),
        (b"path,label,onset,offset\na.wav,dog,0,inf\n", "line 2 is not an event"),
        (b"path,label,onset,offset\na.wav,dog,2,1\n", "line 2 is not an event"),
        (b"path,label,onset,offset\n,dog,0,1\n", "line 2 is not an event"),
        (b"path,label,onset,offset\na.wav,dog,0,1e999\n", "line 2 is not an event"),
        (b"path,label,onset,offset\na.wav,dog,0,1,2\n", "more cells than its header"),
    ],
)
def test_malformed_events_are_refused_with_file_and_reason(root: Path, content: bytes, message: str) -> None:
    (root / EVENTS).write_bytes(content)
    with pytest.raises(ManifestError, match=rf"events\.csv: .*{message}"):
        Corpus(root).events()


@pytest.mark.parametrize("rows", ["", "a.wav,dog,0,1\n", f"a.wav,dog,0,{'1' * 40}\n"])
def test_event_times_are_always_floats(root: Path, rows: str) -> None:
    (root / EVENTS).write_text(f"path,label,onset,offset\n{rows}")
    events = Corpus(root).events()
    assert len(events) == rows.count("\n")
    assert events[["onset", "offset"]].dtypes.tolist() == [np.float64, np.float64]
