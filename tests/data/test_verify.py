from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from weakaudio.data.corpus import LABELS, MANIFEST, STORE, verify_corpus, write_labels
from weakaudio.data.labels import LabelSet
from weakaudio.data.store import StoreWriter
from weakaudio.errors import ManifestError, StoreError

KEYS = [f"{n}.wav" for n in range(6)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six clips of 100 samples, two per shard."""
    with StoreWriter(tmp_path / STORE, 8000, shard_samples=200) as writer:
        for n, key in enumerate(KEYS):
            writer.add(key, np.full(100, n + 1, dtype=np.int16), ["dog"])
    (tmp_path / MANIFEST).write_text("path,labels\n" + "".join(f"{key},dog\n" for key in KEYS))
    write_labels(LabelSet(["dog", "rain"]), tmp_path)
    return tmp_path


def faults(corpus: Path) -> dict[str, str]:
    table = verify_corpus(corpus)
    return dict(zip(table["path"], table["fault"], strict=True))


def test_an_intact_corpus_has_no_faults(corpus: Path) -> None:
    assert faults(corpus) == {}


@pytest.mark.parametrize("number", range(6))
def test_one_changed_sample_is_found(corpus: Path, number: int) -> None:
    with h5py.File(corpus / STORE / f"shard-0000{number // 2}.h5", "a") as file:
        file["audio"][100 * (number % 2) + 37] += 1
    assert faults(corpus) == {KEYS[number]: "samples differ from what was packed"}


def test_clips_of_a_lost_and_of_a_damaged_shard_are_named(corpus: Path) -> None:
    (corpus / STORE / "shard-00001.h5").unlink()
    lost = "in the manifest, but not in the store"
    assert faults(corpus) == {KEYS[2]: lost, KEYS[3]: lost}
    damaged = corpus / STORE / "shard-00002.h5"
    damaged.write_bytes(damaged.read_bytes()[:500])
    found = faults(corpus)
    assert "truncated" in found.pop("shard-00002.h5")
    assert found == dict.fromkeys(KEYS[2:], lost)


def test_a_clip_twice_in_the_store_is_found(corpus: Path) -> None:
    content = (corpus / STORE / "shard-00001.h5").read_bytes()
    (corpus / STORE / "shard-00007.h5").write_bytes(content)
    assert faults(corpus) == dict.fromkeys(KEYS[2:4], "twice in the store")


def test_manifest_and_store_must_agree(corpus: Path) -> None:
    text = (corpus / MANIFEST).read_text()
    (corpus / MANIFEST).write_text(text.replace("1.wav,dog", "1.wav,dog;rain").replace("4.wav,dog\n", ""))
    assert faults(corpus) == {
        "1.wav": "labels ['dog'] in the store, ['dog', 'rain'] in the manifest",
        "4.wav": "in the store, but not in the manifest",
    }


def test_a_folder_without_store_or_labels_is_refused(corpus: Path) -> None:
    for shard in (corpus / STORE).glob("shard-*"):
        shard.unlink()
    with pytest.raises(StoreError, match="no clip store"):
        verify_corpus(corpus)
    (corpus / LABELS).unlink()
    with pytest.raises(ManifestError, match="not a prepared corpus"):
        verify_corpus(corpus)
