"""A network is worth what its stages are, each of which learns a teacher's maps by itself, once.

Networks that are put together from known stages are scored without any training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakaudio.data.mixtures import Mixtures
from weakaudio.errors import WeakAudioError
from weakaudio.nas.distillation_targets import (
    DistillationTargets,
    check_strides,
    make_distillation_targets,
    stage_maps,
)
from weakaudio.nas.proxies import (
    CLIP_NORM,
    COOLDOWN,
    WARMUP,
    check_rate,
    check_training,
    mixtures_of,
    seeded,
    settings_of,
)
from weakaudio.nas.search_space import ArchitectureConfig, Stage, shown
from weakaudio.nas.stage_store import StageStore
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.runtime import find_device, find_precision, fused_copy
from weakaudio.pretrained import load_model

_PLACEHOLDER = 8  # channels of the stages that are built but not used


@dataclass(frozen=True)
class BlockwiseDistillation:
    """How badly the stages of a network, each by itself, learn the teacher's maps: the sum of their errors.

    A stage is given the teacher's map of the stage before, through a 1x1 convolution to the channels it takes (the
    first: the log-mel), and learns the teacher's map at its own resolution through another one. Maps are standardised
    by channel, so a stage that knows nothing has an error of 1. Errors are mean squares on mixtures that training did
    not hear.

    A stage is trained once, and kept by its place, operators, blocks, and channels in and out; several processes may
    share a store. The width of the embedding has no part in the score: let a search leave it as it is.

    The log-mels and the teacher's maps of all mixtures are made once in each process and stay in memory: about 0.3 MB
    a mixture of 4 s if mn04 teaches, and twice that while they are made.

    Parameters
    ----------
    teacher
        Name or path of a model that shows its stages, at strides 4, 8, 16 and 32.
    corpora
        Folders of prepared corpora with the splits train and val, and how often each is drawn from.
    store
        JSON file of the errors of the stages that are known.
    steps
        Of each stage; the learning rate as in `ShortTraining`.
    mixtures
        How many there are to learn from, again and again.
    seconds, batch_size, learning_rate, precision, every, seed, device
        As in `ShortTraining`.

    Raises
    ------
    WeakAudioError
        A setting that cannot be.
    """

    teacher: str
    corpora: Mapping[str, float]
    store: str | Path
    steps: int = 300
    mixtures: int = 1024
    seconds: float = 4.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    precision: str = "auto"
    every: int = 1
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", find_precision(self.precision, self.device))
        check_training(self.steps, self.batch_size, self.seconds, self.precision, self.every)
        if self.mixtures < 1:
            raise WeakAudioError(f"proxy: {self.mixtures} mixtures, expected 1 or more")

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the errors beside the stages, as JSON."""
        return settings_of(self, {"store", "device"})

    @torch.no_grad()
    def check(self) -> None:
        """Find out whether stages can be trained so, without training one.

        Raises
        ------
        WeakAudioError, StoreError
            What `__call__` raises of any network.
        """
        heard, _ = self._mixtures()
        model = fused_copy(load_model(self.teacher), find_device(self.device))
        check_rate(heard, self.teacher, model)
        silence = torch.zeros(1, heard.n_samples, device=model.logmel.window.device)
        check_strides(self.teacher, stage_maps(model, silence, self.every))
        len(self._store)

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The sum of `stage_errors`."""
        return math.fsum(self.stage_errors(config))

    def stage_errors(self, config: Mapping[str, Any]) -> list[float]:
        """The error of each stage of a `FlashCNN` of these arguments; those that are not known are trained.

        Raises
        ------
        WeakAudioError
            The arguments are no network's, the teacher has no stages of these strides, a stage's training diverges,
            or no such device.
        StoreError
            The store is damaged or of other settings.
        """
        genome = ArchitectureConfig.from_config(config)
        with torch.device("meta"):
            FlashCNN(1, **genome.to_config())  # before anything is trained, it is known that all can be
        stages = genome.stages
        return [self._error(n, stage, 1 if n == 0 else stages[n - 1].channels) for n, stage in enumerate(stages)]

    def _error(self, n: int, stage: Stage, inputs: int) -> float:
        key = f"stage {n + 1}, {inputs} channels to {shown(stage)}"
        if key not in self._store:
            self._store.add(key, self._learn(n, stage, inputs))
        error = self._store[key]
        if error is None:
            raise WeakAudioError(f"{key}: its training diverges; train all with a lower learning rate")
        return error

    def _learn(self, n: int, stage: Stage, inputs: int) -> float | None:
        """The error of a stage after its training; None if that has diverged."""
        heard, kept = self._lessons.heard, self._lessons.kept
        device = find_device(self.device)
        with seeded(self.seed, device):
            student = _StageStudent(n, stage, inputs, heard[n], heard[n + 1]).to(
                device, memory_format=torch.channels_last
            )  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(student.parameters(), lr=self.learning_rate)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
            order = torch.Generator().manual_seed(self.seed)
            for _ in range(self.steps):
                rows = torch.randint(len(heard[n]), (self.batch_size,), generator=order)
                loss = self._loss(student, heard[n][rows], heard[n + 1][rows], device)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(student.parameters(), CLIP_NORM)
                optimizer.step()
                schedule.step()
            student.eval()
            with torch.no_grad():
                batches = zip(kept[n].split(self.batch_size), kept[n + 1].split(self.batch_size), strict=True)
                errors = [float(self._loss(student, given, wanted, device)) for given, wanted in batches]
        error = math.fsum(errors) / len(errors)
        return error if math.isfinite(error) else None

    def _loss(self, student: _StageStudent, given: Tensor, wanted: Tensor, device: torch.device) -> Tensor:
        x = given.to(device).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            y = student(x)
        return F.mse_loss(y.float(), wanted.to(device).float())

    def _rate(self, step: int) -> float:
        rising = (step + 1) / max(WARMUP * self.steps, 1)
        falling = (self.steps - step) / max(COOLDOWN * self.steps, 1)
        return min(1.0, rising, falling)

    @cached_property
    def _store(self) -> StageStore:
        return StageStore(self.store, self.settings)

    @cached_property
    def _lessons(self) -> DistillationTargets:
        heard, kept = self._mixtures()
        return make_distillation_targets(
            self.teacher, heard, kept, self.batch_size, find_device(self.device), self.every
        )

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return mixtures_of(self, self.mixtures)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made of the settings: another process makes its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _StageStudent(nn.Module):
    """A stage of a `FlashCNN` between two 1x1 convolutions, which speak the teacher's language."""

    def __init__(self, n: int, stage: Stage, inputs: int, given: Tensor, wanted: Tensor) -> None:
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
        self.after = nn.Conv2d(stage.channels, wanted.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T, F) of the teacher's stage before to that of its stage."""
        assert isinstance(self.stage, nn.ModuleList)
        entry, blocks = self.stage
        assert isinstance(blocks, nn.ModuleList)
        x = F.relu(entry(self.before(x)))
        for block in blocks:
            x = block(x, None)
        y: Tensor = self.after(x)
        return y
