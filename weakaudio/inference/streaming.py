"""Events of live audio: returned as soon as they are over."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from weakaudio.audio.io import mono_floats
from weakaudio.audio.resampling import Resampler
from weakaudio.errors import AudioError, WeakAudioError
from weakaudio.inference.detector import Detector
from weakaudio.inference.postprocess import ActiveRegion, EventBuilder, event_table
from weakaudio.inference.windows import Window, Windower


class StreamingDetector:
    """Detects events in audio that arrives in blocks.

    They are those of `Detector.detect_array` for all of the audio, up to a length of `longest`, if the network's
    receptive field is limited (its `context` is a number); other networks see some seconds around each step.
    `PostProcessing.max_events` is a property of whole recordings and has no effect here.

    Parameters
    ----------
    detector
        Model, thresholds and lengths.
    sample_rate
        Rate of the audio; Hz.
    step
        Audio that is analysed at once; seconds. Shorter steps have less delay, longer ones cost less.
    longest
        Longer events are returned in pieces of about this length, so that the delay is bounded; seconds.

    Raises
    ------
    WeakAudioError
        A step, length or rate that is not above 0, or a model whose front end needs the whole recording.
    """

    def __init__(self, detector: Detector, sample_rate: int, step: float = 1.0, longest: float = 60.0) -> None:
        if not (step > 0 and longest > 0 and sample_rate > 0):
            raise WeakAudioError(f"step {step!r}, longest {longest!r}, sample_rate {sample_rate!r}: expected above 0")
        self._detector, self._rate = detector, sample_rate
        self._windower = Windower(detector.model, step, detector.context)
        self._resampler = Resampler(sample_rate, detector.model.sample_rate)
        self._builder = EventBuilder(detector.post_processing, detector.hop, longest)
        self._n_samples = 0

    @property
    def seconds(self) -> float:
        """Length of the audio pushed so far."""
        return self._n_samples / self._rate

    @property
    def delay(self) -> float:
        """Longest time from an event's end to its return, in seconds: the receptive field, a step, half the median
        filter, and the gap within which the event could continue."""
        rules, hop = self._detector.post_processing, self._detector.hop
        return self._windower.delay + rules.filter_size(hop) // 2 * hop + rules.merge_gap

    def push(self, audio: NDArray[np.floating]) -> pd.DataFrame:
        """Return the events that are over, given the next samples.

        Parameters
        ----------
        audio
            (N,), full scale at +-1.

        Returns
        -------
        Columns start, end (seconds from the start of the audio), label, score.

        Raises
        ------
        AudioError
            Another shape, integers, no samples, NaN or infinite samples.
        """
        audio = mono_floats(audio)
        self._n_samples += len(audio)
        return self._table(self._events(self._windower.push(self._resampler.process(audio))))

    def finish(self) -> pd.DataFrame:
        """Return the events that were not over yet; nothing may be pushed afterwards.

        Raises
        ------
        AudioError
            No audio was pushed.
        """
        if not self._n_samples:
            raise AudioError("no audio arrived; at least one sample is needed")
        windows = [*self._windower.push(self._resampler.finish()), self._windower.finish()]
        events = self._events(windows) + self._builder.finish()
        return self._table([event._replace(end=min(event.end, self.seconds)) for event in events])

    def _events(self, windows: Iterable[Window]) -> list[ActiveRegion]:
        return [
            event
            for window in windows
            for scores in self._detector.score([window])
            for event in self._builder.push(scores)
        ]

    def _table(self, events: list[ActiveRegion]) -> pd.DataFrame:
        return event_table(events, self._detector.model.labels)
