from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weakaudio_data_prep.grouping import grouped_folds, refuse_copies, refuse_rare_classes

from weakaudio.errors import DataPrepError

CLIPS = st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=3, unique=True), st.integers(0, 8)), min_size=9)


@given(clips=CLIPS, n_folds=st.integers(2, 4))
def test_no_recording_is_in_two_folds(clips: list[tuple[list[str], int]], n_folds: int) -> None:
    labels, recordings = [names for names, _ in clips], [recording for _, recording in clips]
    folds = grouped_folds(labels, recordings, n_folds, "x")
    assert set(folds) <= set(range(1, n_folds + 1))
    of: dict[int, set[int]] = defaultdict(set)
    for recording, fold in zip(recordings, folds, strict=True):
        of[recording].add(fold)
    assert all(len(found) == 1 for found in of.values())
    assert folds == grouped_folds(labels, recordings, n_folds, "x")
    assert len(set(folds)) == min(n_folds, len(set(recordings)))


@given(sizes=st.lists(st.integers(1, 9), min_size=5, max_size=12), several=st.booleans())
def test_a_class_with_a_recording_for_each_fold_is_in_all_of_them(sizes: list[int], several: bool) -> None:
    """For single and several labels, and recordings of very different length."""
    labels, recordings = [], []
    for name in "abc":
        for n, size in enumerate(sizes):
            labels += [[name, "all"] if several else [name]] * size
            recordings += [f"{name}{n}"] * size
    folds = grouped_folds(labels, recordings, 5, "x")
    for name in "abc":
        assert {fold for names, fold in zip(labels, folds, strict=True) if name in names} == {1, 2, 3, 4, 5}


def test_many_labels_are_spread_evenly() -> None:
    """Twenty recordings of one clip: a in all, b in ten, c in five."""
    labels = [["a"] + ["b"] * (n % 2) + ["c"] * (n % 4 == 0) for n in range(20)]
    folds = grouped_folds(labels, range(20), 5, "x")
    for name, each in (("a", 4), ("b", 2), ("c", 1)):
        found = [fold for names, fold in zip(labels, folds, strict=True) if name in names]
        assert [found.count(fold) for fold in (1, 2, 3, 4, 5)] == [each] * 5


def test_impossible_folds_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataPrepError, match="x: 1 folds; at least 2"):
        grouped_folds([["a"], ["a"]], [1, 2], 1, "x")
    clips = [["a"], ["a"], ["a"], ["b"], ["b"], ["b", "c"]]
    with pytest.raises(
        DataPrepError, match="class 'c' has 1 recordings, fewer than the 3 folds: add recordings of it, or"
    ):
        refuse_rare_classes(clips, range(6), 3, "x")
    with pytest.raises(DataPrepError, match=r"class 'b' has 2 recordings, .* use 2 folds, or leave the class out"):
        refuse_rare_classes([names[:1] for names in clips], [0, 1, 2, 3, 3, 4], 3, "x")
    refuse_rare_classes([names[:1] for names in clips], range(6), 3, "x")


def test_copies_in_two_recordings_are_found_by_their_content(tmp_path: Path) -> None:
    contents = {"a": b"same", "b": b"else", "c": b"same", "d": b"longer", "empty": b"", "empty too": b""}
    paths = [tmp_path / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    with pytest.raises(DataPrepError, match=r"x: .*/c is a copy of .*/a, and folds must not share recordings"):
        refuse_copies(paths, range(6), "x")
    refuse_copies(paths, [0, 1, 0, 3, 4, 5], "x")  # of one recording
