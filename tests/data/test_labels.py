from __future__ import annotations

from pathlib import Path

import pytest

from weakaudio.data.labels import LabelSet, read_audioset_labels
from weakaudio.errors import LabelError


def test_indices_are_positions_in_the_list() -> None:
    labels = LabelSet(["dog", "rain", "saw"])
    assert labels.indices([]) == []
    assert labels.indices(["saw", "dog"]) == [2, 0]
    assert len(labels) == 3


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(LabelError, match="'cat'"):
        LabelSet(["dog"]).indices(["dog", "cat"])


@pytest.mark.parametrize("names", [[], ["dog", "dog"], ["a;b"], [""], [" dog"], ["dog "]])
def test_invalid_class_lists_are_refused(names: list[str]) -> None:
    with pytest.raises(LabelError):
        LabelSet(names)


def test_audioset_labels_keep_their_order_and_commas(tmp_path: Path) -> None:
    table = tmp_path / "class_labels_indices.csv"
    table.write_text('index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Male speech, man speaking"\n')
    assert read_audioset_labels(table).names == ["Speech", "Male speech, man speaking"]


@pytest.mark.parametrize("content", ["index,mid\n0,/m/1\n", "index,mid,display_name\n1,/m/1,Speech\n"])
def test_malformed_audioset_labels_are_named(tmp_path: Path, content: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(content)
    with pytest.raises(LabelError, match=r"labels\.csv"):
        read_audioset_labels(table)
