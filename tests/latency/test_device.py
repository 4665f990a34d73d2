from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from table_stand_ins import CPU, Machine

from weakaudio.errors import WeakAudioError
from weakaudio.latency.device import describe, keep_memory, time_rounds, use_threads


def test_rounds_last_as_long_as_they_may_and_what_comes_before_is_not_counted() -> None:
    machine = Machine()
    jobs = [machine.work(0.1), machine.work(0.3)]
    rounds = time_rounds(jobs, CPU, budget=10.0, before=machine.work(0.1), clock=machine.clock)
    np.testing.assert_allclose(rounds, [[0.1, 0.3]] * 17)  # of 0.6 s each
    assert len(time_rounds(jobs, CPU, budget=0.0, clock=machine.clock)) == 7
    assert len(time_rounds([lambda: None], CPU, budget=1.0, clock=machine.clock)) == 40


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator is left as it is")
def test_memory_once_had_is_kept() -> None:
    """Large tensors cost no page faults again and again."""
    resource = pytest.importorskip("resource")
    keep_memory()

    def faults(times: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            a = torch.zeros(3 << 20)
            b = torch.zeros(3 << 20)
            del a, b
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    faults(20)  # where there are holes, it takes some rounds until each tensor has a place
    assert faults(5) < 3000  # of 30,000 where they are given back
