"""Batches shared by threads of one core each."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch

from weakaudio.inference.lanes import share


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def where(batch: int) -> tuple[int, str, int]:
    return batch, threading.current_thread().name, torch.get_num_threads()


@pytest.mark.parametrize("n_batches", [0, 1, 2, 3, 7, 9])
def test_every_batch_has_its_result_in_its_place(n_batches: int) -> None:
    assert [batch for batch, _, _ in share(where, range(n_batches))] == list(range(n_batches))


def test_batches_that_share_out_evenly_have_a_core_each_and_the_others_have_all() -> None:
    found = share(where, range(7))
    assert [(name.startswith("lane"), threads) for _, name, threads in found] == [(True, 1)] * 6 + [(False, 3)]
    assert torch.get_num_threads() == 3


def test_threads_made_later_have_all_cores() -> None:
    share(where, range(3))
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]


def test_one_thread_shares_nothing() -> None:
    torch.set_num_threads(1)
    assert {name for _, name, _ in share(where, range(4))} == {threading.current_thread().name}


def test_another_number_of_threads_is_another_number_of_lanes() -> None:
    share(where, range(3))
    torch.set_num_threads(2)
    assert [threads for _, _, threads in share(where, range(3))] == [1, 1, 2]


def test_what_goes_wrong_in_a_lane_is_raised() -> None:
    def fail(batch: int) -> int:
        if batch == 1:
            raise ValueError("batch 1")
        return batch

    with pytest.raises(ValueError, match="batch 1"):
        share(fail, range(3))
    assert [batch for batch, _, _ in share(where, range(3))] == [0, 1, 2]


def _in_child(answers: multiprocessing.SimpleQueue[list[int]]) -> None:
    answers.put([batch for batch, _, _ in share(where, range(3))])


def test_a_forked_process_has_lanes_of_its_own() -> None:
    share(where, range(3))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(answers,))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert answers.get() == [0, 1, 2]
