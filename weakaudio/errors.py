"""Errors that a user can fix: each message names the file, what was expected, what was found and what to do."""

from __future__ import annotations


class WeakAudioError(Exception):
    """Base of all errors that a user can fix; the command line prints it in one line."""


class AudioError(WeakAudioError):
    """A recording that cannot be used: unreadable, truncated, empty, or with NaN samples."""


class LabelError(WeakAudioError):
    """An unknown class name, or a class list that does not fit."""


class ManifestError(WeakAudioError):
    """A malformed clip table, or one that lists clips that do not exist."""


class StoreError(WeakAudioError):
    """Stored results that are damaged, of another version or of other settings, or that another run is writing."""


class WriteError(WeakAudioError):
    """A file or folder that cannot be written, e.g. because the disk is full."""


class CheckpointError(WeakAudioError):
    """A model file that is not a weakaudio checkpoint of a version that this release reads."""


class DataPrepError(WeakAudioError):
    """A data set on disk that differs from what its preparation expects."""


class ProtocolError(WeakAudioError):
    """An evaluation protocol (folds, splits, labels) that is impossible or would bias the result."""
