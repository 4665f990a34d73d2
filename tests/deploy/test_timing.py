from __future__ import annotations

import numpy as np
import pytest
import torch
from table_stand_ins import CPU, Machine

from weakaudio.deploy.timing import describe, time_rounds, use_threads
from weakaudio.errors import WeakAudioError


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
