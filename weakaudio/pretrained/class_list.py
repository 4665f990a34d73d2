"""Class names from the files that come with published weights."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from weakaudio.data.labels import LabelSet, read_audioset_labels
from weakaudio.errors import LabelError

_NUMBERED = re.compile(r"(\d+)\s+(/\S+)\s+(.+)")  # "0 /m/012xff Toothbrush"


def read_class_list(path: str | Path) -> list[str]:
    """Class names in the order of a network's outputs.

    Parameters
    ----------
    path
        AudioSet's `class_labels_indices.csv`; the `classes_id_name.txt` of arXiv 1711.01369, with number, AudioSet
        id and name in each line; or one name a line. Where two classes of the second bear one name (Rattle), the id
        is added to both.

    Raises
    ------
    LabelError
        No such file; not text; numbers that are not 0, 1, 2, ...; a name that occurs twice.
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
        times = Counter(match[3] for match in numbered)
        lines = [match[3] if times[match[3]] == 1 else f"{match[3]} ({match[2]})" for match in numbered]
    try:
        return LabelSet(lines).names
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
