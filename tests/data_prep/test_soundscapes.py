from __future__ import annotations

import hashlib
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from killable import Killable, wait_to_be_killed
from weakaudio_data_prep import soundscapes
from weakaudio_data_prep.soundscapes import prepare

from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import Corpus
from weakaudio.errors import DataPrepError, WeakAudioError

RATE = 2205
SMALL = {"train": 12, "val": 4, "test": 4, "sample_rate": RATE}


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def change_manifest(source: Path, target: Path, change: object) -> Path:
    """Copy the event clips with a manifest modified by `change`."""
    shutil.copytree(source, target)
    table = pd.read_csv(target / "manifest.csv", dtype={"source": str})
    change(table).to_csv(target / "manifest.csv", index=False)  # type: ignore[operator]
    return target


@pytest.fixture(scope="module")
def big(event_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """600 clips: 400, 100 and 100."""
    out = tmp_path_factory.mktemp("soundscapes")
    prepare(str(event_clips), str(out), train=400, val=100, test=100, sample_rate=RATE)
    return Corpus(out)


def test_every_byte_depends_only_on_the_seed(event_clips: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        prepare(str(event_clips), str(tmp_path / name), **SMALL, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    different = {name for name, value in digest(tmp_path / "a").items() if digest(tmp_path / "c")[name] != value}
    assert different == set(digest(tmp_path / "a")) - {"labels.txt", "store/.lock"}


def test_lengths_and_labels_are_distributed_as_in_audioset(big: Corpus) -> None:
    seconds = big.store.n_samples / RATE
    assert len(seconds) == 600
    assert seconds.min() >= 1.99
    assert seconds.max() <= 30
    assert (big.store.n_samples == 10 * RATE).mean() == pytest.approx(0.7, abs=0.05)
    counts = big.manifest.table["labels"].map(len)
    assert counts.mean() == pytest.approx(2.7, abs=0.1)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert big.manifest.table["split"].value_counts().to_dict() == {"train": 400, "val": 100, "test": 100}


def test_strong_labels_agree_with_weak_labels(big: Corpus) -> None:
    truth = big.events().groupby("path")["label"].agg(lambda labels: sorted(set(labels)))
    assert truth.to_dict() == dict(zip(big.manifest.table["path"], big.manifest.table["labels"], strict=True))
    assert dict(zip(big.store.keys, big.store.labels, strict=True)) == truth.to_dict()


def test_events_lie_inside_their_clips(big: Corpus) -> None:
    events = big.events()
    seconds = dict(zip(big.store.keys, big.store.n_samples / RATE, strict=True))
    assert (events["onset"] >= 0).all()
    assert (events["onset"] < events["offset"]).all()
    late = events["offset"] - events["path"].map(seconds)
    assert late.max() <= 0, f"{(late > 0).sum()} of {len(events)} events end after their clip"


def test_events_are_where_the_strong_labels_say(event_clips: Path, tmp_path: Path) -> None:
    """Clips with one event at 10 dB or more are louder inside the event than outside."""
    prepare(str(event_clips), str(tmp_path), train=150, val=1, test=1, sample_rate=RATE)
    corpus, heard = Corpus(tmp_path), 0
    for path, rows in corpus.events().groupby("path"):
        event = rows.iloc[0]
        audio = corpus.store.audio(corpus.store.keys.index(str(path)))
        inside = np.zeros(len(audio), dtype=bool)
        inside[round(event.onset * RATE) : round(event.offset * RATE)] = True
        if len(rows) > 1 or event.snr_db < 10 or inside.sum() < 200 or (~inside).sum() < RATE:
            continue
        heard += 1
        assert np.mean(audio[inside] ** 2) > 4 * np.mean(audio[~inside] ** 2)
    assert heard >= 3


def test_no_recording_is_in_two_splits(event_clips: Path, big: Corpus) -> None:
    recordings = pd.read_csv(event_clips / "manifest.csv").set_index("path")["source"]
    events = big.events().merge(big.manifest.table[["path", "split"]], on="path")
    splits = events.groupby(events["source"].map(recordings))["split"].nunique()
    assert len(splits) > 20
    assert (splits == 1).all()


def test_a_recording_in_two_folds_stays_in_one_split_and_is_listed(event_clips: Path, tmp_path: Path) -> None:
    def share(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["path"].isin(["dog-1-0.wav", "rain-4-1.wav"]), "source"] = "dog50"  # dog-5-0.wav
        return table

    root = change_manifest(event_clips, tmp_path / "events", share)
    summary = prepare(str(root), str(tmp_path / "out"), train=60, val=20, test=20, sample_rate=RATE)
    listed = pd.read_csv(tmp_path / "out" / "notes.csv")
    assert sorted(listed["path"]) == ["dog-1-0.wav", "rain-4-1.wav"]
    assert listed["note"].str.contains("dog50").all()
    assert summary.failures == []  # they can be read
    used = set(Corpus(tmp_path / "out").events()["source"])
    assert "dog-5-0.wav" in used
    assert not used & {"dog-1-0.wav", "rain-4-1.wav"}


def test_backgrounds_are_not_shared_between_splits(event_clips: Path, tmp_path: Path) -> None:
    """Each background is a different tone, visible in the spectrum of a quiet clip."""
    (tmp_path / "beds").mkdir()
    tones = {100 * n: f"{n}.wav" for n in range(2, 10)}
    for frequency, name in tones.items():
        sf.write(tmp_path / "beds" / name, 0.5 * np.sin(2 * np.pi * frequency * np.arange(4 * RATE) / RATE), RATE)
    prepare(str(event_clips), str(tmp_path / "out"), backgrounds=str(tmp_path / "beds"), **{**SMALL, "train": 30})
    corpus = Corpus(tmp_path / "out")
    heard: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for n, key in enumerate(corpus.store.keys):
        audio = corpus.store.audio(n)
        power = np.abs(np.fft.rfft(audio)) ** 2
        bins = {frequency: round(frequency * len(audio) / RATE) for frequency in tones}
        levels = {f: power[k - 1 : k + 2].sum() / np.median(power[k - 40 : k + 40]) for f, k in bins.items()}
        heard[key.split("/")[1]].add(max(levels, key=lambda f: levels[f]))
    assert all(heard.values())
    assert not heard["train"] & heard["val"]
    assert not heard["train"] & heard["test"]
    assert not heard["val"] & heard["test"]


def test_wav_files_are_the_clips_of_the_store(event_clips: Path, tmp_path: Path) -> None:
    prepare(str(event_clips), str(tmp_path), train=3, val=1, test=1, sample_rate=RATE, wav=True)
    corpus = Corpus(tmp_path)
    for n, path in enumerate(corpus.manifest.paths):
        np.testing.assert_array_equal(read_audio(path)[0], corpus.store.audio(n))


class SmallShards(soundscapes.StoreWriter):
    """Waits to be killed once it has so many shards."""

    most = 1000

    def __init__(self, folder: Path, sample_rate: int) -> None:
        super().__init__(folder, sample_rate, shard_samples=30000)

    def add(self, *arguments: Any) -> None:
        if len(list(self.folder.glob("shard-*.h5"))) >= self.most:
            wait_to_be_killed()
        super().add(*arguments)


def prepare_until_killed(_: object, root: Path, out: Path, most: int) -> None:
    SmallShards.most, soundscapes.StoreWriter = most, SmallShards  # type: ignore[misc]
    prepare(str(root), str(out), train=12, val=4, test=4, sample_rate=2205)


def test_a_corpus_made_by_killed_runs_equals_an_uninterrupted_one(event_clips: Path, tmp_path: Path) -> None:
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    assert Killable(prepare_until_killed, event_clips, uninterrupted, 1000).wait() == 0
    for shards in (1, 3):
        run = Killable(prepare_until_killed, event_clips, killed, shards)
        while len(list(killed.glob("store/shard-*.h5"))) < shards:
            assert run.process.is_alive()
            time.sleep(0.002)
        assert run.kill() == -signal.SIGKILL
        assert len(list(killed.glob("store/shard-*.h5"))) == shards
        assert not (killed / "manifest.csv").exists()
    assert Killable(prepare_until_killed, event_clips, killed, 1000).wait() == 0
    assert digest(killed) == digest(uninterrupted)


def test_another_seed_into_the_same_folder_never_mixes_labels_and_audio(event_clips: Path, tmp_path: Path) -> None:
    prepare(str(event_clips), str(tmp_path / "out"), **SMALL, seed=0)
    prepare(str(event_clips), str(tmp_path / "fresh"), **SMALL, seed=1)
    before = digest(tmp_path / "out")
    try:
        prepare(str(event_clips), str(tmp_path / "out"), **SMALL, seed=1)
    except WeakAudioError:
        assert digest(tmp_path / "out") == before  # refused, and unchanged
    else:
        assert digest(tmp_path / "out") == digest(tmp_path / "fresh")


def test_a_broken_event_is_left_out_and_listed(event_clips: Path, tmp_path: Path) -> None:
    shutil.copytree(event_clips, tmp_path / "events")
    (tmp_path / "events" / "dog-1-0.wav").write_text("no audio")
    prepare(str(tmp_path / "events"), str(tmp_path / "out"), **SMALL)
    assert pd.read_csv(tmp_path / "out" / "failures.csv")["path"].tolist() == ["dog-1-0.wav"]
    assert len(Corpus(tmp_path / "out").store) == 20


def test_a_fold_in_two_splits_is_refused(event_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="in only one split"):
        prepare(str(event_clips), str(tmp_path), **SMALL, train_folds=(1, 2, 4), val_folds=(4,))


def test_an_empty_fold_is_refused(event_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match="no clip with"):
        prepare(str(event_clips), str(tmp_path), **SMALL, test_folds=(6,))


def test_a_class_missing_from_a_split_is_refused_by_name(event_clips: Path, tmp_path: Path) -> None:
    def drop(table: pd.DataFrame) -> pd.DataFrame:
        return table[~((table["fold"] == 4) & (table["labels"] == "rain"))]

    root = change_manifest(event_clips, tmp_path / "events", drop)
    with pytest.raises(DataPrepError, match="split val has no event of class 'rain'"):
        prepare(str(root), str(tmp_path / "out"), **SMALL)


def test_fewer_backgrounds_than_splits_are_refused(event_clips: Path, tmp_path: Path) -> None:
    (tmp_path / "beds").mkdir()
    for n in range(2):
        sf.write(tmp_path / "beds" / f"{n}.wav", np.zeros(100), RATE)
    with pytest.raises(DataPrepError, match="2 backgrounds for 3 splits"):
        prepare(str(event_clips), str(tmp_path / "out"), backgrounds=str(tmp_path / "beds"), **SMALL)
