from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from weakaudio.audio import microphone as module
from weakaudio.audio.microphone import microphone
from weakaudio.errors import AudioError, WeakAudioError

RATE = 8000


class FakeSoundDevice(types.ModuleType):
    """The part of `sounddevice` that is used; `deliver` does what PortAudio's thread would."""

    class PortAudioError(Exception):
        pass

    def __init__(self, refuses: Exception | None = None, refuses_start: Exception | None = None) -> None:
        super().__init__("sounddevice")
        self.refuses, self.refuses_start = refuses, refuses_start
        self.asked: list[tuple[Any, str]] = []
        self.closed = 0
        self.settings: dict[str, Any] = {}
        self.before_start: Callable[[], None] = lambda: None

    def query_devices(self, device: int | str | None, kind: str) -> dict[str, Any]:
        self.asked.append((device, kind))
        if self.refuses:
            raise self.refuses
        return {"name": "fake"}

    def InputStream(self, **settings: Any) -> FakeSoundDevice:  # noqa: N802
        self.settings = settings
        return self

    def start(self) -> None:
        if self.refuses_start:
            raise self.refuses_start
        self.before_start()

    def close(self) -> None:
        self.closed += 1

    def deliver(self, audio: np.ndarray, overflow: bool = False) -> None:
        buffer = audio.astype(np.float32).reshape(-1, 1).copy()
        self.settings["callback"](buffer, len(buffer), None, types.SimpleNamespace(input_overflow=overflow))
        buffer[:] = np.nan  # PortAudio reuses its buffer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSoundDevice:
    fake = FakeSoundDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_blocks_are_in_order_and_the_device_is_closed(fake: FakeSoundDevice) -> None:
    recorded = np.random.default_rng(0).uniform(-1, 1, 4 * RATE).astype(np.float32)
    fake.before_start = lambda: [fake.deliver(block) for block in recorded.reshape(-1, RATE // 2)]  # type: ignore[assignment, return-value]
    blocks = microphone(RATE, 0.5, device="USB")
    got = [next(blocks) for _ in range(8)]
    assert all(block.dtype == np.float32 and block.shape == (RATE // 2,) for block in got)
    np.testing.assert_array_equal(np.concatenate(got), recorded)
    assert fake.asked == [("USB", "input")]
    asked = {name: fake.settings[name] for name in ("samplerate", "blocksize", "device", "channels", "dtype")}
    assert asked == {"samplerate": RATE, "blocksize": 4000, "device": "USB", "channels": 1, "dtype": "float32"}
    assert fake.closed == 0
    blocks.close()  # type: ignore[attr-defined]
    assert fake.closed == 1


def test_the_queue_is_bounded_and_lost_audio_is_reported(fake: FakeSoundDevice) -> None:
    fake.before_start = lambda: [fake.deliver(np.full(RATE, n)) for n in range(100)]  # type: ignore[assignment, return-value]
    blocks = microphone(RATE, 1.0)
    with pytest.warns(UserWarning, match=r"audio was lost \(40\.0 s, and 0 overflows"):
        first = next(blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # reported once
        got = [first, *(next(blocks) for _ in range(59))]
    assert [block[0] for block in got] == list(range(60))
    fake.deliver(np.zeros(RATE), overflow=True)
    with pytest.warns(UserWarning, match=r"audio was lost \(0\.0 s, and 1 overflows"):
        next(blocks)


def test_a_device_that_stops_sending_is_an_error(fake: FakeSoundDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.02)
    fake.before_start = lambda: fake.deliver(np.zeros(80))
    blocks = microphone(RATE, 0.01)
    next(blocks)
    with pytest.raises(AudioError, match="plugged in"):
        next(blocks)
    assert fake.closed == 1


@pytest.mark.parametrize("device", [None, "USB"])
def test_a_missing_input_device_is_reported_in_one_line(fake: FakeSoundDevice, device: str | None) -> None:
    for error in (ValueError("No input device matching 'USB'"), fake.PortAudioError("Error querying device -1")):
        fake.refuses = error
        with pytest.raises(WeakAudioError, match=r"input device.*python -m sounddevice") as caught:
            next(microphone(RATE, 1.0, device))
        assert str(error) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_device_that_does_not_start_is_reported_and_closed(fake: FakeSoundDevice) -> None:
    fake.refuses_start = fake.PortAudioError("Device unavailable")
    with pytest.raises(WeakAudioError, match="Device unavailable"):
        next(microphone(RATE))
    assert fake.closed == 1


def test_a_missing_package_or_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # as if not installed
    with pytest.raises(WeakAudioError, match=r"pip install 'weakaudio\[mic\]'"):
        next(microphone(RATE))

    def without_library(name: str) -> types.ModuleType:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(importlib, "import_module", without_library)
    with pytest.raises(WeakAudioError, match=r"PortAudio library is missing.*libportaudio2"):
        next(microphone(RATE))
