"""What all proxies have alike: a proxy tells by a short training what a network is worth, lower is better.

`weakaudio.nas.short_training` trains the whole network, `weakaudio.nas.blockwise` each stage by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch

from weakaudio.data.mixtures import Mixtures
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum

WARMUP, COOLDOWN = 0.1, 0.3  # parts of the steps, over which the learning rate rises and falls
CLIP_NORM = 5.0  # of gradients

_PRECISIONS = ("bf16-mixed", "32-true")
_VAL_BATCHES = 4


class Proxy(Protocol):
    """A dataclass that tells what networks are worth."""

    @property
    def teacher(self) -> str: ...

    @property
    def corpora(self) -> Mapping[str, float]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def seed(self) -> int: ...


def read_corpora(values: Sequence[str]) -> dict[str, float]:
    """Folders of corpora, and how often each is drawn from, of words like `PATH=WEIGHT`, or PATH alone.

    Raises
    ------
    WeakAudioError
        A weight that is none, or a folder that is there twice.
    """
    found: dict[str, float] = {}
    for value in values:
        folder, weight = value, 1.0
        before, equals, after = value.rpartition("=")
        if equals and not Path(value).is_dir():
            try:
                folder, weight = before, float(after)
            except ValueError:
                raise WeakAudioError(f"--corpus {value}: {after!r} is no number; expected PATH=WEIGHT") from None
        if not (math.isfinite(weight) and weight > 0):
            raise WeakAudioError(f"--corpus {value}: a weight of {weight:g}, expected more than 0")
        if folder in found:
            raise WeakAudioError(f"--corpus {folder}: is there twice")
        found[folder] = weight
    return found


def mixtures_of(proxy: Proxy, size: int) -> tuple[Mixtures, Mixtures]:
    """What is learnt from, and what errors are measured on."""
    heard = Mixtures(proxy.corpora, proxy.seconds, size, proxy.seed, {"split": "train"})
    n_kept = _VAL_BATCHES * proxy.batch_size
    return heard, Mixtures(proxy.corpora, proxy.seconds, n_kept, proxy.seed + 1, {"split": "val"})


def settings_of(proxy: Proxy, without: set[str]) -> dict[str, Any]:
    """All that decides what a proxy says beside the network, as JSON, `without` some of its fields."""
    names = [field.name for field in fields(proxy) if field.name not in without]  # type: ignore[arg-type]
    values = {name: getattr(proxy, name) for name in names}
    corpora = [[Path(folder).name, weight] for folder, weight in proxy.corpora.items()]
    return {**values, "teacher": model_checksum(load_model(proxy.teacher)), "corpora": corpora}


def check_rate(mixtures: Mixtures, teacher: str, model: Model) -> None:
    """
    Raises
    ------
    ProtocolError
        Corpora at another rate than the teacher's.
    """
    if mixtures.sample_rate != model.sample_rate:
        raise ProtocolError(
            f"corpora at {mixtures.sample_rate} Hz, and the teacher {teacher} takes {model.sample_rate} Hz; prepare "
            "them at that rate"
        )


def check_training(steps: int, batch_size: int, seconds: float, precision: str, every: int) -> None:
    """
    Raises
    ------
    WeakAudioError
        A setting of a training that cannot be.
    """
    if steps < 1 or batch_size < 1 or not seconds > 0:
        raise WeakAudioError(
            f"proxy: {steps} steps of {batch_size} mixtures of {seconds} s, expected 1 or more, and more than 0 s"
        )
    if every < 1:
        raise WeakAudioError(f"proxy: every {every}-th frame, expected 1 or more")
    if precision not in _PRECISIONS:
        raise WeakAudioError(f"proxy: precision {precision!r}, expected auto, {' or '.join(_PRECISIONS)}")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch draws from this seed within, and goes on as before after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
