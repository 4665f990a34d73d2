"""Networks replayed from CUDA graphs: with small batches, a GPU otherwise waits for Python between kernels.

A graph has fixed shapes and fixed memory. So there is one per bucket of clip lengths, and a clip is padded to the
next bucket, which by the contract of `Network` does not change its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from weakaudio.errors import WeakAudioError
from weakaudio.networks.contract import Output
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, fused_copy

_WARM_UP = 3  # runs before capture: kernels are chosen, workspaces are allocated


class GraphedModel:
    """A model whose network is replayed from CUDA graphs.

    Parameters
    ----------
    model
        Is copied; the copy is fused.
    seconds
        Lengths of the buckets in seconds.
    batch
        Most clips per call; fewer take as long.
    device
        A GPU.

    Raises
    ------
    WeakAudioError
        No GPU, no buckets or one of length 0, a batch of 0 clips, or a network that cannot be captured because it
        reads a value back from the GPU.
    """

    def __init__(
        self, model: Model, seconds: Iterable[float] = (1.0, 2.0, 5.0, 10.0), batch: int = 1, device: str = "cuda"
    ) -> None:
        self.seconds = tuple(sorted(set(seconds)))
        if not self.seconds or not all(isfinite(length) and length > 0 for length in self.seconds):
            raise WeakAudioError(f"CUDA graphs for clips of {self.seconds} s: expected some, all above 0")
        if batch < 1:
            raise WeakAudioError(f"CUDA graphs for a batch of {batch} clips: expected 1 or more")
        self.device = find_device(device)
        self.batch = batch
        self.model = fused_copy(model, self.device)
        self._buckets = [self._capture(length) for length in self.seconds]

    @torch.inference_mode()
    def __call__(self, waveform: Tensor, lengths: Tensor | None = None) -> Output:
        """Run the model on waveforms (B, N), B up to `batch`, on any device; outputs are copies on the GPU.

        Raises
        ------
        WeakAudioError
            No clips, more than `batch`, or clips longer than the longest bucket.
        """
        clips, samples = waveform.shape
        if not 1 <= clips <= self.batch:
            raise WeakAudioError(f"{clips} clips: these CUDA graphs are for 1 to {self.batch}")
        logmel, n_frames = self.model.logmel(
            waveform.to(self.device), None if lengths is None else lengths.to(self.device)
        )
        bucket = next((bucket for bucket in self._buckets if bucket.logmel.shape[1] >= logmel.shape[1]), None)
        if bucket is None:
            raise WeakAudioError(
                f"clips of {samples / self.model.sample_rate:g} s: the longest of these CUDA graphs is for "
                f"{self.seconds[-1]:g} s; cut the clips, or capture a longer bucket"
            )
        others, frames = self.batch - clips, bucket.logmel.shape[1]
        bucket.logmel.copy_(pad(logmel, (0, 0, 0, frames - logmel.shape[1], 0, others)))
        bucket.lengths.copy_(pad(n_frames, (0, others), value=1))
        bucket.replay()
        network, out = self.model.network, bucket.output
        segments, steps = (
            geometry.n_segments(logmel.shape[1]) for geometry in (network.geometry, network.score_geometry)
        )
        return Output(  # copies, as the next replay overwrites these
            out.segment_logits[:clips, :steps].clone(),
            out.clip_probs[:clips].clone(),
            out.embeddings[:clips, :segments].clone(),
            out.mask[:clips, :segments].clone(),
            out.score_mask[:clips, :steps].clone(),
        )

    def _capture(self, seconds: float) -> _Bucket:
        fe = self.model.front_end
        frames = fe.n_frames(max(round(seconds * fe.sample_rate), 1))
        with torch.inference_mode():
            logmel = torch.zeros(self.batch, frames, fe.n_mels, device=self.device)
            lengths = torch.full((self.batch,), frames, dtype=torch.int64, device=self.device)
            outputs: dict[str, Output] = {}
            replay = capture(lambda: outputs.update(last=self.model.network(logmel, lengths)), self.device)
        return _Bucket(logmel, lengths, replay, outputs["last"])


class _Bucket(NamedTuple):
    """A graph with its input and output memory."""

    logmel: Tensor
    """(B, T, F)"""
    lengths: Tensor
    """(B,) frames"""
    replay: Callable[[], None]
    output: Output


def capture(job: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Capture a job in a CUDA graph; the returned function replays it on the same memory.

    Raises
    ------
    WeakAudioError
        No GPU, or the job reads a value back from the GPU, which cannot be captured.
    """
    if device.type != "cuda":
        raise WeakAudioError(f"device {device}: CUDA graphs need a GPU; on a CPU use weakaudio.deploy.backends")
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            job()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            job()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WeakAudioError(f"cannot be captured in a CUDA graph ({reason})") from error
    return graph.replay
