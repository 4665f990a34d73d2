"""The architectures of the search space, and their mutations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakaudio.errors import WeakAudioError
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace, Stage, changes
from weakaudio.networks import build_network

DENSE = SearchSpace(
    operators=(("dense",),) * 4,
    blocks=((0, 1),) * 4,
    channels=((4, 8),) * 4,
    features=(8, 16),
)
BASE = ArchitectureConfig(
    (Stage("dense", 1, 32), Stage("dense", 2, 64), Stage("dense", 3, 128), Stage("dense", 2, 256)), 768
)


def turns(architecture: ArchitectureConfig) -> list[Any]:
    """The network block by block, the long way."""
    built: list[Any] = [architecture.n_features]
    for operators, blocks, channels in architecture.stages:
        names = operators.split("+")
        row: list[Any] = [channels]
        while len(row) <= blocks:
            row.extend(names)
        built.append(row[: blocks + 1])
    return built


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_what_is_drawn_and_mutated_is_in_the_space_and_one_factor_differs(seed: int, longest: int) -> None:
    space, rng = replace(SearchSpace(), longest_mix=longest), np.random.default_rng(seed)
    architecture = space.random(rng)
    for _ in range(5):
        assert all(value in space.choices(factor) for factor, value in architecture.factors().items())
        other = space.mutate(architecture, rng)
        assert len(changes(architecture, other)) == 1
        assert turns(other) != turns(architecture)
        architecture = other


def test_every_factor_is_mutated_and_every_choice_is_drawn() -> None:
    space, rng = SearchSpace(), np.random.default_rng(0)
    architecture = space.random(rng)
    seen: dict[str, set[Any]] = {name: set() for name in architecture.factors()}
    factors = set()
    for _ in range(1500):
        other = space.mutate(architecture, rng)
        factors.add(changes(architecture, other)[0].factor)
        architecture = other
        for name, value in space.random(rng).factors().items():
            seen[name].add(value)
    assert factors == set(architecture.factors())
    assert all(seen[name] == set(space.choices(name)) for name in seen)


@given(st.integers(0, 2**32))
def test_architectures_of_the_same_blocks_have_the_same_key_and_others_do_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "a+b", "b+a", "a+a", "a+b+a", "a+b+a+b"]
    one, other = (
        ArchitectureConfig(
            tuple(Stage(names[rng.integers(len(names))], int(rng.integers(3)), 8) for _ in range(4)), 16
        )
        for _ in range(2)
    )
    mixed = ArchitectureConfig((*one.stages[:3], other.stages[3]), 16)
    assert (one.key == mixed.key) == (turns(one) == turns(mixed))
    assert (one.key == other.key) == (turns(one) == turns(other))


def test_mixes_alternate_and_none_repeats_a_shorter_one() -> None:
    space = SearchSpace(operators=(("a", "b"),) * 4, longest_mix=3)
    assert space.choices("stage 1 operators") == (
        *("a", "b", "a+b", "b+a"),
        *("a+a+b", "a+b+a", "a+b+b", "b+a+a", "b+a+b", "b+b+a"),
    )


@given(st.integers(0, 2**32))
def test_an_architecture_is_a_network_and_comes_back_from_its_arguments(seed: int) -> None:
    architecture = DENSE.random(np.random.default_rng(seed))
    network = build_network("flash", n_classes=2, n_mels=32, **architecture.to_config())
    assert ArchitectureConfig.from_config(network.config) == architecture
    assert ArchitectureConfig.from_config(architecture.to_config()) == architecture


def test_the_hand_made_network_is_in_the_space() -> None:
    assert all(value in SearchSpace().choices(factor) for factor, value in BASE.factors().items())
    assert BASE.key == "1 dense, 32 | 2 dense, 64 | 3 dense, 128 | 2 dense, 256 | 768"


ROWS = [["dense", 1, 8]] * 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"stages": ROWS}, "no 'n_features'"),
        ({"stages": ROWS[:3], "n_features": 8}, "3 stages, expected 4"),
        ({"stages": ROWS, "n_features": 8, "heads": 2}, "unknown argument 'heads'"),
        ({"stages": [["dense", 1]] * 4, "n_features": 8}, "expected rows"),
        ({"stages": 4, "n_features": 8}, "expected rows"),
        ({"stages": [["dense+", 1, 8], *ROWS[1:]], "n_features": 8}, "early, stride 4: operators 'dense\\+'"),
        ({"stages": [*ROWS[:3], [1, 1, 8]], "n_features": 8}, "late, stride 32: operators 1"),
        ({"stages": [["dense", -1, 8], *ROWS[1:]], "n_features": 8}, "-1 blocks"),
        ({"stages": [["dense", 1.5, 8], *ROWS[1:]], "n_features": 8}, "1.5 blocks"),
        ({"stages": [["dense", True, 8], *ROWS[1:]], "n_features": 8}, "True blocks"),
        ({"stages": [["dense", 1, 0], *ROWS[1:]], "n_features": 8}, "0 channels"),
        ({"stages": ROWS, "n_features": "8"}, "'8' features"),
    ],
)
def test_invalid_arguments_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(WeakAudioError, match=said):
        ArchitectureConfig.from_config(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": ((1,),) * 3}, "blocks of 3 stages"),
        ({"channels": ((8,), (8,), (), (8,))}, "channels, middle, stride 16: nothing to choose"),
        ({"features": (8, 8)}, "duplicates"),
        ({"operators": (("dense+attention",),) * 4}, r"without a \+"),
        ({"blocks": ((-1,),) * 4}, "0 or more"),
        ({"channels": ((0,),) * 4}, "1 or more"),
        ({"longest_mix": 0}, "longest_mix 0"),
    ],
)
def test_a_space_that_holds_no_network_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(WeakAudioError, match=said):
        replace(SearchSpace(), **change)


def test_operators_that_a_device_cannot_run_are_left_out() -> None:
    narrow = SearchSpace().with_operators({"dense", "attention"})
    assert narrow.operators == (("dense",), ("dense",), ("dense", "attention"), ("dense", "attention"))
    with pytest.raises(WeakAudioError, match="early, stride 4: nothing to choose"):
        SearchSpace().with_operators({"attention"})


def test_a_space_of_one_network_cannot_be_searched() -> None:
    space = SearchSpace(
        operators=(("a", "b"),) * 4, blocks=((0,),) * 4, channels=((8,),) * 4, features=(8,)
    )  # operators of no block
    rng = np.random.default_rng(0)
    with pytest.raises(WeakAudioError, match="a single network"):
        space.mutate(space.random(rng), rng)
