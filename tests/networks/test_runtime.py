"""Devices, precision, and batches shared by threads of one core each."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from weakaudio.errors import WeakAudioError
from weakaudio.networks import runtime
from weakaudio.networks.runtime import find_dtype, find_precision, has_native_bfloat16, share

CPU = torch.device("cpu")


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
    child.join(600)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert answers.get() == [0, 1, 2]


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("", True),
        ("ALL", True),
        ("AVX512_CORE_AMX", True),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_VNNI", False),
        ("avx2", False),
        ("SSE41", False),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_only_where_it_is_native(
    limit: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for native in (True, False):
        flags = "avx2 avx512_bf16" if native else "avx2"
        monkeypatch.setattr(runtime, "cpuinfo", lambda flags=flags: {"flags": flags})
        expected = allowed and native
        assert find_dtype("auto", CPU) == ("bfloat16" if expected else "float32")
        assert find_precision("auto", "cpu") == ("bf16-mixed" if expected else "32-true")
    assert find_dtype("bfloat16", CPU) == "bfloat16"  # asked for by name, also where it is emulated
    assert find_precision("16-mixed", "cpu") == "16-mixed"


def test_a_dtype_that_does_not_exist_is_refused() -> None:
    with pytest.raises(WeakAudioError, match="dtype 'float8': unknown; there are auto, float32, bfloat16"):
        find_dtype("float8", CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo to compare with")
def test_linux_tells_of_bfloat16_what_torch_tells() -> None:
    flags = runtime.cpuinfo()["flags"].split()
    assert ("avx512_bf16" in flags) == torch.cpu._is_avx512_bf16_supported()
    assert ("amx_bf16" in flags) == torch.cpu._is_amx_tile_supported()


@pytest.mark.gpu
def test_auto_is_bfloat16_on_a_gpu_that_has_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    assert has_native_bfloat16(device) == native
    assert (
        find_precision("auto", "gpu") == find_precision("auto", "cuda:0") == ("bf16-mixed" if native else "32-true")
    )
