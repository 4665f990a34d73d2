"""The errors weakaudio raises on purpose: each message names the file, what was expected, what came, what to do."""

from __future__ import annotations


class WeakAudioError(Exception):
    """Base of all errors that a user can mend; the command line prints it in one line."""


class AudioError(WeakAudioError):
    """A recording that cannot be used: unreadable, truncated, empty, or holding NaN."""


class LabelError(WeakAudioError):
    """A class name that is unknown, or a class list that does not fit."""


class ManifestError(WeakAudioError):
    """A clip table that is malformed or names clips that do not exist."""


class StoreError(WeakAudioError):
    """A clip store that is damaged, of another version, or used in a way it does not allow."""


class CheckpointError(WeakAudioError):
    """A model file that is not a weakaudio checkpoint of a version this release reads."""


class DataPrepError(WeakAudioError):
    """A corpus on disk that is not what its preparation expects."""


class ProtocolError(WeakAudioError):
    """An evaluation that would not be honest or cannot be done: folds, splits, labels."""
