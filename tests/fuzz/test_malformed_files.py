"""Damaged files of every kind: none may crash the library, hang it, exhaust memory, or be read as if intact.

`WEAKAUDIO_FUZZ=1500 pytest tests/fuzz` tries so many files of each kind in place of 20, other ones each time.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import damage as damages
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intact_files import KINDS, find_intact, write_intact
from reading import check

PER_KIND = int(os.environ.get("WEAKAUDIO_FUZZ", "20"))
_PATIENCE = 60.0  # seconds after which reading one file counts as hanging: the tracebacks are printed, and tests end
_HEADROOM = 2**30  # bytes of address space that reading may take: no number in a header decides what is allocated


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    write_intact(folder)
    return folder


@pytest.fixture(scope="module")
def scratch(intact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which one file after the other is damaged."""
    return Path(shutil.copytree(intact, tmp_path_factory.mktemp("scratch") / "files"))


@contextmanager
def limits() -> Iterator[None]:
    """Bound the time and (Linux) the memory of a block."""
    before, sizes = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if sizes.is_file():
        used = int(sizes.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, before[1]))
    faulthandler.dump_traceback_later(_PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_there_are_intact_files_of_every_kind_and_suffix_and_all_are_read(intact: Path) -> None:
    found = find_intact(intact)
    suffixes = {Path(path).suffix for paths in found.values() for path in paths}
    assert suffixes >= {".wav", ".w64", ".rf64", ".aiff", ".au", ".flac", ".ogg", ".opus", ".mp3", ".h5", ".npz"}
    assert suffixes >= {".parquet", ".csv", ".txt", ".safetensors"}
    for kind, paths in found.items():
        assert paths, kind
        for path in paths:
            assert check(kind, intact / path, intact / path, ()) == "read", path


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_read_as_it_was_written(kind: str, intact: Path, scratch: Path) -> None:
    paths = find_intact(intact)
    contents = {path: (intact / path).read_bytes() for others in paths.values() for path in others}
    alike = [contents[path] for path in paths[kind]]
    for path in paths[kind]:
        check(kind, scratch / path, intact / path, ())  # modules are imported and caches filled before limits count

    @given(st.sampled_from(paths[kind]), st.booleans(), st.integers(0, 2**32 - 1))
    @settings(
        max_examples=PER_KIND,
        derandomize="WEAKAUDIO_FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    def read(path: str, of_its_kind: bool, seed: int) -> None:
        donors = alike if of_its_kind else list(contents.values())
        rng = np.random.default_rng(seed)
        content, changes = damages.damage(Path(path).suffix, contents[path], donors, rng)
        if content in contents.values():
            return
        (scratch / path).write_bytes(content)
        try:
            with limits():
                check(kind, scratch / path, intact / path, changes)
        finally:
            (scratch / path).write_bytes(contents[path])

    read()


def test_damage_inside_leaves_the_container_whole(intact: Path, rng: np.random.Generator) -> None:
    def zeros(part: bytes) -> bytes:
        return part[:40] + bytes(len(part) - 40)

    ogg = (intact / "audio/mono.ogg").read_bytes()
    for page in ogg.split(b"OggS")[1:]:  # the checksums of libogg are the reference
        whole = bytearray(b"OggS" + page)
        stored, whole[22:26] = struct.unpack("<I", whole[22:26])[0], bytes(4)
        assert damages._ogg_checksum(whole) == stored
    assert damages._inside_ogg(ogg, zeros, rng) != ogg
    npz = damages._inside_zip((intact / "embeddings/clips.npz").read_bytes(), zeros, rng)
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        assert archive.testzip() is None
    model = (intact / "models/whole.safetensors").read_bytes()
    changed = damages._inside_safetensors(model, lambda part: part.replace(b"rain", b"hail and snow"), rng)
    end = 8 + struct.unpack("<Q", changed[:8])[0]
    assert json.loads(json.loads(changed[8:end])["__metadata__"]["weakaudio"])["labels"][1] == "hail and snow"
    assert model.endswith(changed[end:])


def test_what_is_read_as_intact_and_is_not_is_found(intact: Path, tmp_path: Path) -> None:
    """A cut that the reader cannot see (AU that declares no length), and weights of another model."""
    cut = tmp_path / "cut.au"
    content = bytearray((intact / "audio/pcm_16.au").read_bytes())
    content[8:12] = b"\xff" * 4  # length unknown: all that follows is audio
    cut.write_bytes(content[:-4000])
    assert check("AIFF, AU", cut, intact / "audio/pcm_16.au", ("field", "cut")) == "read"
    with pytest.raises(AssertionError, match="cut short"):
        check("AIFF, AU", cut, intact / "audio/pcm_16.au", ("cut",))
    other = (intact / "models/half.safetensors", intact / "models/whole.safetensors")
    with pytest.raises(AssertionError, match="not what was saved"):
        check("checkpoint", *other, ("splice",))
