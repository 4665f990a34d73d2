from __future__ import annotations

from pathlib import Path

import pytest

from weakaudio.errors import LabelError
from weakaudio.pretrained.converters import read_class_list


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("dog\nSäge, big\n\n rain \n", ["dog", "Säge, big", "rain"]),
        ("\ufeffdog\r\nrain\r\n", ["dog", "rain"]),  # as some editors save
        ('index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Male speech, man"\n', ["Speech", "Male speech, man"]),
        ("0 /m/012xff Toothbrush\n1 /t/dd00088 Gush now \n", ["Toothbrush", "Gush now"]),
        # As in the release of arXiv 1711.01369, where two classes have one name.
        (
            "0 /m/05r5wn Rattle \n1 /m/1 Dog\n2 /m/07qn4z3 Rattle\n",
            ["Rattle (/m/05r5wn)", "Dog", "Rattle (/m/07qn4z3)"],
        ),
        ("0 /m/1 Dog\nRain\n", ["0 /m/1 Dog", "Rain"]),  # names, one of which looks like a row
    ],
)
def test_class_lists_are_read_in_order(tmp_path: Path, content: str, names: list[str]) -> None:
    (tmp_path / "classes.txt").write_text(content, encoding="utf-8")
    assert read_class_list(tmp_path / "classes.txt") == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "at least one class"),
        (b"dog\nrain\ndog\n", "repeated: dog"),
        (b"0 /m/1 Dog\n2 /m/2 Rain\n", "not 0 .. 1 in order"),
        (b"index,mid,display_name\n1,/m/1,Speech\n", "not 0 .. 0 in order"),
        (b"\xff\xfe\x00d", "not a readable list"),
    ],
)
def test_an_invalid_class_list_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(LabelError, match=rf"classes\.txt: .*{reason}"):
        read_class_list(tmp_path / "classes.txt")


def test_a_missing_class_list_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none\.txt: not a readable list"):
        read_class_list(tmp_path / "none.txt")
