"""The networks that a search may visit, and the factors by which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from weakaudio.errors import WeakAudioError

STAGES = ("early, stride 4", "early, stride 8", "middle, stride 16", "late, stride 32")
"""Stages of a `FlashCNN`, in the order of the signal."""

_SET_BY_TASK = {"n_classes", "n_mels"}  # arguments of FlashCNN that are not searched


class Stage(NamedTuple):
    """Blocks at one resolution."""

    operators: str
    """name of an operator, or names joined by "+", between which the blocks alternate"""
    blocks: int
    channels: int


class Change(NamedTuple):
    """A factor in which two architectures differ."""

    factor: str
    before: str
    after: str


@dataclass(frozen=True)
class ArchitectureConfig:
    """Arguments of a `FlashCNN` that a search chooses.

    Raises
    ------
    WeakAudioError
        Not four stages, a stage without operators, fewer than 0 blocks, fewer than 1 channel or feature.
    """

    stages: tuple[Stage, ...]
    n_features: int
    """D, width of the embedding"""

    def __post_init__(self) -> None:
        if len(self.stages) != len(STAGES):
            raise WeakAudioError(f"architecture: {len(self.stages)} stages, expected {len(STAGES)}")
        for name, (operators, blocks, channels) in zip(STAGES, self.stages, strict=True):
            if not (isinstance(operators, str) and all(operators.split("+"))):
                raise WeakAudioError(f"architecture, {name}: operators {operators!r}, expected names joined by +")
            if not (_is_count(blocks, 0) and _is_count(channels, 1)):
                raise WeakAudioError(
                    f"architecture, {name}: {blocks!r} blocks and {channels!r} channels, expected 0 or more and "
                    "1 or more"
                )
        if not _is_count(self.n_features, 1):
            raise WeakAudioError(f"architecture: {self.n_features!r} features, expected 1 or more")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchitectureConfig:
        """Read a network's arguments, as `to_config` or a `FlashCNN`'s `config` has them.

        Raises
        ------
        WeakAudioError
            An argument is missing, unknown or of another form.
        """
        unknown = config.keys() - {"stages", "n_features"} - _SET_BY_TASK
        if unknown:
            raise WeakAudioError(
                f"architecture: unknown argument {sorted(unknown)[0]!r}; expected stages and n_features"
            )
        try:
            return cls(tuple(Stage(*stage) for stage in config["stages"]), config["n_features"])
        except KeyError as error:
            raise WeakAudioError(f"architecture: no {error}; expected stages and n_features") from error
        except TypeError as error:
            raise WeakAudioError(
                f"architecture: stages {config['stages']!r}, expected rows of operators, blocks and channels"
            ) from error

    def to_config(self) -> dict[str, Any]:
        """Arguments of a `FlashCNN` except the numbers of classes and mels, ready for JSON."""
        return {"stages": [list(stage) for stage in self.stages], "n_features": self.n_features}

    @cached_property
    def key(self) -> str:
        """Identifies the network: the same for architectures that differ only in operators that no block uses."""
        return " | ".join([*map(describe_stage, self.stages), str(self.n_features)])

    def factors(self) -> dict[str, Any]:
        """Value of each factor, by its name."""
        return {name: _value(self, name) for name in _FACTORS}


_FACTORS = (
    *(f"stage {n + 1} {part}" for n in range(len(STAGES)) for part in Stage._fields),
    "features",
)


def describe_stage(stage: Stage) -> str:
    """Blocks, the operators that these use, and channels: `2 dense+attention, 64`."""
    if not stage.blocks:
        return f"0 blocks, {stage.channels}"
    names = stage.operators.split("+")
    turns = [names[n % len(names)] for n in range(stage.blocks)]
    period = next(p for p in range(1, len(turns) + 1) if turns == [turns[n % p] for n in range(len(turns))])
    return f"{stage.blocks} {'+'.join(turns[:period])}, {stage.channels}"


def changes(before: ArchitectureConfig, after: ArchitectureConfig) -> list[Change]:
    """List the factors in which two architectures differ."""
    old, new = before.factors(), after.factors()
    return [Change(name, str(old[name]), str(new[name])) for name in old if old[name] != new[name]]


@dataclass(frozen=True)
class SearchSpace:
    """The architectures that a search may visit, by the choices for each factor; tuples of four are per stage.

    Raises
    ------
    WeakAudioError
        Not four stages, a factor without choices or with duplicate ones, or an invalid value.
    """

    operators: tuple[tuple[str, ...], ...] = (
        ("dense", "inverted", "large-kernel", "frequency"),
        ("dense", "inverted", "large-kernel", "frequency"),
        ("dense", "inverted", "large-kernel", "frequency", "attention", "recurrence"),
        ("dense", "inverted", "large-kernel", "frequency", "attention", "recurrence"),
    )
    blocks: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 3, 4))
    channels: tuple[tuple[int, ...], ...] = (
        (16, 24, 32, 48),
        (32, 48, 64, 96),
        (64, 96, 128, 192),
        (128, 192, 256, 384),
    )
    features: tuple[int, ...] = (256, 512, 768, 1024)
    longest_mix: int = 2
    """most operators that alternate in a stage; with 3, one of them may have two turns of three"""

    def __post_init__(self) -> None:
        for what in Stage._fields:
            choices = getattr(self, what)
            if len(choices) != len(STAGES):
                raise WeakAudioError(f"space: {what} of {len(choices)} stages, expected {len(STAGES)}")
            for name, values in zip(STAGES, choices, strict=True):
                _check_choices(f"{what}, {name}", values)
        _check_choices("features", self.features)
        if not all(isinstance(name, str) and name and "+" not in name for names in self.operators for name in names):
            raise WeakAudioError("space: operators must be names without a +")
        if not all(_is_count(n, 1) for values in (*self.channels, self.features) for n in values):
            raise WeakAudioError("space: channels and features must be integers of 1 or more")
        if not all(_is_count(n, 0) for values in self.blocks for n in values):
            raise WeakAudioError("space: blocks must be integers of 0 or more")
        if not _is_count(self.longest_mix, 1):
            raise WeakAudioError(f"space: longest_mix {self.longest_mix!r}, expected 1 or more")

    def to_config(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    def with_operators(self, names: set[str]) -> SearchSpace:
        """The same space with only these operators.

        Raises
        ------
        WeakAudioError
            A stage is left without an operator.
        """
        return replace(self, operators=tuple(tuple(o for o in own if o in names) for own in self.operators))

    def choices(self, factor: str) -> tuple[Any, ...]:
        """Choices for a factor, by its name in `ArchitectureConfig.factors`."""
        if factor == "features":
            return self.features
        n, part = _place(factor)
        allowed: tuple[Any, ...] = getattr(self, part)[n]
        return tuple(_mixes(allowed, self.longest_mix)) if part == "operators" else allowed

    def random(self, rng: np.random.Generator) -> ArchitectureConfig:
        """Draw each factor uniformly from its choices."""
        drawn = {factor: _pick(self.choices(factor), rng) for factor in _FACTORS}
        stages = tuple(Stage(*(drawn[f"stage {n + 1} {part}"] for part in Stage._fields)) for n in range(len(STAGES)))
        return ArchitectureConfig(stages, drawn["features"])

    def covering(self) -> list[ArchitectureConfig]:
        """Few architectures that contain, together, every component that one of the space can contain.

        In each stage these are every operator at every number of channels, and all pairs of channels of neighbouring
        stages, the embedding included. Neighbours are indexed by two indices in turn: one chooses a stage's channels,
        the other its operators, as many of them as its blocks can hold.
        """
        widths = [*self.channels, self.features]
        sizes = [max(map(len, widths[n::2])) for n in range(2)]
        mixes = [
            ["+".join(names[m : m + size]) for m in range(0, len(names), size)]
            for names, size in (
                (names, max(1, min(self.longest_mix, max(blocks))))
                for names, blocks in zip(self.operators, self.blocks, strict=True)
            )
        ]
        rounds = max(-(-len(of_stage) // sizes[(n + 1) % 2]) for n, of_stage in enumerate(mixes))
        architectures = []
        for turn, *indices in product(range(rounds), *map(range, sizes)):
            stages = []
            for n, (of_stage, blocks, channels) in enumerate(zip(mixes, self.blocks, self.channels, strict=True)):
                own, other = indices[n % 2], indices[(n + 1) % 2]
                operators = of_stage[(other + turn * sizes[(n + 1) % 2]) % len(of_stage)]
                stages.append(Stage(operators, max(blocks), channels[own % len(channels)]))
            features = self.features[indices[len(STAGES) % 2] % len(self.features)]
            architectures.append(ArchitectureConfig(tuple(stages), features))
        return architectures

    def mutate(self, architecture: ArchitectureConfig, rng: np.random.Generator) -> ArchitectureConfig:
        """Change exactly one factor, so that the network is another one.

        Raises
        ------
        WeakAudioError
            The space holds no other network.
        """
        for n in rng.permutation(len(_FACTORS)):
            values = self.choices(_FACTORS[n])
            for m in rng.permutation(len(values)):
                other = _with(architecture, _FACTORS[n], values[m])
                if other.key != architecture.key:
                    return other
        raise WeakAudioError("space: it holds a single network, so there is nothing to search")


def _mixes(operators: tuple[str, ...], longest: int) -> Iterator[str]:
    """Sequences of names, none of which repeats a shorter one."""
    for length in range(1, longest + 1):
        for names in product(operators, repeat=length):
            repeated = any(
                names == names[:part] * (length // part) for part in range(1, length) if length % part == 0
            )
            if not repeated:
                yield "+".join(names)


def _place(factor: str) -> tuple[int, str]:
    """Index of the stage and field of a factor such as `stage 2 blocks`."""
    _, number, part = factor.split()
    return int(number) - 1, part


def _value(architecture: ArchitectureConfig, factor: str) -> Any:
    if factor == "features":
        return architecture.n_features
    n, part = _place(factor)
    return getattr(architecture.stages[n], part)


def _with(architecture: ArchitectureConfig, factor: str, value: Any) -> ArchitectureConfig:
    if factor == "features":
        return replace(architecture, n_features=value)
    n, part = _place(factor)
    stages = list(architecture.stages)
    stages[n] = stages[n]._replace(**{part: value})
    return replace(architecture, stages=tuple(stages))


def _pick(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _check_choices(what: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise WeakAudioError(f"space: {what}: nothing to choose from")
    if len(set(values)) != len(values):
        raise WeakAudioError(f"space: {what}: duplicates in {', '.join(map(str, values))}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
