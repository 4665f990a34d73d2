"""What a network of the search is made of: a few factors, of which each can be changed alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from weakaudio.errors import WeakAudioError

STAGES = ("early, stride 4", "early, stride 8", "middle, stride 16", "late, stride 32")
"""of a `FlashCNN`, in the order of the signal"""

_NOT_OF_THE_GENOME = {"n_classes", "n_mels"}  # arguments of FlashCNN that the task sets


class Stage(NamedTuple):
    """Blocks at one resolution."""

    operators: str
    """name of an operator, or names joined by "+", of which the blocks take turns"""
    blocks: int
    channels: int


class Change(NamedTuple):
    """A factor in which two genomes differ."""

    factor: str
    before: str
    after: str


@dataclass(frozen=True)
class ArchitectureConfig:
    """The arguments of a `FlashCNN` that a search chooses.

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
            raise WeakAudioError(f"genome: {len(self.stages)} stages, expected {len(STAGES)}")
        for name, (operators, blocks, channels) in zip(STAGES, self.stages, strict=True):
            if not (isinstance(operators, str) and all(operators.split("+"))):
                raise WeakAudioError(f"genome, {name}: operators {operators!r}, expected names joined by +")
            if not (_whole(blocks) and blocks >= 0 and _whole(channels) and channels >= 1):
                raise WeakAudioError(
                    f"genome, {name}: {blocks!r} blocks and {channels!r} channels, expected 0 or more and 1 or more"
                )
        if not (_whole(self.n_features) and self.n_features >= 1):
            raise WeakAudioError(f"genome: {self.n_features!r} features, expected 1 or more")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ArchitectureConfig:
        """The genome of a network's arguments, as `to_config` or a `FlashCNN`'s `config` has them.

        Raises
        ------
        WeakAudioError
            An argument is missing, unknown or of another form.
        """
        unknown = config.keys() - {"stages", "n_features"} - _NOT_OF_THE_GENOME
        if unknown:
            raise WeakAudioError(f"genome: unknown argument {sorted(unknown)[0]!r}; expected stages and n_features")
        try:
            return cls(tuple(Stage(*stage) for stage in config["stages"]), config["n_features"])
        except KeyError as error:
            raise WeakAudioError(f"genome: no {error}; expected stages and n_features") from error
        except TypeError as error:
            raise WeakAudioError(
                f"genome: stages {config['stages']!r}, expected rows of operators, blocks and channels"
            ) from error

    def to_config(self) -> dict[str, Any]:
        """Arguments of a `FlashCNN` but for the numbers of classes and mels, as JSON has them."""
        return {"stages": [list(stage) for stage in self.stages], "n_features": self.n_features}

    @cached_property
    def key(self) -> str:
        """The same for genomes that are the same network, such as those with operators whose turn never comes."""
        return " | ".join([*map(shown, self.stages), str(self.n_features)])

    def factors(self) -> dict[str, Any]:
        """Every factor's value, by its name."""
        return {name: _value(self, name) for name in _FACTORS}


_FACTORS = (
    *(f"stage {n + 1} {part}" for n in range(len(STAGES)) for part in Stage._fields),
    "features",
)


def shown(stage: Stage) -> str:
    """A stage in a few words, with the operators whose turn comes: `2 dense+attention, 64`."""
    if not stage.blocks:
        return f"0 blocks, {stage.channels}"
    names = stage.operators.split("+")
    turns = [names[n % len(names)] for n in range(stage.blocks)]
    period = next(p for p in range(1, len(turns) + 1) if turns == [turns[n % p] for n in range(len(turns))])
    return f"{stage.blocks} {'+'.join(turns[:period])}, {stage.channels}"


def changes(before: ArchitectureConfig, after: ArchitectureConfig) -> list[Change]:
    """The factors in which two genomes differ."""
    old, new = before.factors(), after.factors()
    return [Change(name, str(old[name]), str(new[name])) for name in old if old[name] != new[name]]


@dataclass(frozen=True)
class SearchSpace:
    """The genomes a search may visit: what each factor may be. Tuples of four are of the four stages.

    Raises
    ------
    WeakAudioError
        Not four stages, nothing or the same twice to choose from, or a value that no network can have.
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
    """operators that take turns in a stage, at most; with 3, one operator can have two turns of three"""

    def __post_init__(self) -> None:
        for what in Stage._fields:
            choices = getattr(self, what)
            if len(choices) != len(STAGES):
                raise WeakAudioError(f"space: {what} of {len(choices)} stages, expected {len(STAGES)}")
            for name, values in zip(STAGES, choices, strict=True):
                _check_choices(f"{what}, {name}", values)
        _check_choices("features", self.features)
        if not all(isinstance(name, str) and name and "+" not in name for names in self.operators for name in names):
            raise WeakAudioError("space: operators are names without a +")
        numbers = [n for values in (*self.channels, self.features) for n in values]
        if not all(map(_whole, numbers)) or min(numbers) < 1:
            raise WeakAudioError("space: channels and features are whole numbers of 1 or more")
        if not all(_whole(n) and n >= 0 for values in self.blocks for n in values):
            raise WeakAudioError("space: blocks are whole numbers of 0 or more")
        if not (_whole(self.longest_mix) and self.longest_mix >= 1):
            raise WeakAudioError(f"space: longest_mix {self.longest_mix!r}, expected 1 or more")

    def to_config(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    def with_operators(self, names: set[str]) -> SearchSpace:
        """The same without the operators that are not named.

        Raises
        ------
        WeakAudioError
            A stage is left without any.
        """
        return replace(self, operators=tuple(tuple(o for o in own if o in names) for own in self.operators))

    def choices(self, factor: str) -> tuple[Any, ...]:
        """What a factor, by a name of `ArchitectureConfig.factors`, may be."""
        if factor == "features":
            return self.features
        _, number, part = factor.split()
        stage = int(number) - 1
        allowed: tuple[Any, ...] = getattr(self, part)[stage]
        return tuple(_mixes(allowed, self.longest_mix)) if part == "operators" else allowed

    def random(self, rng: np.random.Generator) -> ArchitectureConfig:
        """A genome with each factor drawn evenly from its choices."""
        drawn = {factor: _pick(self.choices(factor), rng) for factor in _FACTORS}
        stages = tuple(Stage(*(drawn[f"stage {n + 1} {part}"] for part in Stage._fields)) for n in range(len(STAGES)))
        return ArchitectureConfig(stages, drawn["features"])

    def covering(self) -> list[ArchitectureConfig]:
        """Some genomes that have, together, all that a genome can have side by side: in each stage every operator at
        every number of channels, and all pairs of channels of neighbours, of which the embedding is one.

        The stages take two indices in turn, one of which chooses a stage's channels and the other its operators: as
        many of them as its blocks can hold.
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
        genomes = []
        for turn, *indices in product(range(rounds), *map(range, sizes)):
            stages = []
            for n, (of_stage, blocks, channels) in enumerate(zip(mixes, self.blocks, self.channels, strict=True)):
                own, other = indices[n % 2], indices[(n + 1) % 2]
                operators = of_stage[(other + turn * sizes[(n + 1) % 2]) % len(of_stage)]
                stages.append(Stage(operators, max(blocks), channels[own % len(channels)]))
            features = self.features[indices[len(STAGES) % 2] % len(self.features)]
            genomes.append(ArchitectureConfig(tuple(stages), features))
        return genomes

    def mutate(self, genome: ArchitectureConfig, rng: np.random.Generator) -> ArchitectureConfig:
        """Another network, of a genome in which exactly one factor is another one.

        Raises
        ------
        WeakAudioError
            There is no other network in the space.
        """
        for n in rng.permutation(len(_FACTORS)):
            values = self.choices(_FACTORS[n])
            for m in rng.permutation(len(values)):
                other = _with(genome, _FACTORS[n], values[m])
                if other.key != genome.key:
                    return other
        raise WeakAudioError("space: it holds one network only, so there is nothing to search")


def _mixes(operators: tuple[str, ...], longest: int) -> Iterator[str]:
    """Names in turns, none of which is another one repeated."""
    for length in range(1, longest + 1):
        for names in product(operators, repeat=length):
            repeated = any(
                names == names[:part] * (length // part) for part in range(1, length) if length % part == 0
            )
            if not repeated:
                yield "+".join(names)


def _value(genome: ArchitectureConfig, factor: str) -> Any:
    if factor == "features":
        return genome.n_features
    _, number, part = factor.split()
    return getattr(genome.stages[int(number) - 1], part)


def _with(genome: ArchitectureConfig, factor: str, value: Any) -> ArchitectureConfig:
    if factor == "features":
        return replace(genome, n_features=value)
    _, number, part = factor.split()
    stages = list(genome.stages)
    stages[int(number) - 1] = stages[int(number) - 1]._replace(**{part: value})
    return replace(genome, stages=tuple(stages))


def _pick(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _check_choices(what: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise WeakAudioError(f"space: {what}: nothing to choose from")
    if len(set(values)) != len(values):
        raise WeakAudioError(f"space: {what}: the same twice in {', '.join(map(str, values))}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
