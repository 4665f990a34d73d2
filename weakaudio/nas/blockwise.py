"""Blockwise distillation: each stage of a network learns a teacher's maps separately, once.

Networks that are put together from known stages are scored without any training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.nas.proxies import (
    CLIP_NORM,
    LR_DECAY,
    WARMUP,
    Proxy,
    check_rate,
    seeded,
)
from weakaudio.nas.search_space import ArchitectureConfig, Stage, describe_stage
from weakaudio.nas.stores import StageStore
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.model import Model
from weakaudio.networks.runtime import find_device, fused_copy
from weakaudio.pretrained.registry import load_model
from weakaudio.training.distillation import decimate

_PLACEHOLDER = 8  # channels of the stages that are built but not used
_STRIDES = (4, 8, 16, 32)  # of a FlashCNN's stages


@dataclass(frozen=True)
class BlockwiseDistillation(Proxy):
    """The sum of the errors with which a network's stages, each trained separately, predict a teacher's maps.

    A stage takes the teacher's map of the stage before, through a 1x1 convolution to its own channels (the first
    stage: the log-mel), and predicts the teacher's map at its own resolution through another 1x1 convolution. Maps
    are standardised per channel, so that predicting the mean has an error of 1. Errors are mean squares on validation
    mixtures.

    A stage is trained once, and stored by its position, operators, blocks, and channels in and out; several processes
    may share a store. The width of the embedding does not affect the score: let a search keep it fixed.

    The log-mels and the teacher's maps of all mixtures are computed once per process and stay in memory: about 0.3 MB
    per mixture of 4 s with mn04 as the teacher, and twice that while they are computed.

    Parameters
    ----------
    store
        JSON file with the errors of the stages trained so far.
    mixtures
        Number of training mixtures, which are used repeatedly.

    Raises
    ------
    WeakAudioError
        An invalid setting.
    """

    store: str | Path = field(kw_only=True)
    mixtures: int = 1024

    _NO_EFFECT: ClassVar = {"device", "store"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixtures < 1:
            raise WeakAudioError(f"proxy: {self.mixtures} mixtures, expected 1 or more")

    @torch.no_grad()
    def check(self) -> None:
        """Check teacher, corpora, device and store without training a stage.

        Raises
        ------
        WeakAudioError, StoreError
            What `__call__` would raise for any network.
        """
        train, _ = self._mixtures()
        model = fused_copy(load_model(self.teacher), find_device(self.device))
        check_rate(train, self.teacher, model)
        silence = torch.zeros(1, train.n_samples, device=model.logmel.window.device)
        check_strides(self.teacher, stage_maps(model, silence, self.frame_stride))
        len(self._store)

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The sum of `stage_errors`."""
        return math.fsum(self.stage_errors(config))

    def stage_errors(self, config: Mapping[str, Any]) -> list[float]:
        """The error of each stage of a `FlashCNN` of these arguments; unknown stages are trained.

        Raises
        ------
        WeakAudioError
            Invalid arguments, a teacher without stages of these strides, a stage whose training diverges, or an
            unknown device.
        StoreError
            The store is damaged or was made with other settings.
        """
        architecture = ArchitectureConfig.from_config(config)
        with torch.device("meta"):
            FlashCNN(1, **architecture.to_config())  # fails before anything is trained
        stages = architecture.stages
        return [self._error(n, stage, 1 if n == 0 else stages[n - 1].channels) for n, stage in enumerate(stages)]

    def _error(self, n: int, stage: Stage, inputs: int) -> float:
        key = f"stage {n + 1}, {inputs} channels to {describe_stage(stage)}"
        if key not in self._store:
            self._store.add(key, self._train(n, stage, inputs))
        error = self._store[key]
        if error is None:
            raise WeakAudioError(f"{key}: its training diverges; lower the learning rate of all stages")
        return error

    def _train(self, n: int, stage: Stage, inputs: int) -> float | None:
        """The error of a stage after its training; None if that diverged."""
        train, val = self._targets
        device = find_device(self.device)
        with seeded(self.seed, device):
            student = _StageStudent(n, stage, inputs, train[n], train[n + 1]).to(
                device, memory_format=torch.channels_last
            )  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(student.parameters(), lr=self.learning_rate)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
            order = torch.Generator().manual_seed(self.seed)
            for _ in range(self.steps):
                rows = torch.randint(len(train[n]), (self.batch_size,), generator=order)
                loss = self._loss(student, train[n][rows], train[n + 1][rows], device)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(student.parameters(), CLIP_NORM)
                optimizer.step()
                schedule.step()
            student.eval()
            with torch.no_grad():
                batches = zip(val[n].split(self.batch_size), val[n + 1].split(self.batch_size), strict=True)
                errors = [float(self._loss(student, given, target, device)) for given, target in batches]
        error = math.fsum(errors) / len(errors)
        return error if math.isfinite(error) else None

    def _loss(self, student: _StageStudent, given: Tensor, target: Tensor, device: torch.device) -> Tensor:
        x = given.to(device).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            y = student(x)
        return F.mse_loss(y.float(), target.to(device).float())

    def _rate(self, step: int) -> float:
        rising = (step + 1) / max(WARMUP * self.steps, 1)
        falling = (self.steps - step) / max(LR_DECAY * self.steps, 1)
        return min(1.0, rising, falling)

    @cached_property
    def _store(self) -> StageStore:
        return StageStore(self.store, self.settings)

    @cached_property
    def _targets(self) -> DistillationTargets:
        device = find_device(self.device)
        return make_distillation_targets(self.teacher, *self._mixtures(), self.batch_size, device, self.frame_stride)

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return self.draw_mixtures(self.mixtures)

    def __getstate__(self) -> dict[str, Any]:
        """The settings without what was computed from them: another process computes its own."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class _StageStudent(nn.Module):
    """A stage of a `FlashCNN` between two 1x1 convolutions, from and to the teacher's channels."""

    def __init__(self, n: int, stage: Stage, inputs: int, given: Tensor, target: Tensor) -> None:
        super().__init__()
        stages: list[tuple[str, int, int]] = [(stage.operators, 0, _PLACEHOLDER)] * 4
        if n > 0:
            stages[n - 1] = (stage.operators, 0, inputs)
            self.before: nn.Module = nn.Conv2d(given.shape[1], inputs, 1)
        else:
            self.before = nn.Identity()
        stages[n] = (stage.operators, stage.blocks, stage.channels)
        n_mels = given.shape[3] * (1 if n == 0 else 2 ** (n + 1))
        self.stage = FlashCNN(1, n_mels, stages, n_features=1).layers()[n]
        self.after = nn.Conv2d(stage.channels, target.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, F) of the teacher's previous stage to that of its present one."""
        assert isinstance(self.stage, nn.ModuleList)
        entry, blocks = self.stage
        assert isinstance(blocks, nn.ModuleList)
        x = F.relu(entry(self.before(x)))
        for block in blocks:
            x = block(x, None)
        y: Tensor = self.after(x)
        return y


# --- distillation targets


class DistillationTargets(NamedTuple):
    """The log-mel and the teacher's maps, standardised per channel: (n, channels, T, F) float16 each."""

    train: list[Tensor]
    val: list[Tensor]


def make_distillation_targets(
    teacher: str, train: Mixtures, val: Mixtures, batch_size: int, device: torch.device, frame_stride: int = 1
) -> DistillationTargets:
    """Compute the maps of a teacher for students that take every k-th frame of its log-mel.

    Raises
    ------
    ProtocolError
        The corpora's sample rate is not the teacher's, or its stages have other strides than a `FlashCNN`'s.
    """
    model = fused_copy(load_model(teacher), device)
    check_rate(train, teacher, model)
    targets = DistillationTargets(
        *(_maps_of_all(model, mixtures, batch_size, device, frame_stride) for mixtures in (train, val))
    )
    check_strides(teacher, targets.train)
    for n in range(1, len(targets.train)):
        var, mean = torch.var_mean(targets.train[n], dim=(0, 2, 3), keepdim=True, correction=0)
        for maps in targets:
            maps[n] = maps[n].sub_(mean).div_((var + 1e-5).sqrt()).half()
    return targets


@torch.no_grad()
def _maps_of_all(
    model: Model, mixtures: Mixtures, batch_size: int, device: torch.device, frame_stride: int
) -> list[Tensor]:
    """`stage_maps` of all mixtures."""
    found: list[Tensor] = []
    start = 0
    for waveform in mixture_loader(mixtures, batch_size, workers=0):
        made = stage_maps(model, waveform.to(device), frame_stride)
        found = found or [torch.empty(len(mixtures), *x.shape[1:], dtype=x.dtype) for x in made]
        for part, x in zip(found, made, strict=True):
            part[start : start + len(x)] = x
        start += len(waveform)
    return found


def stage_maps(model: Model, waveform: Tensor, frame_stride: int = 1) -> list[Tensor]:
    """Every k-th frame of the log-mel, float16, and the maps of all stages, float32, decimated to that resolution:
    (B, channels, T, F) each."""
    logmel, _ = model.logmel(waveform)
    maps = model.network.forward_maps(logmel).maps
    return [logmel[:, None, ::frame_stride].half(), *(decimate(x, frame_stride) for x in maps)]


def check_strides(teacher: str, maps: list[Tensor]) -> None:
    """
    Raises
    ------
    ProtocolError
        The maps of `stage_maps` are not at a `FlashCNN`'s strides.
    """
    (frames, mels), *found = (tuple(x.shape[2:]) for x in maps)
    if found != [(-(-frames // stride), mels // stride) for stride in _STRIDES]:
        raise ProtocolError(
            f"teacher {teacher}: its stages make {', '.join(f'{t}x{f}' for t, f in found)} of {frames}x{mels} frames "
            f"and mels; expected four, at strides {', '.join(map(str, _STRIDES))}"
        )
