from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from table_stand_ins import CONFIG, CPU, GIVEN, made_up

from weakaudio.deploy.benchmark import describe
from weakaudio.deploy.onnx_tagger import INPUTS, OUTPUTS
from weakaudio.errors import WeakAudioError
from weakaudio.nas import int8_profile
from weakaudio.nas.components import Component, count_components, named_components
from weakaudio.nas.int8_profile import Int8Profiler, NodeTimes, measure_int8_components, split_runs
from weakaudio.nas.latency_model import ClipLatency, validate
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import complete
from weakaudio.nas.search_space import SearchSpace
from weakaudio.networks.operators import OPERATORS

CONFIG_527 = {**CONFIG, "n_classes": 527}
ALL_OPERATORS: dict[str, Any] = {
    "n_classes": 5,
    "stages": [
        ["dense+inverted", 2, 8],
        ["large-kernel+frequency", 2, 8],
        ["attention+dense", 2, 16],
        ["recurrence", 1, 16],
    ],
    "n_features": 7,
}


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_profile, "_SECONDS", 0.0)


def event(name: str, start: int, length: int, category: str = "Node") -> dict[str, Any]:
    return {"name": name, "ts": start, "dur": length, "cat": category}


def test_nodes_count_for_the_module_in_their_name_or_for_the_one_before() -> None:
    events = [
        event("session_initialization", 0, 90, "Session"),
        event("model_run", 100, 100, "Session"),
        event("logmel_q_kernel_time", 101, 2),
        event("/entries.0/conv/Conv_token_3_kernel_time", 104, 10),
        event("/Relu_output_0_DequantizeLinear_kernel_time", 115, 1),
        event("network.stages.0.0.first.conv.weight_DequantizeLinear_kernel_time", 117, 3),
        event("Transpose_token_50_kernel_time", 121, 4),
        event("/stages.0.10/Add_kernel_time", 126, 5),
        event("/last/conv/Conv_kernel_time", 132, 6),
        event("/Relu_4_kernel_time", 139, 1),
        event("/Where_kernel_time", 141, 2),
        event("fused /classifier_1/Gemm_kernel_time", 144, 7),
        event("model_run", 300, 12, "Session"),
        event("/entries.0/conv/Conv_token_3_kernel_time", 301, 11),
    ]
    first, second = split_runs(random.Random(0).sample(events, len(events)))
    microseconds = {
        "entries.0": (3, 2 + 10 + 1),
        "stages.0.0": (2, 3 + 4),
        "stages.0.10": (1, 5),
        "last": (2, 6 + 1),
        "classifier": (2, 2 + 7),
    }
    assert {name: nodes.number for name, nodes in first.items()} == {name: n for name, (n, _) in microseconds.items()}
    assert {name: 1e6 * nodes.seconds for name, nodes in first.items()} == pytest.approx(
        {name: time for name, (_, time) in microseconds.items()}
    )
    assert second == {"entries.0": NodeTimes(1, pytest.approx(11e-6))}


def test_the_overhead_of_the_profiler_is_subtracted_per_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to time, components of few expensive nodes would bear it all."""
    parts = [part for part in named_components(CONFIG, *GIVEN) if part != "logmel"]
    true = {part: NodeTimes(1 + 100 * n, (n + 1) * 1e-3) for n, part in enumerate(parts)}
    profiled = {part: NodeTimes(number, seconds + number * 5e-6) for part, (number, seconds) in true.items()}
    slow = {part: NodeTimes(number, 9 * seconds) for part, (number, seconds) in profiled.items()}
    monkeypatch.setattr(int8_profile, "_profile", lambda *given: [slow, profiled, profiled])
    monkeypatch.setattr(int8_profile, "_time_file", lambda *given: sum(nodes.seconds for nodes in true.values()))
    found = measure_int8_components(CONFIG, *GIVEN, 1)
    keys = named_components(CONFIG, *GIVEN)
    alike = {part: [true[other].seconds for other in parts if keys[other] == keys[part]] for part in parts}
    assert {part: found[keys[part]] for part in parts} == pytest.approx(
        {part: sum(times) / len(times) for part, times in alike.items()}
    )


def test_every_component_of_a_real_network_has_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the runtime named its nodes otherwise, components would be free."""
    runs: list[dict[str, NodeTimes]] = []

    def noting(events: list[dict[str, Any]]) -> list[dict[str, NodeTimes]]:
        runs.extend(split_runs(events))
        return runs

    monkeypatch.setattr(int8_profile, "split_runs", noting)
    found = measure_int8_components(ALL_OPERATORS, *GIVEN, 1)
    parts = named_components(ALL_OPERATORS, *GIVEN)
    assert found.keys() == {key for part, key in parts.items() if part != "logmel"}
    assert all(run.keys() == parts.keys() - {"logmel"} for run in runs)
    # a recurrence takes many small steps, a convolution of the network itself a few
    assert runs[0]["stages.3.0"].number > 3 * runs[0]["stages.0.0"].number > runs[0]["last"].number > 0


def test_runs_that_warm_up_are_no_part_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_profile, "split_runs", lambda events: [e for e in events if e["name"] == "model_run"])
    counted: list[int] = []
    profiled = int8_profile._profile

    def counting(*given: Any) -> list[dict[str, NodeTimes]]:
        counted.append(len(profiled(*given)))
        return []

    monkeypatch.setattr(int8_profile, "_profile", counting)
    with pytest.raises(WeakAudioError, match="profiles no node of"):
        measure_int8_components(CONFIG, *GIVEN, 1)
    assert counted == [15]


def test_convolutions_run_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a bias is shared, the runtime would quietly compute in float32."""
    names: list[str] = []

    def noting(events: list[dict[str, Any]]) -> list[dict[str, NodeTimes]]:
        names.extend(e["args"]["op_name"] for e in events if e["cat"] == "Node")
        return split_runs(events)

    monkeypatch.setattr(int8_profile, "split_runs", noting)
    measure_int8_components(CONFIG, *GIVEN, 1)
    assert "QLinearConv" in names
    assert "Conv" not in names


@pytest.mark.parametrize("measure", [measure_int8_components, int8_profile.measure_int8_network])
def test_memory_is_kept_whatever_was_measured_before(
    measure: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a table that is completed, and networks as a whole, differ from one that begins with the front end."""
    asked: list[bool] = []
    monkeypatch.setattr(int8_profile, "keep_memory", lambda: asked.append(True))
    monkeypatch.setattr(int8_profile, "_int8_file", lambda *given: pytest.fail("too late") if not asked else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(CONFIG, *GIVEN, 1)


def test_a_network_takes_the_median_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_profile, "_time_runs", lambda job: np.array([1.0, 2.0, 9.0]))
    assert int8_profile.measure_int8_network(CONFIG, *GIVEN, 1) == 2.0


def test_a_component_takes_the_mean_of_the_networks_that_have_it() -> None:
    wide = {**CONFIG, "n_features": 9}

    def measure(config: Mapping[str, Any]) -> dict[Component, float]:
        return dict.fromkeys(count_components(config, *GIVEN), 3.0 if config["n_features"] == 9 else 1.0)

    measured = Int8Profiler([CONFIG, wide], *GIVEN, 1, measure)
    entry = next(key for key in count_components(CONFIG, *GIVEN) if key.kind == "entry")
    new = count_components(wide, *GIVEN).keys() - count_components(CONFIG, *GIVEN).keys()
    (own,) = (key for key in new if key.kind == "last")
    assert (measured(entry), measured(own)) == (2.0, 3.0)


def test_few_networks_are_measured_and_one_that_fails_leaves_the_others_their_components() -> None:
    wide = {**CONFIG, "n_features": 9}
    deep = {**CONFIG, "stages": [*CONFIG["stages"][:3], ["attention", 1, 12]]}
    asked: list[Mapping[str, Any]] = []

    def measure(config: Mapping[str, Any]) -> dict[Component, float]:
        asked.append(config)
        if "attention" in str(config):
            raise RuntimeError("no attention here")
        return {key: made_up(key) for key in count_components(config, *GIVEN)}

    measured = Int8Profiler([deep, CONFIG, wide], *GIVEN, 1, measure)
    for config in (CONFIG, wide):
        keys = [key for key in count_components(config, *GIVEN) if key.kind != "front end"]
        assert [measured(key) for key in keys] == [made_up(key) for key in keys]
    (attention,) = count_components(deep, *GIVEN).keys() - count_components(CONFIG, *GIVEN).keys()
    for _ in range(2):
        with pytest.raises(WeakAudioError, match="in 8 bits: no attention here"):
            measured(attention)
    alike = [["attention", 1, 4], ["attention", 0, 8], ["attention", 3, 8], ["attention", 1, 12]]
    bare = [["dense", 0, 4], ["dense", 0, 8], ["dense", 0, 8], ["attention", 1, 12]]
    assert asked == [deep, CONFIG, wide, {**deep, "stages": alike}, {**deep, "stages": bare}]
    with pytest.raises(WeakAudioError, match="no network of those given has it"):
        measured(attention._replace(inputs=77))


@pytest.mark.parametrize("missing", OPERATORS)
def test_an_operator_that_cannot_run_takes_no_other_with_it(missing: str) -> None:
    """Some components of others occur, of the networks that cover the space, only in those that have it. All are
    measured in networks like those of the search: alone they would take another time."""
    space, table = SearchSpace(), LatencyTable(describe(CPU, int8=True))
    configs = [{**architecture.to_config(), "n_classes": 527} for architecture in space.covering()]

    def measure(config: Mapping[str, Any]) -> dict[Component, float]:
        if any(missing in operators and blocks for operators, blocks, _ in config["stages"]):
            raise ValueError(f"no {missing} here\nbut much to say of it")
        alone = 1.0 if sum(blocks for _, blocks, _ in config["stages"]) < 4 else 0.0
        return {key: made_up(key) + alone for key in count_components(config, *GIVEN)}

    in_networks = Int8Profiler(configs, *GIVEN, 1, measure)
    front_end = "front end"  # is measured by itself
    complete(table, configs, *GIVEN, measure=lambda k: made_up(k) if k.kind == front_end else in_networks(k))
    assert bool(table.errors) == any(missing in names for names in space.operators)
    for key, reason in table.errors.items():
        assert (key.kind, key.operator, reason) == ("block", missing, f"in 8 bits: no {missing} here")
    assert table.errors.keys() | table.times.keys() == set(ClipLatency(table, *GIVEN).components(space))
    assert table.times == pytest.approx({key: made_up(key) for key in table.times})


def test_a_component_of_networks_of_which_no_block_runs_is_measured_without_them() -> None:
    entry, *others = (key for key in count_components(CONFIG, *GIVEN) if key.kind == "entry")

    def measure(config: Mapping[str, Any]) -> dict[Component, float]:
        if any(blocks for _, blocks, _ in config["stages"]):
            raise RuntimeError("no blocks here")
        counted.append(config)
        return {key: made_up(key) for key in count_components(config, *GIVEN)}

    counted: list[Mapping[str, Any]] = []
    measured = Int8Profiler([CONFIG], *GIVEN, 1, measure)
    assert all(measured(key) == made_up(key) for key in (entry, *others))
    assert len(counted) == 1
    for kind, words in (("block", "no blocks here"), ("front end", "no network of those given has it")):
        with pytest.raises(WeakAudioError, match=words):
            measured(next(key for key in count_components(CONFIG, *GIVEN) if key.kind == kind))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_packages_no_component_is_recorded_as_one_that_cannot_run(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LatencyTable(describe(CPU, int8=True))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(WeakAudioError, match=rf"need {missing}: run `pip install weakaudio\[onnx\]`"):
        complete(table, [CONFIG_527], *GIVEN)
    assert not table.errors


def test_a_network_that_the_runtime_cannot_run_is_said_without_scratch_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_doubles(model: Any, path: Path, place: str) -> None:
        node = onnx.helper.make_node("Conv", [INPUTS[place]] * 2, list(OUTPUTS[:1]))
        shapes = [onnx.helper.make_tensor_value_info(name, 11, None) for name in (INPUTS[place], OUTPUTS[0])]
        graph = onnx.helper.make_graph([node], "g", shapes[:1], shapes[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)

    monkeypatch.setattr(int8_profile, "export_onnx", of_doubles)
    with pytest.raises(WeakAudioError, match=r"^float32\.onnx: ONNX Runtime cannot run it \(.*Conv") as caught:
        measure_int8_components(CONFIG, *GIVEN, 1)
    assert type(caught.value) is WeakAudioError
    assert "/" not in str(caught.value).partition("(")[0]


@pytest.mark.parametrize("events", [[], [event("model_run", 0, 9, "Session")]], ids=["no run", "no node"])
def test_a_profile_that_names_no_components_is_refused(events: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be free."""
    monkeypatch.setattr(int8_profile, "split_runs", lambda _: split_runs(events * 20))
    with pytest.raises(WeakAudioError, match=r"ONNX Runtime \S+ profiles no node of entries\.0, "):
        measure_int8_components(CONFIG, *GIVEN, 1)


def test_the_runtime_s_own_errors_are_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classes are no RuntimeErrors, and would end the profiling of all components."""
    monkeypatch.setattr(int8_profile, "OUTPUTS", ("nothing",))
    with pytest.raises(WeakAudioError, match=r"int8\.onnx: ONNX Runtime fails \(.*nothing"):
        measure_int8_components(CONFIG, *GIVEN, 1)


def test_a_table_in_8_bits_has_no_other_dtype() -> None:
    table = LatencyTable(describe(CPU, int8=True))
    with pytest.raises(WeakAudioError, match="in 8 bits: dtype bfloat16, expected float32"):
        complete(table, [CONFIG_527], *GIVEN, "bfloat16")


def test_a_table_in_8_bits_is_completed_and_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LatencyTable(describe(CPU, int8=True))
    latency = ClipLatency(table, *GIVEN)
    assert latency.complete([CONFIG]) == len(count_components(CONFIG_527, *GIVEN)) == len(table.times)
    assert not table.errors
    found = validate(table, [CONFIG_527], *GIVEN)
    assert found.measured[0] > 0
    assert found.predicted[0] == pytest.approx(
        sum(
            n * table.times[key] for key, n in count_components(CONFIG_527, *GIVEN).items() if key.kind != "front end"
        )
    )
