"""What a network is worth, told by a short training: scores for a search, lower is better.

`ShortTraining` trains the whole network. `BlockwiseDistillation` trains each stage by itself, once, so that networks
put together from known stages are scored without any training.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

from weakaudio.data.mixtures import Mixtures, mixture_loader
from weakaudio.errors import ProtocolError, WeakAudioError
from weakaudio.inference.embedding import find_device, fused_copy
from weakaudio.latency.genome import Genome, Stage, shown
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.model import Model
from weakaudio.pretrained import load_model, model_checksum
from weakaudio.search.stage_store import StageStore
from weakaudio.training.distillation import Distiller

_PRECISIONS = ("bf16-mixed", "32-true")
_WARMUP, _COOLDOWN = 0.1, 0.3  # parts of the steps, over which the learning rate rises and falls
_VAL_BATCHES = 4
_CLIP_NORM = 5.0  # of gradients
_STRIDES = (4, 8, 16, 32)  # of a FlashCNN's stages
_PLACEHOLDER = 8  # channels of the stages that are built but not used


@dataclass(frozen=True)
class ShortTraining:
    """The validation loss of a network after a few hundred steps of `Distiller` on `Mixtures`.

    All networks hear the same mixtures in the same order, and are validated on the same others. Nothing is written.

    Parameters
    ----------
    teacher
        Name or path of a model that shows its stages.
    corpora
        Folders of prepared corpora with the splits train and val, and how often each is drawn from.
    steps
        Over the first tenth the learning rate rises, over the last three it falls to 0.
    seconds, batch_size
        Length of a mixture, and how many a step has.
    learning_rate
        Of AdamW, at its highest.
    precision
        "bf16-mixed" or "32-true".
    seed
        Of weights and mixtures.
    workers
        Processes that mix.
    device
        "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises
    ------
    WeakAudioError
        A setting that cannot be.
    """

    teacher: str
    corpora: Mapping[str, float]
    steps: int = 300
    seconds: float = 4.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    precision: str = "bf16-mixed"
    seed: int = 0
    workers: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check(self.steps, self.batch_size, self.seconds, self.precision)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the loss beside the network, as JSON."""
        return _settings(self, {"workers", "device"})

    def check(self) -> None:
        """Find out whether networks can be trained so, without training one.

        Raises
        ------
        WeakAudioError
            What `__call__` raises of any network.
        """
        device = find_device(self.device)
        heard, _ = self._mixtures()
        with _seeded(self.seed, device):
            self._distiller({}, heard)

    def __call__(self, config: Mapping[str, Any]) -> float:
        """The loss of a `FlashCNN` of these arguments; not a number if the training has diverged.

        Raises
        ------
        WeakAudioError
            As `Distiller`, `Mixtures` and `FlashCNN` say, or no such device.
        """
        device = find_device(self.device)
        heard, kept = self._mixtures()
        with _seeded(self.seed, device), _quiet():
            distiller = self._distiller(Genome.from_config(config).to_config(), heard)
            trainer = lightning.Trainer(
                accelerator=device.type,
                devices=1 if device.index is None else [device.index],
                precision=self.precision,  # type: ignore[arg-type]
                max_epochs=1,
                gradient_clip_val=_CLIP_NORM,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(
                distiller,
                mixture_loader(heard, self.batch_size, self.steps, self.workers),
                mixture_loader(kept, self.batch_size, workers=0),
            )
        return float(trainer.callback_metrics["val_loss"])

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return _mixtures(self, self.steps * self.batch_size)

    def _distiller(self, config: dict[str, Any], heard: Mixtures) -> Distiller:
        distiller = Distiller(
            self.teacher,
            "flash",
            config,
            self.steps,
            self.learning_rate,
            warmup=int(_WARMUP * self.steps),
            cooldown=int(_COOLDOWN * self.steps),
        )
        _check_rate(heard, self.teacher, distiller.teacher)
        return distiller


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
    seconds, batch_size, learning_rate, precision, seed, device
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
    precision: str = "bf16-mixed"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check(self.steps, self.batch_size, self.seconds, self.precision)
        if self.mixtures < 1:
            raise WeakAudioError(f"proxy: {self.mixtures} mixtures, expected 1 or more")

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the errors beside the stages, as JSON."""
        return _settings(self, {"store", "device"})

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
        _check_rate(heard, self.teacher, model)
        _check_strides(self.teacher, _maps(model, torch.zeros(1, heard.n_samples, device=model.logmel.window.device)))
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
        genome = Genome.from_config(config)
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
        with _seeded(self.seed, device):
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
                nn.utils.clip_grad_norm_(student.parameters(), _CLIP_NORM)
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
        rising = (step + 1) / max(_WARMUP * self.steps, 1)
        falling = (self.steps - step) / max(_COOLDOWN * self.steps, 1)
        return min(1.0, rising, falling)

    @cached_property
    def _store(self) -> StageStore:
        return StageStore(self.store, self.settings)

    @cached_property
    def _lessons(self) -> _Lessons:
        heard, kept = self._mixtures()
        return _make_lessons(self.teacher, heard, kept, self.batch_size, find_device(self.device))

    def _mixtures(self) -> tuple[Mixtures, Mixtures]:
        return _mixtures(self, self.mixtures)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made of the settings: another process makes its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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


class _Lessons(NamedTuple):
    """(n, channels, T, F) float16 each: the log-mel and the teacher's maps, which are standardised by channel."""

    heard: list[Tensor]
    kept: list[Tensor]


def _make_lessons(teacher: str, heard: Mixtures, kept: Mixtures, batch_size: int, device: torch.device) -> _Lessons:
    model = fused_copy(load_model(teacher), device)
    _check_rate(heard, teacher, model)
    lessons = _Lessons(*(_hear(model, mixtures, batch_size, device) for mixtures in (heard, kept)))
    _check_strides(teacher, lessons.heard)
    for n in range(1, len(lessons.heard)):
        var, mean = torch.var_mean(lessons.heard[n], dim=(0, 2, 3), keepdim=True, correction=0)
        for maps in lessons:
            maps[n] = maps[n].sub_(mean).div_((var + 1e-5).sqrt()).half()
    return lessons


@torch.no_grad()
def _hear(model: Model, mixtures: Mixtures, batch_size: int, device: torch.device) -> list[Tensor]:
    """The log-mel, float16, and the maps, float32, of all mixtures."""
    parts: list[Tensor] = []
    start = 0
    for waveform in mixture_loader(mixtures, batch_size, workers=0):
        made = _maps(model, waveform.to(device))
        parts = parts or [torch.empty(len(mixtures), *x.shape[1:], dtype=x.dtype) for x in made]
        for part, x in zip(parts, made, strict=True):
            part[start : start + len(x)] = x
        start += len(waveform)
    return parts


def _maps(model: Model, waveform: Tensor) -> list[Tensor]:
    """(B, channels, T, F) each: the log-mel, float16, and the maps of all stages, float32."""
    logmel, _ = model.logmel(waveform)
    return [logmel[:, None].half(), *model.network.forward_maps(logmel).maps]


def _mixtures(proxy: ShortTraining | BlockwiseDistillation, size: int) -> tuple[Mixtures, Mixtures]:
    """What is learnt from, and what errors are measured on."""
    heard = Mixtures(proxy.corpora, proxy.seconds, size, proxy.seed, {"split": "train"})
    n_kept = _VAL_BATCHES * proxy.batch_size
    return heard, Mixtures(proxy.corpora, proxy.seconds, n_kept, proxy.seed + 1, {"split": "val"})


def _settings(proxy: ShortTraining | BlockwiseDistillation, without: set[str]) -> dict[str, Any]:
    values = {field.name: getattr(proxy, field.name) for field in fields(proxy) if field.name not in without}
    corpora = [[Path(folder).name, weight] for folder, weight in proxy.corpora.items()]
    return {**values, "teacher": model_checksum(load_model(proxy.teacher)), "corpora": corpora}


def _check_strides(teacher: str, maps: list[Tensor]) -> None:
    (frames, mels), *found = (tuple(x.shape[2:]) for x in maps)
    if found != [(-(-frames // stride), mels // stride) for stride in _STRIDES]:
        raise ProtocolError(
            f"teacher {teacher}: its stages make {', '.join(f'{t}x{f}' for t, f in found)} of {frames}x{mels} frames "
            f"and mels; expected four, at strides {', '.join(map(str, _STRIDES))}"
        )


def _check_rate(mixtures: Mixtures, teacher: str, model: Model) -> None:
    if mixtures.sample_rate != model.sample_rate:
        raise ProtocolError(
            f"corpora at {mixtures.sample_rate} Hz, and the teacher {teacher} takes {model.sample_rate} Hz; prepare "
            "them at that rate"
        )


def _check(steps: int, batch_size: int, seconds: float, precision: str) -> None:
    if steps < 1 or batch_size < 1 or not seconds > 0:
        raise WeakAudioError(
            f"proxy: {steps} steps of {batch_size} mixtures of {seconds} s, expected 1 or more, and more than 0 s"
        )
    if precision not in _PRECISIONS:
        raise WeakAudioError(f"proxy: precision {precision!r}, expected {' or '.join(_PRECISIONS)}")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch draws from this seed within, and goes on as before after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says nothing of devices, workers and its end, as it would for each network of a search."""
    said = [logging.getLogger(f"lightning.pytorch.{name}") for name in ("utilities.rank_zero", "accelerators.cuda")]
    levels = [logger.level for logger in said]
    for logger in said:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        for logger, level in zip(said, levels, strict=True):
            logger.setLevel(level)
