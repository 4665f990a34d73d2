"""The microphone as a generator of blocks, through PortAudio: `pip install weakaudio[mic]`."""

from __future__ import annotations

import importlib
import math
import queue
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weakaudio.errors import AudioError, WeakAudioError

_BUFFER_SECONDS = 60.0  # recorded while the computer is busy with an earlier block
_SILENT_SECONDS = 10.0  # a device that sends nothing for so long is gone


def microphone(
    sample_rate: int, block_seconds: float = 1.0, device: int | str | None = None
) -> Iterator[NDArray[np.float32]]:
    """Record until the generator is closed or the program interrupted.

    Recording goes on while a block is worked on; if that takes so long that a minute of audio waits, a warning says
    how much was lost.

    Parameters
    ----------
    sample_rate
        Hz; the device converts to it.
    block_seconds
        Length of a block.
    device
        Number or part of the name of an input device (`python -m sounddevice` lists them); None takes the default.

    Yields
    ------
    block
        float32 array of shape (N,), mono, full scale at +-1.

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
    blocks: queue.Queue[NDArray[np.float32]] = queue.Queue(max(2, math.ceil(_BUFFER_SECONDS / seconds)))
    lost = [0, 0]  # samples that found no place, and times that PortAudio dropped some: written by its thread

    def receive(recorded: NDArray[np.float32], _frames: int, _time: Any, status: Any) -> None:
        lost[1] += bool(status.input_overflow)
        try:
            blocks.put_nowait(recorded[:, 0].copy())
        except queue.Full:
            lost[0] += len(recorded)

    recording = None
    try:
        sounddevice.query_devices(device, "input")
        recording = sounddevice.InputStream(
            samplerate=sample_rate,
            blocksize=n_samples,
            device=device,
            channels=1,
            dtype="float32",
            callback=receive,
        )
        recording.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        if recording is not None:
            recording.close()
        which = "default input device" if device is None else f"input device {device!r}"
        raise WeakAudioError(
            f"microphone: the {which} cannot record at {sample_rate} Hz ({error}); `python -m sounddevice` lists "
            "the devices"
        ) from error
    try:
        yield from _received(blocks, lost, sample_rate, seconds + _SILENT_SECONDS)
    finally:
        recording.close()


def _received(
    blocks: queue.Queue[NDArray[np.float32]], lost: list[int], sample_rate: int, patience: float
) -> Iterator[NDArray[np.float32]]:
    told = [0, 0]
    while True:
        try:
            block = blocks.get(timeout=patience)
        except queue.Empty as error:
            raise AudioError("microphone: sends nothing any more; is it still plugged in?") from error
        if lost != told:
            samples, times = lost[0] - told[0], lost[1] - told[1]
            told = [told[0] + samples, told[1] + times]
            warnings.warn(
                f"microphone: audio was lost ({samples / sample_rate:.1f} s, and {times} overflows of the device): "
                "the computer is too slow for this model; the times of later events are too early",
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
