"""What stages learn from: a teacher's maps of mixtures, made once and kept in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError
from weakaudio.nas.proxies import check_rate
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import fused_copy
from weakaudio.pretrained import load_model
from weakaudio.training.distillation import decimate

_STRIDES = (4, 8, 16, 32)  # of a FlashCNN's stages


class DistillationTargets(NamedTuple):
    """(n, channels, T, F) float16 each: the log-mel and the teacher's maps, which are standardised by channel."""

    heard: list[Tensor]
    kept: list[Tensor]


def make_distillation_targets(
    teacher: str, heard: Mixtures, kept: Mixtures, batch_size: int, device: torch.device, every: int = 1
) -> DistillationTargets:
    """What a teacher has to say to students that hear every k-th frame of its log-mel."""
    model = fused_copy(load_model(teacher), device)
    check_rate(heard, teacher, model)
    lessons = DistillationTargets(*(_hear(model, mixtures, batch_size, device, every) for mixtures in (heard, kept)))
    check_strides(teacher, lessons.heard)
    for n in range(1, len(lessons.heard)):
        var, mean = torch.var_mean(lessons.heard[n], dim=(0, 2, 3), keepdim=True, correction=0)
        for maps in lessons:
            maps[n] = maps[n].sub_(mean).div_((var + 1e-5).sqrt()).half()
    return lessons


@torch.no_grad()
def _hear(model: Model, mixtures: Mixtures, batch_size: int, device: torch.device, every: int) -> list[Tensor]:
    """The log-mel, float16, and the maps, float32, of all mixtures."""
    parts: list[Tensor] = []
    start = 0
    for waveform in mixture_loader(mixtures, batch_size, workers=0):
        made = stage_maps(model, waveform.to(device), every)
        parts = parts or [torch.empty(len(mixtures), *x.shape[1:], dtype=x.dtype) for x in made]
        for part, x in zip(parts, made, strict=True):
            part[start : start + len(x)] = x
        start += len(waveform)
    return parts


def stage_maps(model: Model, waveform: Tensor, every: int = 1) -> list[Tensor]:
    """(B, channels, T, F) each: every k-th frame of the log-mel, float16, and the maps of all stages, float32, at
    that resolution."""
    logmel, _ = model.logmel(waveform)
    maps = model.network.forward_maps(logmel).maps
    return [logmel[:, None, ::every].half(), *(decimate(x, every) for x in maps)]


def check_strides(teacher: str, maps: list[Tensor]) -> None:
    (frames, mels), *found = (tuple(x.shape[2:]) for x in maps)
    if found != [(-(-frames // stride), mels // stride) for stride in _STRIDES]:
        raise ProtocolError(
            f"teacher {teacher}: its stages make {', '.join(f'{t}x{f}' for t, f in found)} of {frames}x{mels} frames "
            f"and mels; expected four, at strides {', '.join(map(str, _STRIDES))}"
        )
