"""Speed against plain references in the same run.

    python -m recipes.benchmark.run            measure and record (minutes; on an idle machine)
    python -m recipes.benchmark.run --quick    everything once at a tiny size; records nothing

`weakaudio benchmark` measures single models on this machine.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.benchmark import plain
from recipes.benchmark.compare import compare
from recipes.command import command
from recipes.results import Row
from weakaudio.audio.frontend import FrontEnd, LogMel, get_front_end
from weakaudio.audio.io import find_audio
from weakaudio.batch.detect import detect_folder
from weakaudio.deploy.benchmark import Job, noise, use_threads
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.detector import Detector
from weakaudio.networks import Network, WeakCNN, WindowedCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained.registry import load_model
from weakaudio.training.losses import LOSSES

TOLERANCE = 1e-4  # between the probabilities of two ways to run N_S
_FILES, _THRESHOLD = 120, 0.5


@dataclass(frozen=True)
class Scale:
    """Size of the benchmark."""

    clips: int = 8
    seconds: float = 10.0
    """of a clip"""
    rounds: int = 7
    width: float = 1.0
    """of N_S"""
    threads: int = 2
    """of torch, ONNX Runtime and TFLite"""

    def noise(self, preset: str) -> Tensor:
        """(clips, N) at the rate of a front end, the same every time."""
        return noise(get_front_end(preset).sample_rate, self.seconds, self.clips)


QUICK = Scale(clips=2, seconds=1.5, rounds=1, width=1 / 8, threads=1)


def rows(what: str, scale: Scale, jobs: Mapping[str, Job], data: str | None = None) -> Iterator[Row]:
    """Speed of jobs, each of which takes in all clips, against the first one; `data` describes clips but noise."""
    about = f"clips of {scale.seconds:g} s of noise, batch {scale.clips}, {scale.threads} threads"
    for system, seconds, ratio in compare(jobs, scale.rounds):
        row = {"what": what, "system": system, "data": data or about}
        yield {**row, "metric": "audio s/s", "value": scale.clips * scale.seconds / seconds}
        if ratio:
            yield {**row, "metric": "times the reference", **ratio}


def front_ends(scale: Scale) -> Iterator[Row]:
    """All clips at once against librosa's clip by clip."""
    for preset in ("paper-44k", "16k"):
        audio = scale.noise(preset)
        jobs: dict[str, Job] = {
            "librosa (reference)": partial(_librosa, audio, get_front_end(preset)),
            "LogMel": partial(LogMel(preset), audio),
        }
        with torch.inference_mode():
            yield from rows(f"front end {preset}", scale, jobs)


def _librosa(audio: Tensor, fe: FrontEnd) -> list[NDArray[np.float32]]:
    return [plain.librosa_logmel(clip, fe) for clip in audio.numpy()]


def inference(scale: Scale) -> Iterator[Row]:
    """N_S from log-mels to clip probabilities: as it is, fused, on ONNX Runtime, and SLAT's network.

    Raises
    ------
    RuntimeError
        A way to run N_S gives other probabilities than the plain network.
    """
    torch.manual_seed(0)
    network = WeakCNN(plain.N_CLASSES, width=scale.width, coverage="paper")
    plain.randomise_norms(network)
    fused, reference = copy.deepcopy(network).fuse(), plain.plain_copy(network)
    slat = WindowedCNN(plain.N_CLASSES, width=scale.width, coverage="paper").eval()
    slat.load_state_dict(network.state_dict())
    with torch.inference_mode():
        frames, _ = LogMel("paper-44k")(scale.noise("paper-44k"))
        jobs: dict[str, Callable[[], Tensor]] = {
            f"plain eager network, batch of {scale.clips} (reference)": lambda: reference(frames),
            f"WeakCNN eager, batch of {scale.clips}": lambda: network(frames).clip_probs,
        }
        for size in [size for size in (1, 2, 4, 8) if size <= scale.clips]:
            jobs[f"WeakCNN fused, chunks of {size}"] = partial(_in_chunks, fused, frames, size)
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
            jobs["ONNX Runtime, plain network"] = _onnx(reference, frames, scale.threads)
        expected = reference(frames)
        for name, job in jobs.items():
            difference = float((job() - expected).abs().max())
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{name}: probabilities are up to {difference:.1e} from the plain network's")
        yield from rows("inference", scale, {**jobs, "WindowedCNN (SLAT) eager": lambda: slat(frames).clip_probs})


def _in_chunks(network: Network, frames: Tensor, size: int) -> Tensor:
    """Clip probabilities (B, C) of log-mels (B, T, F), `size` clips at a time."""
    return torch.cat([network(chunk).clip_probs for chunk in frames.split(size)])


def _onnx(network: nn.Module, frames: Tensor, threads: int) -> Callable[[], Tensor]:
    """A job that runs the exported network on `frames`, whose shape is fixed."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "plain.onnx"
        with torch.inference_mode(False):
            torch.onnx.export(network, (frames.clone(),), str(path), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: frames.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def training(scale: Scale) -> Iterator[Row]:
    """A step from waveforms: front end, forward, loss, backward, optimiser."""
    torch.manual_seed(0)
    targets = (torch.rand(scale.clips, plain.N_CLASSES) < 0.005).float()
    audio, mel = scale.noise("paper-44k"), plain.torchaudio_logmel()
    reference = plain.PlainNS(plain.N_CLASSES, scale.width)
    labels = [f"class {n}" for n in range(plain.N_CLASSES)]
    n_s = Model(WeakCNN(plain.N_CLASSES, width=scale.width), "paper-44k", labels)
    slat = Model(WindowedCNN(plain.N_CLASSES, width=scale.width), "paper-44k", labels)
    jobs = {
        "torchaudio + plain network (reference)": _step(
            reference, lambda: F.binary_cross_entropy(reference(mel(audio)), targets)
        ),
        "WeakCNN, weak loss": _step(n_s, lambda: LOSSES["weak"](n_s(audio), targets)),
        "WindowedCNN, SLAT loss": _step(slat, lambda: LOSSES["slat"](slat(audio), targets)),
    }
    yield from rows("training step", scale, jobs)


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Job:
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def files_to_table(scale: Scale, data: Path, weights: Path | None) -> Iterator[Row]:
    """Detection from real clips to a table, against librosa and the same network as it was trained, file by file."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "clips").mkdir()
        paths = find_audio(data / "esc50-16k")
        for path in paths[:: max(len(paths) // _FILES, 1)][:_FILES]:
            shutil.copy(path, base / "clips")
        files, model = sorted((base / "clips").iterdir()), load_model(DEFAULT_MODEL).eval()
        detector = Detector(model, _THRESHOLD)

        def ours() -> None:
            for path in base.glob("ours.csv*"):  # what the last turn left, so that this one does all of its work
                path.unlink()
            detect_folder(detector, base / "clips", base / "ours.csv", overwrite=True)

        jobs: dict[str, Job] = {
            f"librosa and eager network ({DEFAULT_MODEL}), file by file (reference)": lambda: plain.detect_plainly(
                model, files, _THRESHOLD, base / "plain.csv"
            ),
            f"weakaudio, {DEFAULT_MODEL}": ours,
        }
        if weights is not None:
            jobs["YAMNet, TFLite, file by file"] = lambda: plain.detect_by_yamnet(
                weights, files, _THRESHOLD, base / "yamnet.csv", scale.threads
            )
        seconds = sum(librosa.get_duration(path=path) for path in files)
        scale = replace(scale, clips=len(files), seconds=seconds / len(files))
        about = f"{scale.clips} clips of ESC-50, {scale.seconds:g} s each at 16 kHz, {scale.threads} threads"
        yield from rows("files to table", scale, jobs, about)


@command("benchmark")
def main(
    quick: Annotated[bool, "everything once, tiny; records nothing"] = False,
    data: Annotated[Path | None, "folder that holds esc50-16k/, for detection from files to a table"] = None,
    yamnet: Annotated[Path | None, "yamnet.tflite, to be measured as well; needs ai-edge-litert"] = None,
    only_files: Annotated[bool, "measure detection from files alone"] = False,
) -> Iterator[Row]:
    """Measure speed against plain references in the same run."""
    scale = QUICK if quick else Scale()
    with use_threads(scale.threads):
        if not only_files:
            for part in (front_ends, inference, training):
                yield from part(scale)
        if data:
            yield from files_to_table(scale, data, yamnet)


if __name__ == "__main__":
    raise SystemExit(main())
