from __future__ import annotations

import pytest
import torch

from weakaudio.training.schedules import one_cycle, trapezoid


def test_trapezoid_rises_stays_and_falls() -> None:
    rates = [trapezoid(step, 100, warmup=10, lr_decay=20) for step in (0, 4, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_either_slope_of_a_trapezoid_may_be_left_out() -> None:
    assert trapezoid(99, 100, warmup=10, lr_decay=0) == 1.0
    assert trapezoid(0, 100, warmup=0, lr_decay=20) == 1.0


def test_one_cycle_peaks_after_the_warmup_and_ends_near_0() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    schedule = one_cycle(optimizer, 0.1, steps=100, warmup=0.2)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in (19, 20)
    assert rates[-1] < 1e-4
