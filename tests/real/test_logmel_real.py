from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch

from weakaudio.audio.frontend import LogMel
from weakaudio.audio.io import find_audio, read_audio

pytestmark = pytest.mark.real


def test_paper_front_end_equals_librosa_on_esc10(real_data: Path) -> None:
    """Every fifth of the 400 clips: eight of each class."""
    front_end, errors = LogMel("paper-44k"), {}
    for path in find_audio(real_data / "esc10-44k")[::5]:
        audio, rate = read_audio(path)
        np.testing.assert_array_equal(audio, sf.read(path, dtype="float32")[0])
        power = librosa.feature.melspectrogram(y=audio, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
        logmel, _ = front_end(torch.from_numpy(audio)[None])
        errors[path.name] = np.abs(logmel[0].numpy() - librosa.power_to_db(power).T).max()
    assert len(errors) == 80
    assert {name: error for name, error in errors.items() if error > 1e-3} == {}
