"""Recordings as examples, and the page of results."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from weakaudio.batch.embed import embed_folder
from weakaudio.errors import AudioError, CheckpointError, StoreError, WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.embedder import Embedder
from weakaudio.inference.similarity import EmbeddingIndex, choose_example
from weakaudio.networks import FlashCNN, Network
from weakaudio.networks.model import Model
from weakaudio.pretrained.checkpoint import save_model
from weakaudio.reports.similarity_page import write_similar_page

RATE = 16000
STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))


@pytest.fixture(scope="module")
def model(randomise: Callable[[Network], Network], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("similar") / "model.safetensors"
    save_model(Model(randomise(FlashCNN(2, n_mels=64, stages=STAGES, n_features=8)), "16k", ["dog", "rain"]), path)
    return path


def beeps(seconds: float, *events: tuple[float, float]) -> NDArray[np.float32]:
    """Silence with a tone of half a second at each (second, Hz).

    The onsets below are multiples of the network's hop, 0.32 s, so equal sounds are aligned alike with its segments.
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


def row_of(table: EmbeddingTable, clip: int, start: float) -> int:
    assert table.clip is not None
    assert table.start is not None
    (row,) = np.flatnonzero((table.clip == clip) & np.isclose(table.start, start))
    return int(row)


def test_an_excerpt_finds_similar_sounds_in_other_recordings(recordings: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, DEFAULT_MODEL))
    sf.write(tmp_path / "mine.wav", beeps(9, (4.0, 300)), RATE)
    example = choose_example(index, str(tmp_path / "mine.wav"), 4.0, 0.5)
    assert (example.clip, example.start, example.end) == (None, 4.0, 4.5)
    found = index.similar(example, top=3)
    where = sorted(zip(found["file"], (found["start"] + found["end"]) / 2, strict=True))
    assert [file for file, _ in where] == ["a/both.wav", "a/low.wav", "a/low.wav"]
    for (_, middle), at in zip(where, (0.96, 1.92, 5.76), strict=True):
        assert at - 0.17 < middle < at + 0.67


def test_an_excerpt_is_embedded_without_its_context(recordings: Path, model: Path) -> None:
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_examples_are_embedded_in_the_precision_of_the_index(
    recordings: Path, model: Path, tmp_path: Path, dtype: str
) -> None:
    embed_folder(Embedder.from_pretrained(model, dtype=dtype), recordings, tmp_path / "e.npz", model_name=str(model))
    assert EmbeddingIndex.from_file(tmp_path / "e.npz").embedder().dtype == dtype


@pytest.mark.parametrize("pooling", ["mean", "mean+max"])
def test_clips_are_compared_with_an_excerpt_of_the_same_pooling(recordings: Path, model: Path, pooling: str) -> None:
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
    example, like, less_like = (row_of(table, *at) for at in ((0, 2.08), (0, 5.92), (1, 1.12)))
    table.embeddings[:] = -1, 0, 0, 0, 0, 0, 0, 0
    table.embeddings[:, 1] = np.arange(len(table.embeddings))  # all differ
    table.embeddings[[example, like, less_like], :2] = [[1, 0], [1, -0.1], [1, -0.5]]
    index = EmbeddingIndex(table)
    source = source.format(folder=recordings, name=recordings.name)
    example = choose_example(index, source, 2.1, 0.3, recordings)
    assert (example.clip, example.start, example.end) == (0, pytest.approx(2.08), pytest.approx(2.4))
    found = index.similar(example, top=2)
    assert found["file"].tolist() == ["a/low.wav", "a/both.wav"]
    np.testing.assert_allclose(found["start"], [5.92, 1.12])  # in a/low.wav not at the example


def test_embeddings_of_another_model_or_layer_are_refused(
    recordings: Path, model: Path, randomise: Callable[[Network], Network]
) -> None:
    table = embedded(recordings, model)
    index = EmbeddingIndex(table, "mine.h5")
    other = Model(randomise(FlashCNN(3, n_mels=64, stages=STAGES, n_features=8)), "16k", ["dog", "rain", "saw"])
    ours = table.metadata["checksum"][:12]
    with pytest.raises(StoreError, match=rf"mine\.h5: written by.*checksum {ours}.*another one.*checksum (?!{ours})"):
        index.excerpt(Embedder(other), recordings / "high.wav", 0.0)
    with pytest.raises(StoreError, match="layer 'f1', but the example is embedded with 'f2'"):
        index.excerpt(Embedder.from_pretrained(model, "f2"), recordings / "high.wav", 0.0)
    with pytest.raises(StoreError, match="written by"):
        index.embedder("untrained-16k")
    nameless = EmbeddingIndex(EmbeddingTable(["a.wav"], np.ones((1, 2), np.float32), {}), "mine.h5")
    with pytest.raises(StoreError, match=r"mine\.h5: does not record its model"):
        nameless.embedder()
    with pytest.raises(StoreError, match="checksum missing"):
        nameless.embedder(str(model))
    table.metadata["model"] = "gone.safetensors"
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        EmbeddingIndex(table).embedder()
    assert EmbeddingIndex(table).embedder(str(model)).checksum == table.metadata["checksum"]


def test_unusable_recordings_are_refused(recordings: Path, model: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model), "mine.h5")
    with pytest.raises(AudioError, match=r"no\.wav: no such file, and not in mine\.h5"):
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


def test_the_page_shows_and_plays_the_example_and_the_results(recordings: Path, model: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model))
    example = index.segment("a/low.wav", 2.0, 0.5)
    found = index.similar(example, top=3)
    out = tmp_path / "page" / "similar.html"
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
    assert [path.name for path in out.parent.iterdir()] == ["similar.html"]


def test_the_page_names_missing_recordings(recordings: Path, model: Path, tmp_path: Path) -> None:
    index = EmbeddingIndex(embedded(recordings, model, "clip"))
    (recordings / "silence.wav").unlink()
    out = tmp_path / "similar.html"
    example = choose_example(index, str(recordings / "high.wav"))
    write_similar_page(out, index.similar(example), example, recordings)
    html = out.read_text()
    assert html.count("<img") == 4  # the example and the three recordings that are left
    assert re.search(r"<p>\d\. silence\.wav: similarity .*silence\.wav: no such file", html)
    with pytest.raises(WeakAudioError, match="no such folder; expected the folder that was embedded"):
        write_similar_page(out, index.similar(example), example, tmp_path / "nowhere")
