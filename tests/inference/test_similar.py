"""What is found is what a plain loop finds; sounds are found once, and not the example; other models are refused."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weakaudio.errors import AudioError, CheckpointError, StoreError, WeakAudioError
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedding import Embedder
from weakaudio.inference.embedding_file import EmbeddingTable, write_embeddings
from weakaudio.inference.similar import EmbeddingIndex, Example, choose_example
from weakaudio.inference.similar_page import write_similar_page
from weakaudio.networks import FlashCNN, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained import save_model

RATE = 16000
HOP = 0.5  # seconds, of made-up segments
STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))


def made_up(n_clips: int, n_segments: int, width: int = 4, seed: int = 0, levels: int = 0) -> EmbeddingTable:
    """Segments a second long, half a second apart; with few `levels` many of them are equal, and some zero."""
    rng = np.random.default_rng(seed)
    n = n_clips * n_segments
    values = rng.integers(0, levels, (n, width)) if levels else rng.standard_normal((n, width))
    start = np.tile(np.arange(n_segments) * HOP, n_clips)
    clip = np.repeat(np.arange(n_clips), n_segments)
    return EmbeddingTable(
        [f"{k}.wav" for k in range(n_clips)], values.astype(np.float32), {}, clip, start, start + 2 * HOP
    )


def by_a_plain_loop(
    table: EmbeddingTable, example: Example, top: int, gap: float, keep_example: bool
) -> list[tuple[str, float, float, float]]:
    """Every row is scored and compared with every row that was found before it."""
    assert table.clip is not None
    assert table.start is not None
    assert table.end is not None
    rows = []
    for row, embedding in enumerate(table.embeddings.astype(np.float64)):
        if embedding.any():
            cosine = embedding @ example.embedding / np.linalg.norm(embedding) / np.linalg.norm(example.embedding)
            rows.append((round(-float(cosine), 6), row))
    taken = []
    if example.clip is not None and not keep_example:
        taken.append((table.paths[example.clip], example.start or 0.0, example.end or 0.0))
    n_before = len(taken)
    for minus, row in sorted(rows):
        file, start, end = table.paths[table.clip[row]], table.start[row], table.end[row]
        if all(file != other or start - stop > gap or begin - end > gap for other, begin, stop, *_ in taken):
            taken.append((file, start, end, -minus))
    return taken[n_before:][:top]


@settings(max_examples=25)
@given(
    n_clips=st.integers(1, 5),
    n_segments=st.integers(1, 40),
    levels=st.sampled_from([0, 2]),
    top=st.integers(1, 30),
    gap=st.sampled_from([0.0, 0.4, 1.2]),
    keep_example=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_what_a_plain_loop_finds(
    n_clips: int, n_segments: int, levels: int, top: int, gap: float, keep_example: bool, seed: int
) -> None:
    table = made_up(n_clips, n_segments, seed=seed, levels=levels)
    table.embeddings[0] = 1
    index = EmbeddingIndex(table)
    example = index.segment("0.wav", 0.0, seconds=0.6)
    found = index.similar(example, top, gap, keep_example)
    expected = by_a_plain_loop(table, example, top, gap, keep_example)
    np.testing.assert_allclose(found["similarity"], [row[3] for row in expected], atol=2e-6)
    if not levels:  # among equal ones, more than one answer is right
        assert list(found[["file", "start", "end"]].itertuples(index=False, name=None)) == [r[:3] for r in expected]
    assert found["similarity"].is_monotonic_decreasing


def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss")
    table = made_up(20, 50, seed=3)
    example = EmbeddingIndex(table).segment("3.wav", 2.0)
    plain, faiss = (EmbeddingIndex(table, engine=engine).similar(example, 15) for engine in ("sklearn", "faiss"))
    pd.testing.assert_frame_equal(plain, faiss)


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(WeakAudioError, match=r"faiss.*not installed.*weakaudio\[faiss\]"):
        EmbeddingIndex(made_up(1, 2), engine="faiss")


def test_an_engine_that_is_not_known_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="engine 'annoy': unknown; there are sklearn, faiss"):
        EmbeddingIndex(made_up(1, 2), engine="annoy")  # type: ignore[arg-type]


def test_a_sound_is_found_once_and_the_example_not_at_all() -> None:
    table = made_up(2, 40)
    sound = np.array([1, 2, 3, 4], dtype=np.float32)
    table.embeddings[:] = -sound
    table.embeddings[[4, 5, 6, 30, 50]] = sound  # 2 s to 4 s, and 15 s, of the first; 5 s of the second
    table.embeddings[5] *= 3  # louder is not less alike
    index = EmbeddingIndex(table)
    example = index.segment("0.wav", 15.3, 0.4)
    assert (example.start, example.end) == (15.0, 16.0)
    found = index.similar(example, top=2)
    assert set(found["file"]) == {"0.wav", "1.wav"}
    assert found.set_index("file").loc["0.wav", "start"] in (2.0, 2.5, 3.0)
    assert found.set_index("file").loc["1.wav", "start"] == 5.0
    np.testing.assert_allclose(found["similarity"], 1.0, atol=1e-6)
    with_it = index.similar(example, top=3, keep_example=True)
    assert (15.0 in set(with_it["start"]), len(with_it)) == (True, 3)


def test_a_long_sound_does_not_hide_the_next() -> None:
    """However many of its segments are more alike than anything else."""
    table = made_up(3, 900)
    sound = np.array([1, 2, 3, 4], dtype=np.float32)
    table.embeddings[:] = [-1, 0, 0, 0]
    table.embeddings[:900] = sound
    table.embeddings[[1000, 2000]] = sound + np.array([[0.1, 0, 0, 0], [0.5, 0, 0, 0]])
    found = EmbeddingIndex(table).similar(Example(sound, "mine.wav", 0.0, 1.0), top=3, gap=1000.0)
    assert found["file"].tolist() == ["0.wav", "1.wav", "2.wav"]
    assert found["start"][1:].tolist() == [100 * HOP, 200 * HOP]


def test_segments_that_touch_are_one_sound_whatever_their_times_round_to() -> None:
    start, end = np.array([0.0, 0.1 * 3, 0.5]), np.array([0.3, 0.4, 0.6])
    assert start[1] > end[0]
    table = EmbeddingTable(["a.wav"], np.ones((3, 2), np.float32), {}, np.zeros(3, np.int64), start, end)
    found = EmbeddingIndex(table).similar(Example(np.ones(2, np.float32), "mine.wav", 0.0, 1.0), gap=0.0)
    assert found["start"].tolist() == [0.0, 0.5]


def test_an_example_is_the_mean_of_the_segments_whose_middle_lies_in_it() -> None:
    table = made_up(3, 40)
    index = EmbeddingIndex(table)
    rows = 40 + np.array([4, 5, 6])  # of the second: their middles are at 2.5 s, 3 s and 3.5 s
    example = index.segment("1.wav", 2.5, 1.2)
    np.testing.assert_allclose(example.embedding, table.embeddings[rows].mean(0), rtol=1e-5)
    assert (example.start, example.end, example.clip) == (2.0, 4.0, 1)
    short = index.segment("1.wav", 2.6, 0.1)
    np.testing.assert_allclose(short.embedding, table.embeddings[44], rtol=1e-5)
    whole = index.segment("1.wav")
    np.testing.assert_allclose(whole.embedding, table.embeddings[40:80].mean(0), rtol=1e-5, atol=1e-6)
    assert "1.wav" not in set(index.similar(whole, 1000, gap=0)["file"])


def test_more_than_there_is_is_all_there_is() -> None:
    index = EmbeddingIndex(made_up(3, 9))
    found = index.similar(index.segment("0.wav", 0.0), top=10_000, gap=0.0)
    assert 6 < len(found) < 27
    assert not found.duplicated(["file", "start"]).any()


def test_clips_have_no_times() -> None:
    table = made_up(6, 1)
    clips = EmbeddingTable(table.paths, table.embeddings, {})
    index = EmbeddingIndex(clips)
    example = index.segment("2.wav")
    found = index.similar(example)
    assert list(found) == ["file", "similarity"]
    assert set(found["file"]) == {f"{k}.wav" for k in (0, 1, 3, 4, 5)}
    unit = table.embeddings / np.linalg.norm(table.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(found["similarity"], np.sort(np.delete(unit @ unit[2], 2))[::-1], atol=1e-6)
    assert index.similar(example, 1, keep_example=True)["file"].tolist() == ["2.wav"]
    with pytest.raises(StoreError, match="one embedding a recording"):
        index.segment("2.wav", 0.0)


@pytest.mark.parametrize("suffix", ["h5", "npz", "parquet"])
def test_files_of_every_format_are_searched(tmp_path: Path, suffix: str) -> None:
    table = made_up(3, 9)
    write_embeddings(table, tmp_path / f"e.{suffix}")
    index = EmbeddingIndex.from_file(tmp_path / f"e.{suffix}")
    assert len(index) == 27
    example = index.segment("1.wav", 2.0)
    pd.testing.assert_frame_equal(index.similar(example), EmbeddingIndex(table).similar(example))


def spoilt(what: str) -> EmbeddingTable:
    table = made_up(2, 3)
    assert table.clip is not None
    columns = {
        "paths": table.paths,
        "embeddings": table.embeddings,
        "clip": table.clip,
        "start": table.start,
        "end": table.end,
    }
    columns |= {
        "zeros": {"embeddings": np.zeros((6, 4), np.float32)},
        "NaN": {"embeddings": np.where(np.arange(6)[:, None] == 4, np.nan, table.embeddings)},
        "infinite": {"embeddings": np.where(np.arange(6)[:, None] == 4, np.inf, table.embeddings)},
        "no rows": {name: value[:0] for name, value in columns.items() if name != "paths"},
        "no width": {"embeddings": table.embeddings[:, :0]},
        "flat": {"embeddings": table.embeddings[:, 0]},
        "too few times": {"start": np.zeros(5)},
        "no times": {"start": None, "end": None},
        "times of NaN": {"end": np.full(6, np.nan)},
        "clip out of range": {"clip": table.clip + 1},
        "clip below zero": {"clip": table.clip - 1},
        "paths of others": {"clip": None, "start": None, "end": None},
        "no paths": {"paths": []},
    }[what]
    return EmbeddingTable(metadata={}, **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("zeros", "all 6 embeddings are zero"),
        ("NaN", r"1 of 6 embeddings hold NaN.*'1\.wav'"),
        ("infinite", r"1 of 6 embeddings hold NaN or infinite values.*'1\.wav'"),
        ("no rows", "no embeddings"),
        ("no width", "no embeddings"),
        ("flat", "no embeddings"),
        ("too few times", "6 embeddings, but 5 start"),
        ("no times", "without start or end"),
        ("times of NaN", "times that are NaN"),
        ("clip out of range", "not among its 2 paths"),
        ("clip below zero", "not among its 2 paths"),
        ("paths of others", "6 embeddings, but 2 paths"),
        ("no paths", "no recordings"),
    ],
)
def test_damaged_embeddings_are_refused(what: str, message: str) -> None:
    with pytest.raises(StoreError, match=f"mine.h5: {message}|mine.h5: .*{message}"):
        EmbeddingIndex(spoilt(what), "mine.h5")


def test_silence_is_like_nothing_and_never_found() -> None:
    table = made_up(2, 10)
    table.embeddings[10:] = 0
    index = EmbeddingIndex(table)
    assert set(index.similar(index.segment("0.wav", 0.0), 1000, gap=0.0)["file"]) == {"0.wav"}
    with pytest.raises(StoreError, match=r"'1\.wav' there is zero"):
        index.segment("1.wav", 0.0)


def test_examples_that_cannot_be_are_refused() -> None:
    index = EmbeddingIndex(made_up(2, 4), "mine.h5")
    with pytest.raises(StoreError, match=r"mine\.h5: has no recording 'x\.wav'; its first is '0\.wav'"):
        index.segment("x.wav", 0.0)
    with pytest.raises(StoreError, match=r"'0\.wav' ends at 2\.5 s, before 2\.5 s"):
        index.segment("0.wav", 2.5)
    for start, seconds in ((-0.1, 1.0), (np.nan, 1.0), (0.0, 0.0), (0.0, np.inf)):
        with pytest.raises(WeakAudioError, match="expected a start of 0 or more"):
            index.segment("0.wav", start, seconds)
    good = index.segment("0.wav", 0.0)
    for top, gap in ((0, 1.0), (-1, 1.0), (1, -0.1), (1, np.nan)):
        with pytest.raises(WeakAudioError, match="expected 1 or more, and seconds"):
            index.similar(good, top, gap)
    with pytest.raises(WeakAudioError, match=r"shape \(3,\), but those of mine\.h5 are 4 wide"):
        index.similar(Example(np.ones(3, np.float32), "a.wav", 0.0, 1.0))
    for value in (0.0, np.nan, np.inf):
        with pytest.raises(WeakAudioError, match=r"a\.wav: its embedding is zero or not finite"):
            index.similar(Example(np.full(4, value, np.float32), "a.wav", 0.0, 1.0))


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("similar") / "model.safetensors"
    save_model(Model(randomise(FlashCNN(2, n_mels=64, stages=STAGES, n_features=8)), "16k", ["dog", "rain"]), path)
    return path


def beeps(seconds: float, *events: tuple[float, float]) -> NDArray[np.float32]:
    """Silence with half a second of a tone at each (second, Hz).

    The seconds below are multiples of the network's hop, 0.32 s: equal sounds lie equally among its segments.
    """
    audio = np.zeros(int(seconds * RATE))
    for at, hz in events:
        tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(RATE // 2) / RATE)
        audio[int(at * RATE) : int(at * RATE) + len(tone)] += tone
    return audio.astype(np.float32)


SOUNDS = {
    "a/low.wav": beeps(8, (1.92, 300), (5.76, 300)),
    "a/both.wav": beeps(8, (0.96, 300), (4.8, 3000)),
    "high.wav": beeps(6, (3.2, 3000)),
    "silence.wav": beeps(5),
}


@pytest.fixture
def recordings(make_wavs: Callable[..., Path]) -> Path:
    return make_wavs(SOUNDS, RATE)


def embedded(recordings: Path, model: str | Path, level: str = "segment", pooling: str = "mean") -> EmbeddingTable:
    embedder = Embedder.from_pretrained(model, pooling=pooling)
    found = [embedder.embed_file(recordings / name) for name in SOUNDS]
    metadata = {
        "model": str(model),
        "checksum": embedder.checksum,
        "layer": "f1",
        "pooling": pooling if level == "clip" else "none",
    }
    if level == "clip":
        return EmbeddingTable(list(SOUNDS), np.stack([one.clip for one in found]), metadata)
    times = np.concatenate([one.times for one in found])
    clip = np.repeat(np.arange(len(found)), [len(one.segments) for one in found])
    rows = np.concatenate([one.segments for one in found])
    return EmbeddingTable(list(SOUNDS), rows, metadata, clip, times[:, 0], times[:, 1])


def test_an_excerpt_finds_its_like_in_other_recordings(recordings: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, DEFAULT_MODEL))
    sf.write(tmp_path / "mine.wav", beeps(9, (4.0, 300)), RATE)
    example = choose_example(index, str(tmp_path / "mine.wav"), 4.0, 0.5)
    assert (example.clip, example.start, example.end) == (None, 4.0, 4.5)
    found = index.similar(example, top=3)
    where = sorted(zip(found["file"], (found["start"] + found["end"]) / 2, strict=True))
    assert [file for file, _ in where] == ["a/both.wav", "a/low.wav", "a/low.wav"]
    for (_, middle), at in zip(where, (0.96, 1.92, 5.76), strict=True):
        assert at - 0.17 < middle < at + 0.67


def test_an_excerpt_is_embedded_as_if_it_were_all(recordings: Path, model: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model))
    embedder = index.embedder()
    audio, _ = sf.read(recordings / "high.wav")
    alone = embedder.embed_array(audio[3 * RATE : 4 * RATE], RATE)
    example = index.excerpt(embedder, recordings / "high.wav", 3.0, 1.0)
    np.testing.assert_allclose(example.embedding, alone.segments.mean(0), atol=1e-5)
    tail = index.excerpt(embedder, recordings / "high.wav", 5.5, 3.0)
    assert (tail.start, tail.end) == (5.5, 6.0)
    whole = index.excerpt(embedder, recordings / "high.wav")
    np.testing.assert_allclose(whole.embedding, embedder.embed_file(recordings / "high.wav").clip, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean+max"])
def test_clips_are_compared_with_an_excerpt_pooled_as_they_are(recordings: Path, model: Path, pooling: str) -> None:
    index = EmbeddingIndex(embedded(recordings, model, "clip", pooling))
    example = choose_example(index, str(recordings / "a" / "low.wav"))
    found = index.similar(example, 1)
    assert found["file"].tolist() == ["a/low.wav"]
    np.testing.assert_allclose(found["similarity"], 1.0, atol=1e-6)
    other = Embedder.from_pretrained(model, pooling="std")
    with pytest.raises(StoreError, match=r"with pooling.*but the example is embedded with 'std'"):
        index.excerpt(other, recordings / "silence.wav")


@pytest.mark.parametrize("source", ["a/low.wav", "{folder}/a/low.wav", "{folder}/../{name}/a/low.wav"])
def test_a_recording_of_the_index_is_not_embedded_again(recordings: Path, model: Path, source: str) -> None:
    table = embedded(recordings, model)
    table.metadata["model"] = "nowhere.safetensors"
    index = EmbeddingIndex(table)
    source = source.format(folder=recordings, name=recordings.name)
    example = choose_example(index, source, 2.1, 0.3, recordings)
    assert (example.clip, example.start, example.end) == (0, pytest.approx(2.08), pytest.approx(2.4))
    found = index.similar(example, top=2)
    assert found["file"].tolist() == ["a/low.wav", "a/both.wav"]
    np.testing.assert_allclose(found["start"], [5.92, 1.12])  # of low, not where the example is


def test_embeddings_of_another_model_or_layer_are_refused(
    recordings: Path, model: Path, randomise: Callable[[Network], Network]
) -> None:
    table = embedded(recordings, model)
    index = EmbeddingIndex(table, "mine.h5")
    other = Model(randomise(FlashCNN(3, n_mels=64, stages=STAGES, n_features=8)), "16k", ["dog", "rain", "saw"])
    ours = table.metadata["checksum"][:12]
    with pytest.raises(StoreError, match=rf"mine\.h5: made by.*checksum {ours}.*another one.*checksum (?!{ours})"):
        index.excerpt(Embedder(other), recordings / "high.wav", 0.0)
    with pytest.raises(StoreError, match="layer 'f1', but the example is embedded with 'f2'"):
        index.excerpt(Embedder.from_pretrained(model, "f2"), recordings / "high.wav", 0.0)
    with pytest.raises(StoreError, match="made by"):
        index.embedder("untrained-16k")
    nameless = EmbeddingIndex(made_up(1, 2), "mine.h5")
    with pytest.raises(StoreError, match=r"mine\.h5: does not say which model"):
        nameless.embedder()
    with pytest.raises(StoreError, match="checksum missing"):
        nameless.embedder(str(model))
    table.metadata["model"] = "gone.safetensors"
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        EmbeddingIndex(table).embedder()
    assert EmbeddingIndex(table).embedder(str(model)).checksum == table.metadata["checksum"]


def test_recordings_that_cannot_be_examples_are_refused(recordings: Path, model: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model), "mine.h5")
    with pytest.raises(AudioError, match=r"no\.wav: no such file, and no recording of mine\.h5"):
        choose_example(index, str(tmp_path / "no.wav"), 0.0)
    sf.write(tmp_path / "short.wav", beeps(1), RATE)
    with pytest.raises(AudioError, match=r"short\.wav: ends at 1 s, before 1 s"):
        choose_example(index, str(tmp_path / "short.wav"), 1.0)
    with pytest.raises(WeakAudioError, match="expected a start of 0 or more"):
        choose_example(index, str(tmp_path / "short.wav"), -1.0)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(AudioError, match=r"text\.wav"):
        choose_example(index, str(tmp_path / "text.wav"), 0.0)


def sounds_of(html: str, tmp_path: Path) -> list[NDArray[np.float64]]:
    sounds = []
    for content in re.findall(r'src="data:audio/wav;base64,([^"]+)"', html):
        (tmp_path / "sound.wav").write_bytes(base64.b64decode(content))
        sounds.append(sf.read(tmp_path / "sound.wav")[0])
    return sounds


def test_the_page_shows_and_plays_the_example_and_what_was_found(
    recordings: Path, model: Path, tmp_path: Path
) -> None:
    index = EmbeddingIndex(embedded(recordings, model))
    example = index.segment("a/low.wav", 2.0, 0.5)
    found = index.similar(example, top=3)
    out = tmp_path / "page" / "alike.html"
    write_similar_page(out, found, example, recordings)
    html = out.read_text()
    assert html.count("<img") == 4
    captions = re.findall("<figcaption>(.*?)</figcaption>", html)
    for caption, row in zip(captions[1:], found.itertuples(), strict=True):
        assert caption.startswith(f"{row.Index + 1}. {row.file}, {row.start:.2f} s to {row.end:.2f} s")
    spans = [(example.file, example.start, example.end), *found[["file", "start", "end"]].itertuples(index=False)]
    for sound, (file, start, end) in zip(sounds_of(html, tmp_path), spans, strict=True):
        expected = SOUNDS[file][round(max(start - 1, 0) * RATE) : round((end + 1) * RATE)]
        np.testing.assert_allclose(sound, expected, atol=1e-3)
    assert [path.name for path in out.parent.iterdir()] == ["alike.html"]


def test_the_page_names_recordings_that_are_gone(recordings: Path, model: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model, "clip"))
    (recordings / "silence.wav").unlink()
    out = tmp_path / "alike.html"
    example = choose_example(index, str(recordings / "high.wav"))
    write_similar_page(out, index.similar(example), example, recordings)
    html = out.read_text()
    assert html.count("<img") == 4  # the example, which is a file of its own here, and three that are left
    assert re.search(r"<p>\d\. silence\.wav: similarity .*silence\.wav: no such file", html)
    with pytest.raises(WeakAudioError, match="no such folder; it is the one that was embedded"):
        write_similar_page(out, index.similar(example), example, tmp_path / "nowhere")
