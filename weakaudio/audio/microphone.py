"""Live audio blocks from a microphone through PortAudio: `pip install weakaudio[mic]`."""

from __future__ import annotations

import importlib
import math
import queue
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from weakaudio.audio import Waveform
from weakaudio.errors import AudioError, WeakAudioError

_BUFFER_SECONDS = 60.0  # recorded ahead while earlier blocks are being processed
_TIMEOUT_SECONDS = 10.0  # without data, after which the device counts as disconnected


def microphone(sample_rate: int, block_seconds: float = 1.0, device: int | str | None = None) -> Iterator[Waveform]:
    """Record until the generator is closed or the program is interrupted.

    Recording continues while a block is processed. If more than a minute of audio is waiting, further audio is lost,
    which a warning reports.

    Parameters
    ----------
    sample_rate
        Hz; the device converts to it.
    block_seconds
        Length of a block.
    device
        Number or part of the name of an input device (`python -m sounddevice` lists them); None for the default.

    Yields
    ------
    block
        (N,) mono float32, full scale at +-1.

    Raises
    ------
    WeakAudioError
        `sounddevice` or PortAudio is not installed, or there is no such input device.
    AudioError
        The device stopped sending.
    """
    n_samples = max(1, round(block_seconds * sample_rate))
    seconds = n_samples / sample_rate
    sounddevice = _sounddevice()
    blocks: queue.Queue[Waveform] = queue.Queue(max(2, math.ceil(_BUFFER_SECONDS / seconds)))
    lost = [0, 0]  # samples dropped because the queue was full, and overflows in PortAudio; written by its thread

    def receive(recorded: Waveform, _frames: int, _time: Any, status: Any) -> None:
        lost[1] += bool(status.input_overflow)
        try:
            blocks.put_nowait(recorded[:, 0].copy())
        except queue.Full:
            lost[0] += len(recorded)

    stream = None
    try:
        sounddevice.query_devices(device, "input")
        settings = {"samplerate": sample_rate, "blocksize": n_samples, "device": device}
        stream = sounddevice.InputStream(**settings, channels=1, dtype="float32", callback=receive)
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        if stream is not None:
            stream.close()
        which = "default input device" if device is None else f"input device {device!r}"
        raise WeakAudioError(
            f"microphone: the {which} cannot record at {sample_rate} Hz ({error}); `python -m sounddevice` lists "
            "the devices"
        ) from error
    try:
        yield from _received(blocks, lost, sample_rate, seconds + _TIMEOUT_SECONDS)
    finally:
        stream.close()


def _received(blocks: queue.Queue[Waveform], lost: list[int], sample_rate: int, timeout: float) -> Iterator[Waveform]:
    reported = [0, 0]
    while True:
        try:
            block = blocks.get(timeout=timeout)
        except queue.Empty as error:
            raise AudioError("microphone: stopped sending; is it still plugged in?") from error
        if lost != reported:
            samples, overflows = lost[0] - reported[0], lost[1] - reported[1]
            reported = [reported[0] + samples, reported[1] + overflows]
            warnings.warn(
                f"microphone: audio was lost ({samples / sample_rate:.1f} s, and {overflows} overflows of the "
                "device): this computer is too slow for the model; the times of later events are too early",
                stacklevel=2,
            )
        yield block


def _sounddevice() -> ModuleType:
    try:
        return importlib.import_module("sounddevice")
    except ModuleNotFoundError as error:
        raise WeakAudioError("microphone: needs the package sounddevice: pip install 'weakaudio[mic]'") from error
    except OSError as error:
        raise WeakAudioError(
            f"microphone: the PortAudio library is missing ({error}); on Debian and Ubuntu: apt install libportaudio2"
        ) from error
