from __future__ import annotations

import numpy as np
import pytest
import torch
from table_stand_ins import CPU, Machine

from weakaudio.deploy import benchmark
from weakaudio.deploy.benchmark import describe, time_rounds, use_threads, vector_instructions
from weakaudio.errors import WeakAudioError


def test_rounds_last_as_long_as_they_may_and_what_comes_before_is_not_counted() -> None:
    machine = Machine()
    jobs = [machine.work(0.1), machine.work(0.3)]
    rounds = time_rounds(jobs, CPU, budget=10.0, before=machine.work(0.1), clock=machine.clock)
    np.testing.assert_allclose(rounds, [[0.1, 0.3]] * 17)  # of 0.6 s each
    assert len(time_rounds(jobs, CPU, budget=0.0, clock=machine.clock)) == 7
    assert len(time_rounds([lambda: None], CPU, budget=1.0, clock=machine.clock)) == 40


@pytest.mark.parametrize(("of_job", "n_rounds"), [(0.01, 100), (0.5, 15), (0.001, 500)])
def test_warm_up_runs_do_not_count_and_rounds_are_within_their_bounds(of_job: float, n_rounds: int) -> None:
    machine, costs = Machine(), [9.0] * 3 + [of_job] * 600
    rounds = time_rounds([lambda: machine.work(costs.pop(0))()], CPU, 1.0, clock=machine.clock, rounds=(15, 500))
    assert len(rounds) == pytest.approx(n_rounds, abs=1 if n_rounds == 100 else 0)
    np.testing.assert_allclose(rounds, of_job)


@pytest.mark.parametrize(
    ("flags", "capability", "limit", "said"),
    [
        ("sse4_1 avx avx2", "AVX2", "", "AVX2"),
        ("avx2 avx512f avx512_vnni", "AVX512", "", "AVX2 AVX-512 VNNI"),
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_bf16", "AVX512", "", "AVX2 AVX-512 VNNI bf16"),
        ("avx2 avx512f avx512_vnni avx512_bf16", "AVX2", "", "AVX2"),  # forced by ATEN_CPU_CAPABILITY
        ("avx2 avx512f avx512_vnni avx512_bf16", "AVX512", "AVX2", "AVX2"),
        ("avx2 avx_vnni", "AVX2", "", "AVX2 VNNI"),
        ("avx2 avx512f", "DEFAULT", "", "DEFAULT"),
        (None, "SVE256", "", "SVE256"),
    ],
)
def test_a_processor_is_described_with_the_vector_instructions_in_use(
    flags: str | None, capability: str, limit: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = {} if flags is None else {"model name": "Toaster 9", "flags": f"fpu {flags} xsave"}
    monkeypatch.setattr(benchmark, "cpuinfo", lambda: cpuinfo)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert vector_instructions() == said
    assert describe(CPU).name.endswith(f", {said}")
    assert flags is None or describe(CPU).name == f"Toaster 9, {said}"


def test_threads_are_as_asked_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert describe(CPU).threads == before + 1
        with use_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(WeakAudioError, match="threads 0: expected 1 or more"), use_threads(0):
        pass


def test_a_device_says_what_decides_its_speed() -> None:
    device = describe(CPU)
    for fact in (device.name, f"{device.threads} threads on {device.cores} cores", torch.__version__):
        assert fact in str(device)
    with pytest.raises(WeakAudioError, match="CUDA graphs need a GPU"):
        describe(CPU, graphs=True)
