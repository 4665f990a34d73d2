from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from table_stand_ins import CONFIG, CPU, GIVEN, HERE, Machine, full, made_up
from torch import Tensor, nn

from weakaudio.deploy.benchmark import Device, time_rounds
from weakaudio.errors import WeakAudioError
from weakaudio.nas import profile
from weakaudio.nas.components import Component, count_components
from weakaudio.nas.latency_model import predict, validate
from weakaudio.nas.latency_table import LatencyTable
from weakaudio.nas.profile import complete, component_seconds, measure_component, measure_network
from weakaudio.networks.flash import FlashCNN
from weakaudio.networks.operators import OPERATORS


def test_components_add_up_to_what_the_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In convolutions, of which the head runs none."""
    ran = 0
    convolve = nn.functional.conv2d

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal ran
        ran += 1
        return convolve(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "conv2d", counting)

    def count(job: Callable[[], object]) -> int:
        nonlocal ran
        ran = 0
        job()
        return ran

    total = 0.0
    for key, times in count_components(CONFIG, *GIVEN).items():
        with torch.inference_mode():
            jobs, in_chain = profile._jobs(key, CPU, False)
            runs = [count(job) for job in jobs]
        total += times * (runs[-1] - (runs[0] if len(runs) == 2 else 0)) / in_chain
    with torch.inference_mode():
        network = FlashCNN(**CONFIG).fuse()
        assert total == count(lambda: network(torch.zeros(2, 138, 64))) == 4 + 2 * 5 + 1


def test_only_what_is_missing_is_measured_and_saved_at_once(tmp_path: Path) -> None:
    """A run that is stopped in the middle resumes."""
    path = tmp_path / "new" / "table.json"
    measured: list[Component] = []

    def measure(key: Component) -> float:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(key)
        return made_up(key)

    with pytest.raises(KeyboardInterrupt):
        complete(LatencyTable(HERE), [CONFIG], *GIVEN, path=path, measure=measure)
    table = LatencyTable.load(path, HERE)
    assert set(table.times) == set(measured)
    with pytest.raises(WeakAudioError, match="is not in the latency table; complete it first"):
        predict(CONFIG, table, *GIVEN)
    first = set(measured)
    measured.clear()
    wider = {**CONFIG, "n_features": 9}
    assert complete(table, [CONFIG, wider], *GIVEN, measure=lambda key: measured.append(key) or 1.0) == len(measured)  # type: ignore[func-returns-value]
    assert not first & set(measured)
    assert first | set(measured) == {*count_components(CONFIG, *GIVEN), *count_components(wider, *GIVEN)}
    assert complete(table, [CONFIG, wider], *GIVEN, measure=lambda key: pytest.fail("measured twice")) == 0


def test_an_operator_that_fails_on_the_device_is_recorded_and_left_out(tmp_path: Path) -> None:
    tried: list[Component] = []

    def measure(key: Component) -> float:
        tried.append(key)
        if key.kind == "block" and key.inputs == 8:
            raise RuntimeError("no kernel\nat line 7")
        return made_up(key)

    table = LatencyTable(HERE)
    complete(table, [CONFIG], *GIVEN, path=tmp_path / "t.json", measure=measure)
    complete(table, [CONFIG], *GIVEN, measure=measure)
    assert len(tried) == len(set(tried))
    table = LatencyTable.load(tmp_path / "t.json", HERE)
    assert list(table.errors.values()) == ["no kernel"]
    with pytest.raises(WeakAudioError, match=r"block dense, 8 to 8 .*: Toaster.* cannot run it \(no kernel\)"):
        predict(CONFIG, table, *GIVEN)
    without = {**CONFIG, "stages": [["dense", 1, 4], ["dense", 0, 8], ["dense", 0, 8], ["dense", 1, 12]]}
    assert predict(without, table, *GIVEN).total > 0


def test_a_table_of_another_device_cannot_be_completed_or_validated_here() -> None:
    with pytest.raises(WeakAudioError, match=r"latency table of Toaster.*: cannot be completed on "):
        complete(LatencyTable(HERE), [CONFIG], *GIVEN)
    with pytest.raises(WeakAudioError, match="cannot be completed on"):
        validate(full([CONFIG]), [CONFIG], *GIVEN)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_s_table_cannot_be_completed_without_one() -> None:
    table = LatencyTable(Device("cuda", "Big GPU", None, None, "2.11.0", graphs=True))
    with pytest.raises(WeakAudioError, match=r"Big GPU, CUDA graphs, .*: cannot be completed here: there is no GPU"):
        complete(table, [CONFIG], *GIVEN)


def test_the_overhead_of_a_call_and_a_machine_that_slows_down_cancel() -> None:
    """Three blocks of 2 s each, calls that cost 5 s, and each round slower than the last."""
    machine, slow = Machine(), [1.0]

    def chain(blocks: int) -> Callable[[], None]:
        return lambda: machine.work((5.0 + 2.0 * blocks) * slow[0])()

    def slower() -> None:
        slow[0] *= 1.001

    rounds = time_rounds([chain(0), chain(3)], CPU, budget=1.0, before=slower, clock=machine.clock)
    assert component_seconds(rounds, 3) == pytest.approx(2.0, rel=0.02)
    assert component_seconds(np.array([[3.0], [2.0], [9.0]]), 1) == 3.0
    assert component_seconds(np.array([[3.0, 2.9]]), 2) == 0.0  # noise makes no time negative


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_component_can_be_measured_and_the_caller_s_seed_stays(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakaudio.deploy.benchmark._ROUNDS", (2, 2))
    before = torch.random.get_rng_state()
    stages = [*CONFIG["stages"][:3], ["+".join(OPERATORS), len(OPERATORS), 16]]
    for key in count_components({**CONFIG, "stages": stages}, "16k", 0.3, 2, dtype):
        seconds = measure_component(key, CPU, budget=0.0)
        assert np.isfinite(seconds)
        assert seconds > 0 or key.kind not in ("front end", "head")
    assert measure_network(CONFIG, (2, 31, 64), dtype, CPU, budget=0.0) > 0
    torch.testing.assert_close(torch.random.get_rng_state(), before)
