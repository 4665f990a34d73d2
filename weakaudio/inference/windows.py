"""Recordings of any length in bounded memory: parts that overlap as far as the network sees, so that a recording in
parts is the recording as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from weakaudio.errors import WeakAudioError
from weakaudio.networks.model import Model

Audio = NDArray[np.float32]

WINDOW_SECONDS = 40.0  # of segments that go through the network at once
BLOCK_SECONDS = 10.0  # of a recording that are decoded at once: little beside a window
# Networks whose segments depend on all of their clip see this much around a window, and the window is their clip.
_MARGIN_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a recording, and which of its segments count: the others lack what is around them."""

    audio: Audio
    """(N,) at the model's rate"""
    start: int = 0
    """samples of the recording before it"""
    first: int = 0
    """the first segment that counts, from the window's own first"""
    last: int | None = None
    """the one after the last that counts; None: all that follow"""
    n_before: int = 0
    """of those that count, how many belong to the window before"""
    n_after: int = 0
    """of those that count, how many belong to the window after"""
    loudest: float | None = None
    """dB, of the recording: front ends whose floor hangs on it need it"""

    @property
    def is_last(self) -> bool:
        """Whether the recording ends with it."""
        return self.last is None


class Windower:
    """Cuts audio that comes in blocks into windows.

    Parameters
    ----------
    model
        Says how far a segment sees.
    seconds
        Of segments in a window, each of which is in one window.
    n_beside
        Segments that a window has, beyond its own, on either side; they count, too.
    loudest
        dB, of the whole recording (`find_loudest`).

    Raises
    ------
    WeakAudioError
        The model's front end has a floor under the recording's maximum, and `loudest` is not given.
    """

    def __init__(
        self, model: Model, seconds: float = WINDOW_SECONDS, n_beside: int = 0, loudest: float | None = None
    ) -> None:
        front_end, geometry = model.front_end, model.network.geometry
        if front_end.top_db is not None and loudest is None:
            raise WeakAudioError(
                f"front end {front_end.name!r}: its floor is {front_end.top_db:g} dB under the maximum of the whole "
                "recording, which is not known while it goes on; use a model with another front end"
            )
        frame = front_end.hop_length
        context = model.network.context
        if context is None:
            context = round(_MARGIN_SECONDS * front_end.sample_rate / frame)
        seen = context + front_end.context
        before = -(-(geometry.lead + seen) // geometry.hop) + n_beside  # segments
        self._hop, self._rate = geometry.hop * frame, front_end.sample_rate  # samples of a segment, and of a second
        self._before, self._beside, self._loudest = before, n_beside, loudest
        self._own = max(round(seconds * front_end.sample_rate / self._hop), 1)  # segments
        # From a window's first own segment to the end of what its last one sees; with one segment more, so that
        # something is left when the recording ends here.
        self._needed = (self._own + n_beside) * self._hop + (geometry.span - geometry.lead + seen) * frame
        self._blocks: list[Audio] = []
        self._n = 0  # samples in them
        self._start = 0  # samples of the recording before them
        self._next = 0  # first segment of the next window

    @property
    def delay(self) -> float:
        """Seconds from a sound to the window that holds it, at most."""
        return (self._needed + self._hop) / self._rate

    def push(self, block: Audio) -> Iterator[Window]:
        """The windows that are complete with the next (N,) samples at the model's rate."""
        self._blocks.append(block)
        self._n += len(block)
        while self._start + self._n >= self._next * self._hop + self._needed:
            audio = self._joined()
            length = self._next * self._hop + self._needed - self._start
            yield self._window(audio[:length], self._own)
            self._next += self._own
            dropped = max(self._next - self._before, 0) * self._hop - self._start
            self._blocks, self._n, self._start = [audio[dropped:]], self._n - dropped, self._start + dropped

    def finish(self) -> Window:
        """The last window, after which nothing may be pushed."""
        return self._window(self._joined(), None)

    def _joined(self) -> Audio:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.zeros(0, np.float32), *self._blocks])]
        return self._blocks[0]

    def _window(self, audio: Audio, own: int | None) -> Window:
        start = self._start // self._hop
        n_before = min(self._beside, self._next)
        first = self._next - start - n_before
        last, n_after = (None, 0) if own is None else (first + n_before + own + self._beside, self._beside)
        return Window(audio, self._start, first, last, n_before, n_after, self._loudest)


def cut(model: Model, blocks: Iterable[Audio], n_beside: int = 0, loudest: float | None = None) -> Iterator[Window]:
    """The windows of a recording that comes in blocks of (N,) samples at the model's rate."""
    windower = Windower(model, n_beside=n_beside, loudest=loudest)
    for block in blocks:
        yield from windower.push(block)
    yield windower.finish()


def cut_clip(model: Model, clip: Audio, n_beside: int = 0) -> list[Window]:
    """The windows of a recording that is in memory, (N,) samples at the model's rate."""
    windows = list(cut(model, [clip], n_beside, loudest=0.0))
    if len(windows) == 1:
        return [Window(clip)]
    loudest = find_loudest(model, [clip])
    return [replace(window, loudest=loudest) for window in windows]


@torch.inference_mode()
def find_loudest(model: Model, blocks: Iterable[Audio]) -> float | None:
    """dB, the highest level of a recording, in any of its frames and mels; None where the front end needs no such."""
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
