"""Class names in the order of a published network's outputs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from weakaudio.data.labels import LabelSet, read_audioset_labels
from weakaudio.errors import CheckpointError, LabelError
from weakaudio.pretrained.catalogue import REINSTALL, catalogue
from weakaudio.pretrained.checkpoint import read_header

_NUMBERED = re.compile(r"(\d+)\s+(/\S+)\s+(.+)")  # "0 /m/012xff Toothbrush"
_SHIPPED = "weakaudio-base"  # holds the names of AudioSet's classes


def audioset_labels() -> list[str]:
    """AudioSet's 527 class names in the order of its `class_labels_indices.csv`, from a shipped model's header.

    Raises
    ------
    CheckpointError
        The shipped model is missing from this installation.
    """
    path = catalogue()[_SHIPPED].path
    assert path is not None
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file: it holds the names of AudioSet's classes; give them as a file (--labels), or "
            f"{REINSTALL}"
        )
    labels: list[str] = read_header(path)["labels"]
    return labels


def read_class_list(path: str | Path) -> list[str]:
    """Read class names in the order of a network's outputs.

    Parameters
    ----------
    path
        AudioSet's `class_labels_indices.csv`; the `classes_id_name.txt` of arXiv 1711.01369, with number, AudioSet
        id and name in each line; or one name a line. In the second, the id is appended to names that occur twice
        (Rattle).

    Raises
    ------
    LabelError
        Missing file; not text; numbers other than 0, 1, 2, ...; a name that occurs twice.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: not a readable list of classes ({error})") from error
    if lines and "display_name" in lines[0]:
        return read_audioset_labels(path).names
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if numbered and len(numbered) == len(lines):
        if [int(match[1]) for match in numbered] != list(range(len(lines))):
            raise LabelError(f"{path}: its numbers are not 0 .. {len(lines) - 1} in order")
        count = Counter(match[3] for match in numbered)
        lines = [match[3] if count[match[3]] == 1 else f"{match[3]} ({match[2]})" for match in numbered]
    try:
        return LabelSet(lines).names
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
