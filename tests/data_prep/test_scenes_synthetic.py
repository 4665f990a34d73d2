from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from jsonargparse import auto_cli
from killable import Killable, wait_to_be_killed
from numpy.typing import NDArray
from weakaudio_data_prep import scenes_synthetic
from weakaudio_data_prep.scenes_synthetic import AMBIENCES, SCENES, Scene, prepare
from weakaudio_data_prep.summary import Summary

from weakaudio.audio.io import read_audio
from weakaudio.data.corpus import Corpus
from weakaudio.data.manifest import read_manifest
from weakaudio.errors import DataPrepError, ManifestError

RATE = 2205
TINY_AMBIENCES = {"air": ("one-air", "two-air"), "sea": ("one-sea",)}
TINY = {
    "harbour": Scene({"air": 0.5, "sea": 0.5}, {"bell": 0.6, "dog": 0.3, "music": 0.4}),
    "field": Scene({"air": 1.0}, {"dog": 0.7, "rain": 0.5, "saw": 0.2}),
    "nothing": Scene({"sea": 1.0}, {}),
}
SMALL = {"per_scene": 10, "seconds": 2.0, "sample_rate": RATE}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes_synthetic, "SCENES", TINY)
    monkeypatch.setattr(scenes_synthetic, "AMBIENCES", TINY_AMBIENCES)


@pytest.fixture(scope="module")
def urban(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for UrbanSound8K: two of its folds, classes music and dog_bark, two slices of each recording.

    The recording bell50 is in `event_clips`, too.
    """
    root, rng, rows = tmp_path_factory.mktemp("urban"), np.random.default_rng(2), []
    for n in range(15):
        for take in range(2):
            name = f"{n:02d}-{take}.wav"
            sf.write(root / name, 0.3 * rng.standard_normal(800).clip(-3, 3), RATE)
            label = "music" if n < 9 else "dog_bark"
            rows.append(
                {"path": name, "labels": label, "fold": 1 + n % 2, "source": "bell50" if n == 14 else f"u{n}"}
            )
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise: 20 s, 15 s, and 10 s, so that the sea's stretches (1.5 s of it) are shorter than a clip of 2 s."""
    root, rng = tmp_path_factory.mktemp("beds"), np.random.default_rng(3)
    for name, seconds in (("one-air", 20), ("two-air", 15), ("one-sea", 10)):
        sf.write(root / f"{name}.wav", 0.2 * rng.standard_normal(seconds * RATE).clip(-3, 3), RATE)
    return root


@pytest.fixture(scope="module")
def big(event_clips: Path, urban: Path, beds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_synthetic, "SCENES", TINY)
        patch.setattr(scenes_synthetic, "AMBIENCES", TINY_AMBIENCES)
        make(out, event_clips, urban, beds, **{**SMALL, "per_scene": 100})
    return out


def make(out: Path, esc50: Path, urban: Path, beds: Path, **settings: object) -> Summary:
    sources = {"esc50": str(esc50), "urbansound8k": str(urban), "backgrounds": str(beds)}
    return prepare(str(out), **sources, **settings)  # type: ignore[arg-type]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_clips_of_each_scene_are_spread_over_the_folds(big: Path) -> None:
    manifest = read_manifest(big / "manifest.csv")
    table = manifest.table
    scenes = table["labels"].str[0]
    assert pd.crosstab(scenes, table["fold"]).to_numpy().tolist() == [[20] * 5] * 3
    assert [path.split("/")[1] for path in table["path"]] == scenes.tolist()
    assert manifest.label_set.names == sorted(TINY)
    lengths = {read_audio(path)[0].size for path in manifest.paths}
    assert lengths == {2 * RATE}


def test_no_recording_of_an_event_is_in_two_folds(big: Path, event_clips: Path, urban: Path) -> None:
    tables = [pd.read_csv(root / "manifest.csv") for root in (event_clips, urban)]
    recordings = pd.concat(tables).set_index("path")["source"]
    events = pd.read_csv(big / "events.csv").merge(pd.read_csv(big / "manifest.csv"), on="path")
    folds = events.groupby(events["source"].map(recordings))["fold"].agg(lambda folds: len(set(folds)))
    assert len(folds) > 40
    assert set(folds) == {1}
    esc50 = events[~events["source"].str[0].str.isdigit()]
    assert (esc50["source"].str.split("-").str[1] == esc50["fold"].astype(str)).all()  # bell-3-0.wav stays in fold 3


def test_no_moment_of_an_ambience_is_in_two_folds_and_all_folds_have_all_kinds(big: Path) -> None:
    beds = pd.read_csv(big / "ambiences.csv").merge(pd.read_csv(big / "manifest.csv"), on="path")
    assert len(beds) == 300
    assert set(beds["file"]) == {"one-air.wav", "two-air.wav", "one-sea.wav"}
    for _, rows in beds.groupby("file"):
        spans = rows.groupby("fold").agg(start=("start", "min"), end=("end", "max")).sort_values("start")
        assert spans.index.tolist() == [1, 2, 3, 4, 5]
        assert (spans["start"].to_numpy()[1:] - spans["end"].to_numpy()[:-1] >= 0.45).all()


def test_the_ambience_of_a_clip_is_where_the_table_says(big: Path, beds: Path) -> None:
    """In clips without events."""
    found = pd.read_csv(big / "ambiences.csv").set_index("path")
    quiet = sorted(set(found.index) - set(pd.read_csv(big / "events.csv")["path"]))
    assert {path.split("/")[1] for path in quiet} == set(TINY)
    for path in quiet:
        kind, file, start, end = found.loc[path]
        assert Path(file).stem in TINY_AMBIENCES[kind]
        bed = read_audio(beds / file)[0][round(start * RATE) : round(end * RATE)]
        audio = read_audio(big / path)[0]
        shifts = [np.corrcoef(np.resize(np.roll(bed, k), audio.size), audio)[0, 1] for k in range(-3, 4)]
        assert max(shifts) > 0.99 or end - start < 2  # stretches that are repeated: rounding moves the joint
        assert max(np.corrcoef(bed[10 + k : 1000 + k], audio[10:1000])[0, 1] for k in range(-3, 4)) > 0.99


def test_events_occur_as_often_as_the_scenes_say(big: Path) -> None:
    events = pd.read_csv(big / "events.csv")
    scene = events["path"].str.split("/").str[1]
    heard = events.groupby([scene, "label"])["path"].nunique() / 100
    stray = scenes_synthetic.STRAY / 5  # bell, dog, music, rain, saw
    for name in TINY:
        for label in ("bell", "dog", "music", "rain", "saw"):
            chance = TINY[name].events.get(label, 0.0)
            expected = chance + (1 - chance) * stray
            assert heard.get((name, label), 0) == pytest.approx(
                expected, abs=4 * (expected * (1 - expected) / 100) ** 0.5
            )
    assert not set(events["label"]) & {"long", "drip", "dog_bark"}  # in no scene; renamed


def test_events_lie_inside_their_clips_and_are_louder_than_their_surroundings(big: Path) -> None:
    events = pd.read_csv(big / "events.csv")
    assert (events["onset"] >= 0).all()
    assert (events["offset"] <= 2.0).all()
    alone = events[(events.groupby("path")["path"].transform("size") == 1) & (events["snr_db"] > 8)]
    assert len(alone) >= 5
    for row in alone.itertuples():
        audio = read_audio(big / str(row.path))[0]
        inside = np.zeros(audio.size, dtype=bool)
        inside[round(row.onset * RATE) : round(row.offset * RATE)] = True
        if 200 < inside.sum() < audio.size - 200:
            assert np.mean(audio[inside] ** 2) > 2 * np.mean(audio[~inside] ** 2)


def test_every_byte_depends_only_on_the_seed(event_clips: Path, urban: Path, beds: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make(tmp_path / name, event_clips, urban, beds, **SMALL, seed=seed)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == set(a) - {"labels.txt", "manifest.csv", "notes.csv"}


def test_a_recording_in_two_places_is_used_in_one_and_listed(
    event_clips: Path, urban: Path, beds: Path, tmp_path: Path
) -> None:
    shutil.copytree(event_clips, tmp_path / "events")
    table = pd.read_csv(event_clips / "manifest.csv")
    table.loc[table["path"].isin(["dog-1-0.wav", "dog-4-1.wav"]), "source"] = "twice"
    table.to_csv(tmp_path / "events" / "manifest.csv", index=False)
    summary = make(tmp_path / "out", tmp_path / "events", urban, beds, **SMALL)
    notes = pd.read_csv(tmp_path / "out" / "notes.csv")
    assert notes.to_numpy().tolist() == [
        ["dog-1-0.wav", "its recording twice is also in a later fold"],
        ["14-0.wav", "its recording bell50 is also in ESC-50"],
        ["14-1.wav", "its recording bell50 is also in ESC-50"],
    ]
    assert summary.failures == []
    assert not {"dog-1-0.wav", "14-0.wav", "14-1.wav"} & set(pd.read_csv(tmp_path / "out" / "events.csv")["source"])


def test_the_command_line_takes_the_material_by_name(
    event_clips: Path, urban: Path, beds: Path, tmp_path: Path
) -> None:
    sources = ["--backgrounds", str(beds), "--urbansound8k", str(urban), "--esc50", str(event_clips)]
    sizes = ["--per_scene", "10", "--seconds", "2", "--sample_rate", str(RATE)]
    summary = auto_cli(prepare, args=[str(tmp_path / "cli"), *sources, *sizes], fail_untyped=False)
    assert "synthetic scenes: 30 clips, 3 classes" in str(summary)
    make(tmp_path / "python", event_clips, urban, beds, **SMALL)
    assert digest(tmp_path / "cli") == digest(tmp_path / "python")


def test_clips_can_be_packed_for_training(event_clips: Path, urban: Path, beds: Path, tmp_path: Path) -> None:
    make(tmp_path, event_clips, urban, beds, **SMALL, store=True)
    corpus = Corpus(tmp_path)
    for n, path in enumerate(corpus.manifest.paths):
        np.testing.assert_array_equal(read_audio(path)[0], corpus.store.audio(n))
    assert set(corpus.events()["path"]) <= set(corpus.store.keys)


def make_until_killed(tell: Callable[[str], None], out: Path, sources: list[Path], files: int) -> None:
    """Wait to be killed in the middle of a file, once so many are written."""
    scenes_synthetic.SCENES, scenes_synthetic.AMBIENCES = TINY, TINY_AMBIENCES
    write, left = sf.write, iter(range(files))

    def stop(path: Path, audio: NDArray[np.float32], *arguments: Any, **settings: Any) -> None:
        if next(left, None) is None:
            write(path, audio[: audio.size // 2], *arguments, **settings)
            tell("stopped")
            wait_to_be_killed()
        write(path, audio, *arguments, **settings)

    sf.write = stop
    make(out, *sources, **SMALL)


def test_a_corpus_made_by_killed_runs_equals_an_uninterrupted_one(
    event_clips: Path, urban: Path, beds: Path, tmp_path: Path
) -> None:
    sources = [event_clips, urban, beds]
    make(tmp_path / "uninterrupted", *sources, **SMALL)
    for files in (2, 7):
        run = Killable(make_until_killed, tmp_path / "killed", sources, files)
        assert run.receive() == "stopped"
        assert run.kill() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "manifest.csv").exists()
    assert Killable(make_until_killed, tmp_path / "killed", sources, 1000).wait() == 0
    killed = digest(tmp_path / "killed")
    assert {name: value for name, value in killed.items() if not name.endswith(".part")} == digest(
        tmp_path / "uninterrupted"
    )


def test_other_settings_into_the_same_folder_are_refused(
    event_clips: Path, urban: Path, beds: Path, tmp_path: Path
) -> None:
    make(tmp_path, event_clips, urban, beds, **SMALL)
    before = digest(tmp_path)
    with pytest.raises(DataPrepError, match="made with other settings"):
        make(tmp_path, event_clips, urban, beds, **SMALL, seed=1)
    assert digest(tmp_path) == before


def test_a_broken_event_is_left_out_and_listed(event_clips: Path, urban: Path, beds: Path, tmp_path: Path) -> None:
    shutil.copytree(event_clips, tmp_path / "events")
    (tmp_path / "events" / "dog-1-0.wav").write_text("no audio")
    summary = make(tmp_path / "out", tmp_path / "events", urban, beds, **SMALL)
    assert [Path(path).name for path, _ in summary.failures] == ["dog-1-0.wav"]
    assert "not audio" in pd.read_csv(tmp_path / "out" / "failures.csv")["reason"][0]
    assert summary.n_clips == 30


def test_unsuitable_material_is_refused_with_the_reason(
    event_clips: Path, urban: Path, beds: Path, tmp_path: Path
) -> None:
    def refused(message: str, esc50: Path = event_clips, backgrounds: Path = beds, **settings: object) -> None:
        with pytest.raises(DataPrepError, match=message):
            make(tmp_path / "out", esc50, urban, backgrounds, **{**SMALL, **settings})
        assert not (tmp_path / "out" / "manifest.csv").exists()

    refused("4 clips of each scene are fewer than the 5 folds", per_scene=4)
    table = pd.read_csv(event_clips / "manifest.csv")
    shutil.copytree(event_clips, tmp_path / "events")
    for change, message in (
        (table.drop(columns="fold"), "no column `fold`"),
        (table.drop(columns="source"), "no column `source`"),
        (table[(table["labels"] != "rain") | (table["fold"] != 3)], "fold 3 has no event of class 'rain', .* field"),
    ):
        change.to_csv(tmp_path / "events" / "manifest.csv", index=False)
        refused(message, tmp_path / "events")
    with pytest.raises(ManifestError, match="no such file"):
        make(tmp_path / "out", tmp_path, urban, beds)
    shutil.copytree(beds, tmp_path / "beds")
    sf.write(tmp_path / "beds" / "two-air.wav", np.full(7 * RATE, 0.1), RATE)
    refused(r"two-air\.wav: too short for 5 folds; at least 7\.5 s are needed", backgrounds=tmp_path / "beds")
    (tmp_path / "beds" / "two-air.wav").unlink()
    refused("1 ambiences are missing, the first: two-air", backgrounds=tmp_path / "beds")


def test_the_ten_scenes_share_ambiences_and_classes() -> None:
    """For the shipped table, not the small one."""
    assert len(SCENES) == 10
    kinds = {kind for scene in SCENES.values() for kind in scene.ambiences}
    assert kinds == set(AMBIENCES)
    for scene in SCENES.values():
        assert sum(scene.ambiences.values()) == pytest.approx(1)
        assert all(0 < chance < 1 for chance in scene.events.values())
    for kind in kinds:
        assert sum(kind in scene.ambiences for scene in SCENES.values()) >= 2
    by_ambience_alone = sum(max(scene.ambiences.get(kind, 0) for scene in SCENES.values()) for kind in kinds) / 10
    assert by_ambience_alone == pytest.approx(0.425)  # the module says 43 %
    for name, scene in SCENES.items():
        others = {label for other in SCENES if other != name for label in SCENES[other].events}
        assert len(scene.events.keys() & others) >= 3
