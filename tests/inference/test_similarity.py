"""Search equals a plain loop; each sound is found once, without the example; damaged files are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weakaudio.errors import StoreError, WeakAudioError
from weakaudio.formats.embeddings import EmbeddingTable, write_embeddings
from weakaudio.inference.similarity import EmbeddingIndex, Example

RATE = 16000
HOP = 0.5  # seconds, of made-up segments
STAGES = (("dense", 1, 4), ("dense", 1, 4), ("dense", 1, 8), ("dense", 1, 8))


def made_up(n_clips: int, n_segments: int, width: int = 4, seed: int = 0, levels: int = 0) -> EmbeddingTable:
    """Segments of 1 s every 0.5 s; with few `levels` many are equal, and some zero."""
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
    """Score every row, and compare it with all found before it."""
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
def test_search_equals_a_plain_loop(
    n_clips: int, n_segments: int, levels: int, top: int, gap: float, keep_example: bool, seed: int
) -> None:
    table = made_up(n_clips, n_segments, seed=seed, levels=levels)
    table.embeddings[0] = 1
    index = EmbeddingIndex(table)
    example = index.segment("0.wav", 0.0, seconds=0.6)
    found = index.similar(example, top, gap, keep_example)
    expected = by_a_plain_loop(table, example, top, gap, keep_example)
    np.testing.assert_allclose(found["similarity"], [row[3] for row in expected], atol=2e-6)
    if not levels:  # with ties, several orders are right
        assert list(found[["file", "start", "end"]].itertuples(index=False, name=None)) == [r[:3] for r in expected]
    assert found["similarity"].is_monotonic_decreasing


def test_faiss_gives_equal_results() -> None:
    pytest.importorskip("faiss")
    table = made_up(20, 50, seed=3)
    example = EmbeddingIndex(table).segment("3.wav", 2.0)
    plain, faiss = (EmbeddingIndex(table, engine=engine).similar(example, 15) for engine in ("sklearn", "faiss"))
    pd.testing.assert_frame_equal(plain, faiss)


def test_missing_faiss_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(WeakAudioError, match=r"faiss.*not installed.*weakaudio\[faiss\]"):
        EmbeddingIndex(made_up(1, 2), engine="faiss")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="engine 'annoy': unknown; there are sklearn, faiss"):
        EmbeddingIndex(made_up(1, 2), engine="annoy")


def test_a_sound_is_found_once_and_the_example_is_excluded() -> None:
    table = made_up(2, 40)
    sound = np.array([1, 2, 3, 4], dtype=np.float32)
    table.embeddings[:] = -sound
    table.embeddings[[4, 5, 6, 30, 50]] = sound  # 2 s to 4 s, and 15 s, of the first; 5 s of the second
    table.embeddings[5] *= 3  # similarity does not depend on the norm
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
    """Although all its segments are more similar than any other sound."""
    table = made_up(3, 900)
    sound = np.array([1, 2, 3, 4], dtype=np.float32)
    table.embeddings[:] = [-1, 0, 0, 0]
    table.embeddings[:900] = sound
    table.embeddings[[1000, 2000]] = sound + np.array([[0.1, 0, 0, 0], [0.5, 0, 0, 0]])
    found = EmbeddingIndex(table).similar(Example(sound, "mine.wav", 0.0, 1.0), top=3, gap=1000.0)
    assert found["file"].tolist() == ["0.wav", "1.wav", "2.wav"]
    assert found["start"][1:].tolist() == [100 * HOP, 200 * HOP]


def test_adjacent_segments_are_one_sound_despite_rounding() -> None:
    start, end = np.array([0.0, 0.1 * 3, 0.5]), np.array([0.3, 0.4, 0.6])
    assert start[1] > end[0]
    table = EmbeddingTable(["a.wav"], np.ones((3, 2), np.float32), {}, np.zeros(3, np.int64), start, end)
    found = EmbeddingIndex(table).similar(Example(np.ones(2, np.float32), "mine.wav", 0.0, 1.0), gap=0.0)
    assert found["start"].tolist() == [0.0, 0.5]


def test_an_example_is_the_mean_of_the_segments_centred_in_it() -> None:
    table = made_up(3, 40)
    index = EmbeddingIndex(table)
    rows = 40 + np.array([4, 5, 6])  # of the second: their centres are at 2.5 s, 3 s and 3.5 s
    example = index.segment("1.wav", 2.5, 1.2)
    np.testing.assert_allclose(example.embedding, table.embeddings[rows].mean(0), rtol=1e-5)
    assert (example.start, example.end, example.clip) == (2.0, 4.0, 1)
    short = index.segment("1.wav", 2.6, 0.1)
    np.testing.assert_allclose(short.embedding, table.embeddings[44], rtol=1e-5)
    whole = index.segment("1.wav")
    np.testing.assert_allclose(whole.embedding, table.embeddings[40:80].mean(0), rtol=1e-5, atol=1e-6)
    assert "1.wav" not in set(index.similar(whole, 1000, gap=0)["file"])


def test_top_may_exceed_the_number_of_segments() -> None:
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
    with pytest.raises(StoreError, match="one embedding for each recording"):
        index.segment("2.wav", 0.0)


@pytest.mark.parametrize("suffix", ["h5", "npz", "parquet"])
def test_all_file_formats_can_be_searched(tmp_path: Path, suffix: str) -> None:
    table = made_up(3, 9)
    write_embeddings(table, tmp_path / f"e.{suffix}")
    index = EmbeddingIndex.from_file(tmp_path / f"e.{suffix}")
    assert len(index) == 27
    example = index.segment("1.wav", 2.0)
    pd.testing.assert_frame_equal(index.similar(example), EmbeddingIndex(table).similar(example))


def damaged(what: str) -> EmbeddingTable:
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
        ("no paths", "has no recordings"),
    ],
)
def test_damaged_embeddings_are_refused(what: str, message: str) -> None:
    with pytest.raises(StoreError, match=f"mine.h5: {message}|mine.h5: .*{message}"):
        EmbeddingIndex(damaged(what), "mine.h5")


def test_zero_embeddings_are_never_found() -> None:
    table = made_up(2, 10)
    table.embeddings[10:] = 0
    index = EmbeddingIndex(table)
    assert set(index.similar(index.segment("0.wav", 0.0), 1000, gap=0.0)["file"]) == {"0.wav"}
    with pytest.raises(StoreError, match=r"'1\.wav' there is zero"):
        index.segment("1.wav", 0.0)


def test_invalid_examples_are_refused() -> None:
    index = EmbeddingIndex(made_up(2, 4), "mine.h5")
    with pytest.raises(StoreError, match=r"mine\.h5: has no recording 'x\.wav'; the first one is '0\.wav'"):
        index.segment("x.wav", 0.0)
    with pytest.raises(StoreError, match=r"'0\.wav' ends at 2\.5 s, before 2\.5 s"):
        index.segment("0.wav", 2.5)
    for start, seconds in ((-0.1, 1.0), (np.nan, 1.0), (0.0, 0.0), (0.0, np.inf)):
        with pytest.raises(WeakAudioError, match="expected a start of 0 or more"):
            index.segment("0.wav", start, seconds)
    good = index.segment("0.wav", 0.0)
    for top, gap in ((0, 1.0), (-1, 1.0), (1, -0.1), (1, np.nan)):
        with pytest.raises(WeakAudioError, match="expected top of 1 or more and gap of 0 s or more"):
            index.similar(good, top, gap)
    with pytest.raises(WeakAudioError, match=r"shape \(3,\); mine\.h5 has 4 features"):
        index.similar(Example(np.ones(3, np.float32), "a.wav", 0.0, 1.0))
    for value in (0.0, np.nan, np.inf):
        with pytest.raises(WeakAudioError, match=r"a\.wav: its embedding is zero or not finite"):
            index.similar(Example(np.full(4, value, np.float32), "a.wav", 0.0, 1.0))
