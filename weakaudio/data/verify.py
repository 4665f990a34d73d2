"""Whether a corpus still holds what was packed: manifest against store, samples against checksums."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from weakaudio.data.corpus import MANIFEST, STORE, read_labels
from weakaudio.data.manifest import read_manifest
from weakaudio.data.store import check_clips
from weakaudio.progress import progress


def verify_corpus(root: str | Path) -> pd.DataFrame:
    """Find every clip that was lost or altered since the corpus was prepared.

    Returns
    -------
    faults
        Columns `path` and `fault`, sorted, empty if all is well: shards that cannot be read, clips of the manifest
        that the store lacks or holds twice, clips whose samples or labels differ, clips the manifest does not list.

    Raises
    ------
    ManifestError
        The folder is not a prepared corpus, or its manifest is malformed.
    LabelError
        The class list is damaged, or the manifest has a label that it has not.
    StoreError
        The corpus has no clip store.
    """
    root = Path(root)
    table = read_manifest(root / MANIFEST, read_labels(root), check_files=False).table
    lost = dict(zip(table["path"], table["labels"], strict=True))
    seen: set[str] = set()
    faults: list[tuple[str, str]] = []
    for clip in progress(check_clips(root / STORE), len(lost), "verifying"):
        if clip.key in seen:
            faults.append((clip.key, "twice in the store"))
        elif clip.fault:
            faults.append((clip.key, clip.fault))
        elif clip.key not in lost:
            faults.append((clip.key, "in the store, not in the manifest"))
        elif clip.labels != lost[clip.key]:
            faults.append((clip.key, f"labels {clip.labels} in the store, {lost[clip.key]} in the manifest"))
        seen.add(clip.key)
        lost.pop(clip.key, None)
    faults += [(key, "in the manifest, not in the store") for key in lost]
    return pd.DataFrame(sorted(faults), columns=["path", "fault"])
