"""PSDS: how well scores locate events, over all thresholds."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from sed_scores_eval import intersection_based

from weakaudio.evaluation.scored_clips import ScoredClips

# The scenarios of DCASE task 4: the first demands exact times, the second that classes are not confused.
_SCENARIO1 = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0}
_SCENARIO2 = {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0}
_MAX_EFPR = 100.0  # effective false positives per hour up to which the curve is integrated


class PSDS(NamedTuple):
    """Polyphonic sound detection scores."""

    scenario1: float
    """in [0, 1]; detections and reference events must share 70 % of their time"""
    scenario2: float
    """in [0, 1]; 10 % is enough, but false positives that lie on events of another class cost more"""
    n_classes: int
    """classes measured: those with reference events"""


def psds_scores(clips: ScoredClips) -> tuple[PSDS, pd.DataFrame] | None:
    """PSDS in the two scenarios of the DCASE challenges. It needs no thresholds.

    A detection is a true positive if events of its class cover a part `dtc` of it, else a false positive; an event
    is detected if true positives cover a part `gtc` of it. A false positive of which events of another class cover a
    part `cttc` is a cross trigger as well. Each threshold gives a class its true positive rate (TPR) and effective
    false positive rate (eFPR): false positives per hour of audio, plus alpha_ct times the mean over the other
    classes of cross triggers per hour of that class's events. With mean and standard deviation, over classes, of the
    best TPR up to an eFPR of e,

        PSDS = 1 / 100 * integral of max(0, mean(e) - alpha_st * deviation(e)) for e from 0 to 100.

    Scenario 1: dtc = gtc = 0.7, alpha_ct = 0, alpha_st = 1; scenario 2: dtc = gtc = 0.1, cttc = 0.3, alpha_ct = 0.5,
    alpha_st = 1. A single class has no cross triggers. Classes without reference events are left out, and so are
    their detections.

    Definition: Bilen et al., "A Framework for the Robust Evaluation of Sound Event Detection",
    https://arxiv.org/abs/1910.08440; computed exactly, at every threshold that matters: Ebbers, Haeb-Umbach and
    Serizel, "Threshold Independent Evaluation of Sound Event Detection Scores", https://arxiv.org/abs/2201.13148.
    Time grows with the number of clips and the square of the number of classes.

    Returns
    -------
    psds, table
        The table has psds1 and psds2 of each class measured (the integral of its own TPR), indexed by its number.
        None where no clip has events.
    """
    classes = clips.classes()
    if not classes:
        return None
    # Without other classes, sed_scores_eval 0.0.4 fails instead of counting no cross triggers.
    scenario2 = _SCENARIO2 if len(classes) > 1 else {**_SCENARIO2, "cttc_threshold": None, "alpha_ct": 0.0}
    inputs = {**clips.inputs(classes), "audio_durations": clips.seconds}
    limits = {"unit_of_time": "hour", "max_efpr": _MAX_EFPR}
    psds1, by_class1, *_ = intersection_based.psds(**inputs, **_SCENARIO1, **limits)
    psds2, by_class2, *_ = intersection_based.psds(**inputs, **scenario2, **limits)
    columns = {"psds1": [by_class1[label] for label in classes], "psds2": [by_class2[label] for label in classes]}
    table = pd.DataFrame(columns, index=[int(label) for label in classes])
    return PSDS(float(psds1), float(psds2), len(classes)), table
