"""Speed against plain references in the same run.

    python -m recipes.benchmark.run            measure and record (minutes; on an idle machine)
    python -m recipes.benchmark.run --quick    everything once at a tiny size; records nothing

`weakaudio benchmark` measures single models on this machine.
"""

from __future__ import annotations

import copy
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import librosa
import numpy as np
import soundfile as sf
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from weakaudio_data_prep import folder

from recipes.benchmark import plain
from recipes.benchmark.compare import QUICK, Scale, compare, noise, waveforms
from recipes.command import command
from recipes.results import Row
from weakaudio.audio.frontend import FrontEnd, LogMel, get_front_end
from weakaudio.audio.io import find_audio, from_int16, write_wav
from weakaudio.batch.detect import detect_folder
from weakaudio.data.corpus import STORE, Corpus
from weakaudio.data.datamodule import Batch, ClipDataset, clip_loader
from weakaudio.data.store import ClipStore
from weakaudio.deploy.benchmark import Job, time_rounds, use_threads
from weakaudio.inference import DEFAULT_MODEL
from weakaudio.inference.detector import Detector
from weakaudio.networks import Network, WeakCNN, WindowedCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model
from weakaudio.training.losses import LOSSES

TOLERANCE = 1e-4  # between the probabilities of two ways to run N_S
_FILES, _THRESHOLD = 120, 0.5
PROCESSES = {
    "python (reference)": ["-c", "pass"],
    "import weakaudio": ["-c", "import weakaudio"],
    "weakaudio --help": ["-m", "weakaudio.cli", "--help"],
    "weakaudio models": ["-m", "weakaudio.cli", "models"],
    "import torch (for comparison)": ["-c", "import torch"],
}


def front_ends(scale: Scale) -> Iterator[Row]:
    """All clips at once against librosa's clip by clip."""
    for preset in ("paper-44k", "16k"):
        fe, logmel = get_front_end(preset), LogMel(preset)
        audio = waveforms(scale, fe.sample_rate)
        with torch.inference_mode():
            jobs: dict[str, Job] = {
                "librosa (reference)": partial(_librosa, audio, fe),
                "LogMel": partial(logmel, audio),
            }
            yield from compare(f"front end {preset}", scale, jobs)


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
    logmel = LogMel("paper-44k")
    network = WeakCNN(plain.N_CLASSES, width=scale.width, coverage="paper")
    plain.randomise_norms(network)
    fused, reference = copy.deepcopy(network).fuse(), plain.plain_copy(network, scale.width)
    slat = WindowedCNN(plain.N_CLASSES, width=scale.width, coverage="paper").eval()
    slat.load_state_dict(network.state_dict())
    with torch.inference_mode():
        frames, _ = logmel(waveforms(scale, logmel.front_end.sample_rate))
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
        yield from compare("inference", scale, {**jobs, "WindowedCNN (SLAT) eager": lambda: slat(frames).clip_probs})


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
    """A step from waveforms: front end, forward, loss, backward, optimiser; and what else changes its speed."""
    torch.manual_seed(0)
    targets = (torch.rand(scale.clips, plain.N_CLASSES) < 0.005).float()
    audio = {preset: waveforms(scale, get_front_end(preset).sample_rate) for preset in ("paper-44k", "16k")}
    reference = plain.PlainTagger(scale.width)

    def step(
        kind: type[WeakCNN], loss: str, small: bool = False, bf16: bool = False, last: bool = False, how: str = ""
    ) -> Job:
        preset, width = ("16k", max(scale.width / 4, 1 / 16)) if small else ("paper-44k", scale.width)
        network = kind(plain.N_CLASSES, n_mels=get_front_end(preset).n_mels, width=width)
        if last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if how == "compiled":
            network.compile(dynamic=True)
        model = Model(network, preset, [f"class {n}" for n in range(plain.N_CLASSES)])

        def of_batch() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return LOSSES[loss](model(audio[preset]), targets)

        return _step(model, of_batch)

    yield from compare(
        "training step",
        scale,
        {
            "torchaudio + plain network (reference)": _step(
                reference, lambda: F.binary_cross_entropy(reference(audio["paper-44k"]), targets)
            ),
            "WeakCNN, weak loss": step(WeakCNN, "weak"),
            "WindowedCNN, SLAT loss": step(WindowedCNN, "slat"),
        },
    )
    jobs = {
        "WeakCNN, float32 (reference)": step(WeakCNN, "weak", True),
        "WeakCNN, channels-last": step(WeakCNN, "weak", True, last=True),
        "WeakCNN, bf16": step(WeakCNN, "weak", True, bf16=True),
        "WeakCNN, bf16, channels-last": step(WeakCNN, "weak", True, bf16=True, last=True),
        "WindowedCNN (SLAT), bf16, channels-last": step(WindowedCNN, "slat", True, bf16=True, last=True),
    }
    if scale is not QUICK:  # compiling takes a minute
        jobs["WeakCNN, bf16, channels-last, compiled"] = step(WeakCNN, "weak", True, True, True, "compiled")
    yield from compare("training switches", scale, jobs)


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Job:
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def loading(scale: Scale) -> Iterator[Row]:
    """Epochs of batches from a clip store, against the same loader on WAV files, with 0 to 2 loader processes."""
    for name, sample_rate in {"16 kHz": 16000, "44.1 kHz": 44100}.items():
        with tempfile.TemporaryDirectory() as root:
            corpus = write_corpus(Path(root), sample_rate, scale)
            for processes, workers in {"no worker": 0, "1 worker": 1, "2 workers": 2}.items():
                files, store = loaders(corpus, scale.audio_seconds, workers)
                jobs: dict[str, Job] = {
                    f"WAV files, {processes} (reference)": partial(deque, files, 0),
                    f"clip store, {processes}": partial(deque, store, 0),
                }
                yield from compare(f"loading {name}", scale, jobs, 15 * scale.audio_seconds)


class WavStore(ClipStore):
    """Has the clips of a corpus as its clip store has them, but reads them from their WAV files."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus.root / STORE)
        self._wavs = [corpus.root / key for key in self.keys]

    def audio(self, n: int) -> NDArray[np.float32]:
        return from_int16(sf.read(self._wavs[n], dtype="int16")[0])


def write_sounds(root: Path, sample_rate: int, scale: Scale, times: int) -> Path:
    """A folder of 16-bit WAV files of noise in two classes, `times` as many as the scale has clips."""
    for n in range(times * scale.clips):
        path = root / f"class{n % 2}" / f"{n:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, noise(n, scale, sample_rate), sample_rate)
    return root


def write_corpus(root: Path, sample_rate: int, scale: Scale) -> Path:
    """The folder of a corpus of WAV files, packed at their own rate: 20 minutes of audio at full scale."""
    folder.prepare(str(write_sounds(root / "sounds", sample_rate, scale, 15)), str(root / "corpus"), sample_rate)
    return root / "corpus"


def loaders(root: Path, batch_seconds: float, workers: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Loaders of a corpus that read its WAV files and its store; they differ in nothing else."""
    files, store = Corpus(root), Corpus(root)
    files.store = WavStore(files)
    one, other = (clip_loader(ClipDataset(corpus, {}), batch_seconds, workers, seed=0) for corpus in (files, store))
    return one, other


def start(rounds: int) -> Iterator[Row]:
    """Seconds of a fresh process: importing the package, and the first answers of the command line."""

    def run(arguments: list[str]) -> Job:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = time_rounds(
        [run(arguments) for arguments in PROCESSES.values()], torch.device("cpu"), rounds=(rounds, rounds)
    )
    for system, median in zip(PROCESSES, np.median(seconds, axis=0).tolist(), strict=True):
        row = {"what": "start", "system": system, "metric": "s", "n": rounds, "data": "a fresh process"}
        yield {**row, "value": median}


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
        about = f"{len(files)} clips of ESC-50, {seconds / len(files):g} s each at 16 kHz, {scale.threads} threads"
        yield from compare("files to table", scale, jobs, seconds, about)


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
            for part in (front_ends, inference, training, loading):
                yield from part(scale)
            yield from start(scale.rounds)
        if data:
            yield from files_to_table(scale, data, yamnet)


if __name__ == "__main__":
    raise SystemExit(main())
