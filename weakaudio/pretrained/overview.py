"""The models in words: the cells of the tables that `weakaudio models` and README show."""

from __future__ import annotations

from weakaudio.pretrained.catalogue import Entry

COLUMNS = ("name", "params", "kHz", "classes", "mAP", "ESC-50", "licence")
NOTE = (
    "mAP: on AudioSet's evaluation set, as stated by the publisher. ESC-50: accuracy that this project measured "
    "(frozen embedding, linear SVM, five folds)."
)


def facts(entry: Entry) -> tuple[str, ...]:
    """A cell for each of `COLUMNS`: mAP as its publisher states it, ESC-50 as this project measured it."""
    mean_ap, accuracy = entry.value("AudioSet", "mAP"), entry.value("ESC-50", "accuracy")
    return (
        entry.name,
        "" if entry.parameters is None else f"{entry.parameters / 1e6:.2f} M",
        f"{entry.sample_rate / 1000:g}",
        str(entry.classes),
        "" if mean_ap is None else f"{mean_ap:.3f}",
        "" if accuracy is None else f"{accuracy:.1%}",
        entry.licence,
    )


def origin(entry: Entry) -> str:
    """How a model comes, on any machine."""
    if not entry.urls:
        return "built in" if entry.file is None else "shipped"
    return "download" if entry.size is None else f"download, {entry.size / 1e6:.1f} MB"


def whereabouts(entry: Entry) -> str:
    """Where a model is, on this machine."""
    if not entry.urls:
        return origin(entry) if entry.at_hand else "missing here"
    return "downloaded" if entry.at_hand else f"to {origin(entry)}"
