"""Own recordings as people keep them: a folder for each class."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from weakaudio.audio.io import find_audio
from weakaudio.errors import DataPrepError


def read_class_folders(folder: str | Path) -> pd.DataFrame:
    """Clips below a folder that has a folder of audio, nested as you like, for each class.

    Returns
    -------
    One row a clip, sorted by path: path, labels (a list of the one class).

    Raises
    ------
    AudioError
        The folder does not exist or holds no audio.
    DataPrepError
        Audio lies in no class folder.
    """
    folder = Path(folder)
    paths = find_audio(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise DataPrepError(f"{folder}: {loose[0].name} lies in no class folder; expected {folder.name}/CLASS/...")
    return pd.DataFrame({"path": paths, "labels": [[path.relative_to(folder).parts[0]] for path in paths]})
