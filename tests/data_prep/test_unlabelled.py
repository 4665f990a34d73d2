from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from weakaudio_data_prep.unlabelled import prepare

from weakaudio.data.corpus import Corpus
from weakaudio.errors import AudioError, DataPrepError

MakeWavs = Callable[..., Path]
NOISE = np.full(800, 0.1, dtype=np.float32)


def test_the_split_of_a_file_does_not_depend_on_other_files(make_wavs: MakeWavs, tmp_path: Path) -> None:
    root = make_wavs({f"deep/{n}/a.wav": NOISE for n in range(40)})
    prepare(str(root), str(tmp_path / "all"), 8000, held_out=0.25)
    split = Corpus(tmp_path / "all").manifest.table.set_index("path")["split"]
    assert len(split) == 40
    assert 2 <= (split == "val").sum() <= 20
    (root / "deep" / "7" / "a.wav").unlink()
    prepare(str(root), str(tmp_path / "fewer"), 8000, held_out=0.25)
    fewer = Corpus(tmp_path / "fewer").manifest.table.set_index("path")["split"]
    pd.testing.assert_series_equal(fewer, split[[not path.endswith("/7/a.wav") for path in split.index]])


def test_recordings_of_another_data_set_are_left_out_by_their_freesound_id(
    make_wavs: MakeWavs, tmp_path: Path
) -> None:
    """The id may be one of several numbers in the name, but not part of a longer number."""
    root = make_wavs(dict.fromkeys(("123-4-5.wav", "rain_123.wav", "1234.wav", "dog123x.wav", "b.wav"), NOISE))
    other = tmp_path / "other.csv"
    other.write_text("path,labels,source\na.wav,dog,123\n")
    prepare(str(root), str(tmp_path / "out"), 8000, without=str(other))
    kept = {Path(path).name for path in Corpus(tmp_path / "out").manifest.table["path"]}
    assert kept == {"1234.wav", "b.wav"}


def test_unusable_arguments_are_refused(make_wavs: MakeWavs, tmp_path: Path) -> None:
    root = make_wavs({"123.wav": NOISE})
    other = tmp_path / "other.csv"
    other.write_text("path,labels\na.wav,dog\n")
    with pytest.raises(DataPrepError, match="no column `source`"):
        prepare(str(root), str(tmp_path / "out"), 8000, without=str(other))
    other.write_text("path,labels,source\na.wav,dog,123\n")
    with pytest.raises(DataPrepError, match="no file is left"):
        prepare(str(root), str(tmp_path / "out"), 8000, without=str(other))
    with pytest.raises(AudioError, match="no such folder"):
        prepare(str(tmp_path / "nowhere"), str(tmp_path / "out"), 8000)
