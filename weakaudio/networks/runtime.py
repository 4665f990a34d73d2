"""Where a network runs, and how: device, precision, a copy made for inference, batches, threads."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model

DTYPES = ("float32", "bfloat16")
BFLOAT16 = {"avx512_bf16", "amx_bf16"}
"""Flags in `cpuinfo` of processors with bfloat16 arithmetic."""

Batch = TypeVar("Batch")
Result = TypeVar("Result")

# Values of ONEDNN_MAX_CPU_ISA under which oneDNN computes in float32 and converts.
_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def find_device(name: str) -> torch.device:
    """The device of that name, e.g. "cpu" or "cuda"; "auto" is a GPU if there is one.

    Raises
    ------
    WeakAudioError
        This machine, or this build of torch, has none of that name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise WeakAudioError(f"device {name!r}: not available ({str(error).splitlines()[0]})") from error
    return device


def find_dtype(name: str, device: torch.device) -> str:
    """Resolve a dtype for networks on a device to one of `DTYPES`; "auto" is bfloat16 where it is native.

    Raises
    ------
    WeakAudioError
        Unknown name.
    """
    if name == "auto":
        return "bfloat16" if has_native_bfloat16(device) else "float32"
    if name not in DTYPES:
        raise WeakAudioError(f"dtype {name!r}: unknown; there are {', '.join(('auto', *DTYPES))}")
    return name


def find_precision(name: str, accelerator: str) -> str:
    """Resolve a precision of Lightning: "auto" is "bf16-mixed" where bfloat16 is native, else "32-true".

    `accelerator` is the name of an accelerator or device: for "auto", "gpu" and "cuda" the GPU decides, if any.
    """
    if name != "auto":
        return name
    on_gpu = accelerator.split(":")[0] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    return "bf16-mixed" if has_native_bfloat16(device) else "32-true"


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic: a GPU that supports it, a CPU with AVX512_BF16 or AMX.

    Elsewhere it is emulated through float32, which is slower than float32. On a CPU the arithmetic is oneDNN's, so
    ONEDNN_MAX_CPU_ISA can switch it off. Processors are known on Linux only (`cpuinfo`).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper() not in _WITHOUT_BFLOAT16 and not BFLOAT16.isdisjoint(cpuinfo().get("flags", "").split())


@lru_cache(maxsize=1)
def cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor in /proc/cpuinfo, as "model name" and "flags"; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines() if path.is_file() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def fused_copy(model: Model, device: torch.device) -> Model:
    """Copy a model to a device for inference, made faster by `Network.fuse`; the original is unchanged."""
    model = copy.deepcopy(model).eval().to(device)
    model.network.fuse()
    return model


def stack(clips: Sequence[NDArray[np.float32]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack clips (N,) into a zero-padded waveform (B, max N) and their lengths (B,), on a device."""
    waveform = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    return waveform.to(device), torch.tensor([len(clip) for clip in clips], device=device)


def share(job: Callable[[Batch], Result], batches: Sequence[Batch]) -> list[Result]:
    """Apply a job to each batch, in their order; as many batches at once as torch has threads, one thread each.

    Many small operations are faster on one core each than split among all cores, which wait for one another. Batches
    beyond a multiple of the number of threads run one by one, on all cores.
    """
    n = torch.get_num_threads()
    even = len(batches) // n * n if n > 1 else 0
    shared = list(_lanes(n, os.getpid()).map(job, batches[:even])) if even else []
    return [*shared, *map(job, batches[even:])]


@lru_cache(maxsize=1)
def _lanes(n: int, process: int) -> ThreadPoolExecutor:
    """A pool of `n` threads; per process, as a fork has none of its parent's threads."""
    started = Barrier(n)

    def start() -> None:
        torch.set_num_threads(1)  # of this thread, and of those that are new to torch until the last line here
        torch.ones(1 << 16).sum()  # a thread takes its number of threads at its first parallel operation

    lanes = ThreadPoolExecutor(n, thread_name_prefix="lane", initializer=start)
    for job in [lanes.submit(started.wait) for _ in range(n)]:
        job.result()
    torch.set_num_threads(n)
    return lanes
