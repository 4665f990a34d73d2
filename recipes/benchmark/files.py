"""From recordings on disk to a table of events: ours against librosa with an eager network, and against YAMNet."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import torch

from recipes.benchmark.compare import Comparison, Scale, compare
from weakaudio.audio.io import find_audio
from weakaudio.batch.detect import detect_folder
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import PostProcessing, find_events
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model

_FILES = 120
_THRESHOLD = 0.5
_YAMNET_RATE, _YAMNET_HOP = 16000, 7680  # Hz; samples from one patch of 0.975 s to the next, as in its release


def measure(scale: Scale, data: Path, yamnet: Path | None = None) -> list[Comparison]:
    """Detection in real clips; the reference is librosa and the same network as it was trained, file by file.

    Parameters
    ----------
    data
        Folder that holds esc50-16k/.
    yamnet
        The published yamnet.tflite, which needs `ai-edge-litert`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = folder / "clips"
        clips.mkdir()
        paths = find_audio(data / "esc50-16k")
        for path in paths[:: max(len(paths) // _FILES, 1)][:_FILES]:
            shutil.copy(path, clips)
        files = sorted(clips.iterdir())
        model = load_model(DEFAULT_MODEL).eval()
        detector = Detector(model, _THRESHOLD)
        systems: dict[str, Callable[[], object]] = {
            f"weakaudio, {DEFAULT_MODEL}": lambda: detect_folder(
                detector, clips, folder / "ours.csv", overwrite=_forget(folder / "ours.csv")
            )
        }
        if yamnet is not None:
            systems["YAMNet, TFLite, file by file"] = _yamnet(yamnet, files, folder / "yamnet.csv", scale.threads)
        reference = f"librosa and eager network ({DEFAULT_MODEL}), file by file"
        plain = (reference, lambda: _plain(model, files, folder / "plain.csv"))
        seconds = sum(librosa.get_duration(path=path) for path in files)
        found = compare("files to table", scale, plain, systems, seconds)
        found.data = (
            f"{len(files)} clips of ESC-50, {seconds / len(files):g} s each at 16 kHz, {scale.threads} threads"
        )
        return [found]


def _forget(out: Path) -> bool:
    """Delete what the last turn left, so that this one does all of its work."""
    for path in out.parent.glob(f"{out.name}*"):
        path.unlink()
    return True


@torch.inference_mode()
def _plain(model: Model, files: Sequence[Path], out: Path) -> None:
    """What one would write without this package, around the same weights."""
    fe = model.front_end
    rules = PostProcessing(np.full(len(model.labels), _THRESHOLD))
    tables = []
    for path in files:
        audio, rate = librosa.load(path, sr=fe.sample_rate)
        power = librosa.feature.melspectrogram(
            y=audio,
            sr=rate,
            n_fft=fe.n_fft,
            win_length=fe.win_length,
            hop_length=fe.hop_length,
            n_mels=fe.n_mels,
            fmin=fe.f_min,
            fmax=fe.f_max,
        )
        level = (librosa.power_to_db(power, top_db=None) + fe.shift) * fe.gain
        output = model.network(torch.from_numpy(level.T.astype(np.float32))[None])
        probs = output.segment_logits[0].sigmoid().numpy()
        events = find_events(probs, model.segment_times(len(audio))[: len(probs)], model.labels, rules)
        tables.append(events.assign(file=path.name))
    pd.concat(tables).to_csv(out, index=False)


def _yamnet(weights: Path, files: Sequence[Path], out: Path, threads: int) -> Callable[[], None]:
    """YAMNet as its TFLite file is used: patch by patch."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(weights), num_threads=threads)
    interpreter.allocate_tensors()
    given, said = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    size = int(np.prod(given["shape"]))

    def job() -> None:
        rows = []
        for path in files:
            audio, _ = librosa.load(path, sr=_YAMNET_RATE)
            starts = range(0, max(len(audio) - size, 0) + 1, _YAMNET_HOP)
            padded = np.pad(audio, (0, max(size - len(audio), 0)))
            for start in starts:
                patch = padded[start : start + size].astype(np.float32)
                interpreter.set_tensor(given["index"], patch.reshape(given["shape"]))
                interpreter.invoke()
                scores = interpreter.get_tensor(said["index"]).reshape(-1)
                rows += [
                    (path.name, start / _YAMNET_RATE, (start + size) / _YAMNET_RATE, int(n), float(scores[n]))
                    for n in np.flatnonzero(scores >= _THRESHOLD)
                ]
        pd.DataFrame(rows, columns=["file", "start", "end", "class", "score"]).to_csv(out, index=False)

    return job
