"""Log-mels to clip scores by N_S: our ways against the plain network, with ONNX Runtime as the bar."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from recipes.benchmark.compare import Comparison, Job, Scale, compare, waveforms
from recipes.benchmark.reference import PlainNS, plain_copy
from weakaudio.audio.frontend import LogMel
from weakaudio.networks import Network, WeakCNN, WindowedCNN

_CLASSES = 527  # of AudioSet
_TOLERANCE = 1e-4  # between the probabilities of any two ways


def measure(scale: Scale) -> list[Comparison]:
    """`WeakCNN` as it is and fused in chunks of clips, ONNX Runtime and SLAT's network against the plain one.

    Raises
    ------
    RuntimeError
        A way to run N_S gives other scores than the plain network.
    """
    torch.manual_seed(0)
    logmel = LogMel("paper-44k")
    network = WeakCNN(_CLASSES, width=scale.width, coverage="paper")
    give_statistics(network)
    fused = copy.deepcopy(network).fuse()
    slat = WindowedCNN(_CLASSES, width=scale.width, coverage="paper").eval()
    slat.load_state_dict(network.state_dict())
    plain = plain_copy(network, scale.width)
    with torch.inference_mode():
        frames, _ = logmel(waveforms(scale, logmel.front_end.sample_rate))
        same: dict[str, Callable[[], Tensor]] = {
            f"WeakCNN eager, batch of {scale.clips}": lambda: network(frames).clip_probs
        }
        for size in [size for size in (1, 2, 4, 8) if size <= scale.clips]:
            same[f"WeakCNN fused, chunks of {size}"] = partial(in_chunks, fused, frames, size)
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
            same["ONNX Runtime, plain network"] = onnx_job(plain, frames, scale.threads)
        expected = plain(frames)
        for name, job in same.items():
            apart = float((job() - expected).abs().max())
            if not apart <= _TOLERANCE:
                raise RuntimeError(f"{name}: probabilities are up to {apart:.1e} from the plain network's")
        reference = (f"plain eager network, batch of {scale.clips}", lambda: plain(frames))
        systems: dict[str, Job] = {**same, "WindowedCNN (SLAT) eager": lambda: slat(frames).clip_probs}
        return [compare("inference", scale, reference, systems)]


def give_statistics(network: Network) -> None:
    """Random batch-norm statistics and scales, as after training, so that folding them has work to do."""
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)


def in_chunks(network: Network, frames: Tensor, size: int) -> Tensor:
    """(B, C) clip probabilities of log-mels (B, T, F), `size` clips at a time."""
    return torch.cat([network(chunk).clip_probs for chunk in frames.split(size)])


def onnx_job(plain: PlainNS, frames: Tensor, threads: int) -> Callable[[], Tensor]:
    """A job that runs the exported plain network on `frames`, whose shape is fixed."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        with torch.inference_mode(False):
            torch.onnx.export(plain, (frames.clone(),), str(path), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: frames.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])
