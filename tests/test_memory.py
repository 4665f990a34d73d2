from __future__ import annotations

import platform

import pytest
import torch

from weakaudio.memory import keep_memory


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
