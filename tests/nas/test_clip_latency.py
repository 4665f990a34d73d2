from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from table_stand_ins import HERE, made_up

from weakaudio.deploy.benchmark import Device
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import Component, count_components
from weakaudio.nas.latency_model import ClipLatency, predict
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.search_space import ArchitectureConfig, SearchSpace, Stage

SMALL = SearchSpace(
    operators=(("dense",), ("dense", "inverted"), ("frequency", "attention"), ("dense", "recurrence")),
    blocks=((0, 1), (1, 2), (1, 3), (1,)),
    channels=((8, 16), (16, 24), (32,), (32, 48)),
    features=(64, 96),
)
GIVEN: tuple[str, float, int] = ("16k", 1.37, 4)


def latency_of(space: SearchSpace) -> ClipLatency:
    """Over a table that has all components of a space."""
    latency = ClipLatency(LatencyTable(HERE), *GIVEN)
    latency.table.times.update((key, made_up(key)) for key in latency.components(space))
    return latency


def fails(latency: ClipLatency, operator: str, but_for: int = 0) -> None:
    """The device cannot run an operator, but for one of so many channels."""
    keys = [key for key in latency.table.times if key.operator == operator and key.inputs != but_for]
    for key in keys:
        del latency.table.times[key]
        latency.table.errors[key] = "no kernel"


def test_the_components_of_a_space_are_those_of_all_its_networks() -> None:
    names = list(SMALL.random(np.random.default_rng(0)).factors())
    expected: set[Component] = set()
    for values in itertools.product(*map(replace(SMALL, longest_mix=1).choices, names)):
        stages = tuple(Stage(*values[3 * n : 3 * n + 3]) for n in range(4))
        config = {**ArchitectureConfig(stages, values[-1]).to_config(), "n_classes": 527}
        expected |= count_components(config, *GIVEN).keys()
    found = latency_of(SMALL).components(SMALL)
    assert set(found) == expected
    assert len(found) == len(expected)


def test_few_networks_cover_a_space_also_where_operators_are_more_than_channels() -> None:
    assert len(SearchSpace().covering()) == 16
    few = replace(SMALL, channels=((8,),) * 4, features=(64,), longest_mix=1)
    assert len(few.covering()) == max(map(len, few.operators))
    keys = {
        key
        for architecture in few.covering()
        for key in count_components({**architecture.to_config(), "n_classes": 527}, *GIVEN)
    }
    assert {key.operator for key in keys if key.kind == "block"} == {o for names in few.operators for o in names}


def test_every_network_of_the_default_space_has_a_latency() -> None:
    latency, rng = latency_of(SearchSpace()), np.random.default_rng(0)
    for _ in range(100):
        config = SearchSpace().random(rng).to_config()
        whole = predict({**config, "n_classes": 527}, latency.table, *GIVEN).total
        assert latency(config) == whole / 4


def test_an_operator_that_the_device_cannot_run_is_left_out() -> None:
    latency = latency_of(SMALL)
    assert latency.runnable(SMALL) == SMALL
    assert latency.failed(SMALL) == {}
    fails(latency, "inverted", but_for=24)  # some can be run: a search reports the others
    fails(latency, "recurrence")
    assert latency.failed(SMALL) == {"recurrence": "no kernel"}
    assert latency.runnable(SMALL).operators == (*SMALL.operators[:3], ("dense",))
    fails(latency, "frequency")
    fails(latency, "attention")
    with pytest.raises(WeakAudioError, match=r"stride 16: nothing to choose from, as Toaster.* cannot run .*: no"):
        latency.runnable(SMALL)


def test_a_table_that_lacks_components_is_refused() -> None:
    latency = latency_of(SMALL)
    gpu, int8 = Device("cuda", "Big GPU", None, None, "2.11.0", True), replace(HERE, onnxruntime="1.22")
    for other, command in (
        (replace(latency, batch=8), "--front-end 16k --seconds 1.37 --batch 8 --device cpu --threads 1"),
        (replace(latency, seconds=2.0), "--front-end 16k --seconds 2.0 --batch 4 --device cpu --threads 1"),
        (replace(latency, front_end="32k"), "--front-end 32k --seconds 1.37 --batch 4 --device cpu --threads 1"),
        (ClipLatency(LatencyTable(gpu), *GIVEN), "--front-end 16k --seconds 1.37 --batch 4 --device cuda --graphs"),
        (ClipLatency(LatencyTable(int8), *GIVEN), "--batch 4 --device cpu --threads 1 --int8"),
    ):
        n = len(other.components(SMALL))
        words = rf"lacks {n} of the {n} components .*: `weakaudio search profile -o TABLE .*{command}`"
        with pytest.raises(WeakAudioError, match=words):
            other.runnable(SMALL)
    wider = replace(SMALL, features=(*SMALL.features, 1000))  # a head, and two ways to it
    with pytest.raises(WeakAudioError, match=r"lacks 3 of the \d+ components .*: last, 32 to 1000 channels"):
        latency.runnable(wider)


def test_settings_change_with_the_times_of_the_space_and_with_nothing_else() -> None:
    latency = latency_of(SMALL)
    before = latency.settings(SMALL)
    assert before["device"] == str(HERE)
    latency.table.times[next(iter(latency.table.times))._replace(batch=99)] = 1.0
    assert latency.settings(SMALL) == before
    latency.table.times[latency.components(SMALL)[3]] += 1e-3
    changed = latency.settings(SMALL)
    assert {name for name in before if before[name] != changed[name]} == {"times"}
