"""Windows over a recording of any length, in bounded memory.

Windows overlap by the network's receptive field, so that segments do not depend on where a recording is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from weakaudio.audio import Waveform
from weakaudio.audio.io import stream_audio
from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model

WINDOW_SECONDS = 40.0  # length of a window's core
BLOCK_SECONDS = 10.0  # of a recording that are decoded together: little beside a window
# Networks whose segments depend on the whole clip get this much audio on either side of the core, and treat the
# window as a clip; those that were trained on short clips, windows of that length (`Network.clip_seconds`).
_MARGIN_SECONDS = 5.0


def core_seconds(model: Model) -> float:
    """Length of the core of a window, in seconds."""
    clip = model.network.clip_seconds
    return WINDOW_SECONDS if clip is None else clip / 2


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a recording, and which of its segments are valid: the others lack part of their receptive field."""

    audio: Waveform
    """(N,) at the model's rate"""
    start: int = 0
    """samples of the recording before it"""
    first: int = 0
    """the first valid segment, counted from the window's first"""
    last: int | None = None
    """the one after the last valid segment; None: all that follow are valid"""
    context_before: int = 0
    """valid segments at its beginning whose core is the window before"""
    context_after: int = 0
    """valid segments at its end whose core is the window after"""
    loudest: float | None = None
    """dB, of the whole recording: front ends whose floor lies below the maximum need it"""

    @property
    def is_last(self) -> bool:
        """Whether the recording ends with it."""
        return self.last is None


class Windower:
    """Cuts audio that arrives in blocks into windows.

    Parameters
    ----------
    model
        Its network gives the receptive field of a segment.
    seconds
        Length of a window's core; each segment is in the core of one window. None: `core_seconds`.
    context
        Valid segments on either side of the core.
    loudest
        dB, of the whole recording (`find_loudest`).

    Raises
    ------
    WeakAudioError
        The front end's floor lies below the recording's maximum, and `loudest` is not given.
    """

    def __init__(
        self, model: Model, seconds: float | None = None, context: int = 0, loudest: float | None = None
    ) -> None:
        front_end, geometry, clip = model.front_end, model.network.geometry, model.network.clip_seconds
        seconds = core_seconds(model) if seconds is None else seconds
        if front_end.top_db is not None and loudest is None:
            raise WeakAudioError(
                f"front end {front_end.name!r}: its floor is {front_end.top_db:g} dB below the maximum of the whole "
                "recording, which is not known before its end; use a model with another front end"
            )
        frame = front_end.hop_length
        margin = model.network.context  # frames
        if margin is None:
            margin = round((_MARGIN_SECONDS if clip is None else clip / 4) * front_end.sample_rate / frame)
        margin += front_end.context
        self._before = -(-(geometry.lead + margin) // geometry.hop) + context  # segments
        self._hop, self._rate = geometry.hop * frame, front_end.sample_rate  # samples in a segment's hop, in a second
        self._context, self._loudest = context, loudest
        self._core = max(round(seconds * front_end.sample_rate / self._hop), 1)  # segments
        # From the first segment of the core to the end of the last one's receptive field; with one segment more, so
        # that something is left when the recording ends here.
        self._needed = (self._core + context) * self._hop + (geometry.span - geometry.lead + margin) * frame
        self._blocks: list[Waveform] = []
        self._n = 0  # samples in them
        self._start = 0  # samples of the recording before them
        self._next = 0  # first segment of the next window

    @property
    def delay(self) -> float:
        """Longest time from a sound to the window with it in its core; seconds."""
        return (self._needed + self._hop) / self._rate

    def push(self, block: Waveform) -> Iterator[Window]:
        """Return the windows that are complete, given the next (N,) samples at the model's rate."""
        self._blocks.append(block)
        self._n += len(block)
        while self._start + self._n >= self._next * self._hop + self._needed:
            audio = self._joined()
            length = self._next * self._hop + self._needed - self._start
            yield self._window(audio[:length], self._core)
            self._next += self._core
            dropped = max(self._next - self._before, 0) * self._hop - self._start
            self._blocks, self._n, self._start = [audio[dropped:]], self._n - dropped, self._start + dropped

    def finish(self) -> Window:
        """Return the last window, after which nothing may be pushed."""
        return self._window(self._joined(), None)

    def _joined(self) -> Waveform:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.zeros(0, np.float32), *self._blocks])]
        return self._blocks[0]

    def _window(self, audio: Waveform, core: int | None) -> Window:
        start = self._start // self._hop
        before = min(self._context, self._next)
        first = self._next - start - before
        last, after = (None, 0) if core is None else (first + before + core + self._context, self._context)
        return Window(audio, self._start, first, last, before, after, self._loudest)


def cut(model: Model, blocks: Iterable[Waveform], context: int = 0, loudest: float | None = None) -> Iterator[Window]:
    """Cut a recording that arrives in blocks of (N,) samples at the model's rate into windows."""
    windower = Windower(model, context=context, loudest=loudest)
    for block in blocks:
        yield from windower.push(block)
    yield windower.finish()


def cut_clip(model: Model, clip: Waveform, context: int = 0) -> list[Window]:
    """Cut a recording in memory, (N,) samples at the model's rate, into windows."""
    windows = list(cut(model, [clip], context, loudest=0.0))
    if len(windows) == 1:
        return [Window(clip)]
    loudest = find_loudest(model, [clip])
    return [replace(window, loudest=loudest) for window in windows]


def cut_file(model: Model, path: str | Path, context: int = 0) -> Iterator[Window]:
    """Cut a recording on disk into windows; memory does not grow with its length.

    Raises
    ------
    AudioError
        As `weakaudio.read_audio`, at the window where the fault lies.
    """

    def blocks() -> Iterator[Waveform]:
        return stream_audio(path, model.sample_rate, BLOCK_SECONDS)

    return cut(model, blocks(), context, find_loudest(model, blocks()))


@torch.inference_mode()
def find_loudest(model: Model, blocks: Iterable[Waveform]) -> float | None:
    """Highest level of a recording over all frames and mels, dB; None where the front end has no use for it."""
    front_end = model.front_end
    if front_end.top_db is None:
        return None
    frame, edge = front_end.hop_length, front_end.context
    device = model.logmel.window.device
    kept, highest, inside = np.zeros(0, np.float32), -np.inf, 0  # inside: the first of its frames that sees all
    for block in blocks:
        kept = np.concatenate([kept, block])
        last = len(kept) // frame - edge  # exclusive
        if last <= inside:
            continue
        highest = max(highest, float(model.logmel.loudest(torch.from_numpy(kept)[None].to(device), inside, last)))
        dropped = max(last - edge, 0)
        kept, inside = kept[dropped * frame :], last - dropped
    return max(highest, float(model.logmel.loudest(torch.from_numpy(kept)[None].to(device), inside)))
