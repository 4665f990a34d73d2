"""Events of audio as it comes: handed out as soon as they are known to be over."""

from __future__ import annotations

from math import inf

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.audio.resampling import Resampler
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.embedder import mono_floats
from weakaudio.inference.postprocess import EventJoiner, Run, event_table, sort_events
from weakaudio.inference.windows import Window, Windower


class StreamingDetector:
    """The events that a detector finds in a recording, found while it goes on.

    They are those of `Detector.detect_array` for all of the audio, if the network sees a limited part of it (its
    `context` is a number), up to `longest`; other networks see 5 s around each step. `Detector.max_events` is of
    whole recordings, and does nothing here.

    Parameters
    ----------
    detector
        Decides model, thresholds and lengths.
    sample_rate
        Of the audio that will come; Hz.
    step
        Seconds of audio that are analysed at once: shorter answers sooner, longer costs less.
    longest
        Events that go on longer than so many seconds are handed out in pieces, so that the delay has a limit.

    Raises
    ------
    WeakAudioError
        A step that is not above 0, or a model whose front end needs the whole recording.
    """

    def __init__(self, detector: Detector, sample_rate: int, step: float = 1.0, longest: float = 60.0) -> None:
        if not (step > 0 and longest > 0 and sample_rate > 0):
            raise WeakAudioError(f"step {step!r}, longest {longest!r}, sample_rate {sample_rate!r}: expected above 0")
        self._detector, self._rate = detector, sample_rate
        self._windower = Windower(detector.model, step, detector.n_beside)
        self._resampler = Resampler(sample_rate, detector.model.sample_rate)
        self._joiner = EventJoiner(detector.rules, longest)
        self._n_samples = 0

    @property
    def seconds(self) -> float:
        """Of audio that came."""
        return self._n_samples / self._rate

    @property
    def delay(self) -> float:
        """Seconds after an event's end at which it is handed out, at most: what the network must see, a step, and the
        gap within which the event could go on."""
        return self._windower.delay + self._detector.rules.merge_gap

    def push(self, audio: NDArray[np.floating]) -> pd.DataFrame:
        """The events that are over with the next samples, of shape (N,), full scale at +-1: start, end (seconds from
        the start of the audio), label, score.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        audio = mono_floats(audio)
        self._n_samples += len(audio)
        windows = self._windower.push(self._resampler.process(audio))
        return self._table([event for window in windows for event in self._events(window)])

    def finish(self) -> pd.DataFrame:
        """The events that were not over yet; nothing may be pushed afterwards.

        Raises
        ------
        AudioError
            No audio came.
        """
        if not self._n_samples:
            raise AudioError("no audio came; at least one sample is needed")
        windows = [*self._windower.push(self._resampler.finish()), self._windower.finish()]
        events = [event for window in windows for event in self._events(window)]
        return self._table([event._replace(end=min(event.end, self.seconds)) for event in events])

    def _events(self, window: Window) -> list[Run]:
        (part,) = self._detector.embed_windows([window])
        until = inf if window.is_last else float(part.times[part.own][-1, 1])
        if part.n_after:
            until = float(part.times[part.own.stop, 0])
        return self._joiner.push(self._detector.find_runs(part, window), until)

    def _table(self, events: list[Run]) -> pd.DataFrame:
        return event_table(sort_events(events), self._detector.model.labels)
