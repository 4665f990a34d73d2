from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from killable import Killable, wait_to_be_killed
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from weakaudio.data.store import ClipStore, StoreWriter, check_clips
from weakaudio.errors import StoreError, WriteError


def faults(folder: Path) -> list[str]:
    """Keys of clips, and names of shards, that differ from what was written."""
    return [clip.key for clip in check_clips(folder) if clip.fault]


def clip(n: int) -> NDArray[np.int16]:
    """Clip n: 100 to 1099 samples, different in each."""
    rng = np.random.default_rng(n)
    return rng.integers(-32768, 32768, 100 + int(rng.integers(1000)), dtype=np.int16)


def write_clips(folder: Path, count: int = 20, shard_samples: int = 3000) -> None:
    with StoreWriter(folder, 8000, shard_samples) as writer:
        for n in range(count):
            if f"clip {n}" not in writer.keys:
                writer.add(f"clip {n}", clip(n), ["dog", "rain"][: n % 3])


def assert_clip(store: ClipStore, n: int) -> None:
    """Position n of the store holds clip number `store.keys[n]`."""
    number = int(store.keys[n].split()[1])
    np.testing.assert_array_equal(store.audio(n), clip(number) / np.float32(32768))
    assert store.labels[n] == ["dog", "rain"][: number % 3]


@settings(max_examples=30)
@given(
    clips=st.lists(
        st.tuples(hnp.arrays(np.int16, st.integers(1, 300)), st.lists(st.text(max_size=5), max_size=3)),
        min_size=1,
        max_size=8,
    ),
    shard_samples=st.integers(1, 500),
)
def test_clips_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, clips: list[tuple[NDArray[np.int16], list[str]]], shard_samples: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter(folder, 22050, shard_samples) as writer:
        for n, (samples, labels) in enumerate(clips):
            writer.add(f"é/{n}.wav", samples, labels)
    store = ClipStore(folder)
    assert (len(store), store.sample_rate) == (len(clips), 22050)
    assert store.keys == [f"é/{n}.wav" for n in range(len(clips))]
    assert store.labels == [labels for _, labels in clips]
    assert store.n_samples.tolist() == [len(samples) for samples, _ in clips]
    for n, (samples, _) in enumerate(clips):
        audio = store.audio(n)
        assert audio.dtype == np.float32
        np.testing.assert_array_equal(audio * 32768, samples)
    assert faults(store.folder) == []


def test_float_clips_are_stored_in_16_bit(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, 8000) as writer:
        writer.add("a", np.array([0.0, 0.5, -1.0, 2.0], dtype=np.float32), [])
    np.testing.assert_array_equal(ClipStore(tmp_path).audio(0) * 32768, [0, 16384, -32768, 32767])


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, 8000) as writer:
        writer.add("a", clip(0), [])
        with pytest.raises(StoreError, match="'a' exists already"):
            writer.add("a", clip(1), [])
    with StoreWriter(tmp_path, 8000) as writer, pytest.raises(StoreError, match="'a' exists already"):
        writer.add("a", clip(1), [])
    np.testing.assert_array_equal(ClipStore(tmp_path).audio(0) * 32768, clip(0))


@pytest.mark.parametrize("audio", [np.zeros(0, np.int16), np.zeros((2, 5), np.int16)])
def test_a_clip_without_samples_or_with_channels_is_refused(tmp_path: Path, audio: NDArray[np.int16]) -> None:
    with StoreWriter(tmp_path, 8000) as writer, pytest.raises(StoreError, match="'a' must have shape"):
        writer.add("a", audio, [])


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_loader_workers_read_the_same_as_the_main_process(tmp_path: Path, start_method: str) -> None:
    write_clips(tmp_path)
    store = ClipStore(tmp_path)
    expected = [store.audio(n) for n in range(len(store))]  # opens files before the workers start
    loader = DataLoader(
        range(len(store)),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=store.audio,
        num_workers=2,
        multiprocessing_context=start_method,
    )
    for audio, other in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(audio, other)
    np.testing.assert_array_equal(store.audio(0), expected[0])


def test_a_pickled_store_reads_the_same(tmp_path: Path) -> None:
    write_clips(tmp_path)
    store = ClipStore(tmp_path)
    store.audio(0)
    twin = pickle.loads(pickle.dumps(store))
    for n in range(len(twin)):
        assert_clip(twin, n)


def write_until_killed(tell: Callable[[str], None], folder: Path, adds: int) -> None:
    """`write_clips` that tells before each clip, and waits to be killed after some."""
    add, left = StoreWriter.add, iter(range(adds))

    def add_and_tell(writer: StoreWriter, *arguments: Any) -> None:
        tell("adding")
        if next(left, None) is None:
            wait_to_be_killed()
        add(writer, *arguments)

    StoreWriter.add = add_and_tell  # type: ignore[method-assign]
    write_clips(folder, count=60)


def test_a_store_written_by_killed_runs_equals_an_uninterrupted_one(tmp_path: Path, rng: np.random.Generator) -> None:
    write_clips(tmp_path / "uninterrupted", count=60)
    folder = tmp_path / "killed"

    for adds in (2, 11, 14, 17):
        run = Killable(write_until_killed, folder, adds + 2)
        assert [run.receive() for _ in range(adds)] == ["adding"] * adds
        time.sleep(rng.uniform(0, 0.004))  # anywhere in what it does to a clip
        assert run.kill() == -signal.SIGKILL
    write_clips(folder, count=60)
    shards = sorted(path.name for path in folder.iterdir())
    assert shards == sorted(path.name for path in (tmp_path / "uninterrupted").iterdir())
    for name in shards:
        assert (folder / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
    store = ClipStore(folder)
    assert store.keys == [f"clip {n}" for n in range(60)]
    for n in range(60):
        assert_clip(store, n)


def write_and_die_before_renaming(_: object, folder: Path) -> None:
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    write_clips(folder)


def test_a_run_killed_before_the_rename_leaves_no_shard(tmp_path: Path) -> None:
    assert Killable(write_and_die_before_renaming, tmp_path).wait() == -signal.SIGKILL
    with pytest.raises(StoreError, match="no clip store"):
        ClipStore(tmp_path)
    write_clips(tmp_path)
    assert all(path.name.startswith("shard-") or path.name == ".lock" for path in tmp_path.iterdir())
    assert len(ClipStore(tmp_path)) == 20


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_shard_is_named_and_the_others_are_kept(tmp_path: Path, kept: float) -> None:
    write_clips(tmp_path)
    shard = tmp_path / "shard-00001.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(StoreError, match=r"shard-00001\.h5"):
        ClipStore(tmp_path)
    with pytest.raises(StoreError, match=r"shard-00001\.h5"):
        StoreWriter(tmp_path, 8000)
    shard.unlink()
    store = ClipStore(tmp_path)
    assert 0 < len(store) < 20
    for n in range(len(store)):
        assert_clip(store, n)
    write_clips(tmp_path)  # prepare again, as the message says
    whole = ClipStore(tmp_path)
    assert sorted(whole.keys) == sorted(f"clip {n}" for n in range(20))
    for n in range(20):
        assert_clip(whole, n)


def test_a_shard_of_another_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    write_clips(tmp_path)
    with h5py.File(tmp_path / "shard-00000.h5", "a") as file:
        file.attrs["format_version"] = 999
    with pytest.raises(StoreError, match=r"shard-00000\.h5: has format 999, .* format 1"):
        ClipStore(tmp_path)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    write_clips(tmp_path)
    shard = next(path for path in sorted(tmp_path.iterdir()) if clip(7).tobytes() in path.read_bytes())
    content = bytearray(shard.read_bytes())
    content[content.index(clip(7).tobytes()) + 50] ^= 1
    shard.write_bytes(content)
    assert faults(tmp_path) == ["clip 7"]


@pytest.mark.parametrize("table", ["sample_rate", "keys", "labels", "offsets", "crc32"])
def test_a_changed_table_is_found_when_the_store_is_opened(tmp_path: Path, table: str) -> None:
    write_clips(tmp_path)
    with h5py.File(tmp_path / "shard-00001.h5", "a") as file:
        if table == "sample_rate":
            file.attrs[table] += 1
        else:
            values = file[table][:]
            values[1] = values[0]
            file[table][:] = values
    with pytest.raises(StoreError, match=r"shard-00001\.h5: its tables were changed"):
        ClipStore(tmp_path)
    assert faults(tmp_path) == ["shard-00001.h5"]


@pytest.mark.parametrize("kind", ["uint16", ">i2"])
def test_samples_of_another_type_are_refused(tmp_path: Path, kind: str) -> None:
    """Their bytes, and so their checksums, may be the same."""
    write_clips(tmp_path)
    with h5py.File(tmp_path / "shard-00001.h5", "a") as file:
        content = file["audio"][:].view(kind)
        del file["audio"]
        file["audio"] = content
    with pytest.raises(StoreError, match=r"shard-00001\.h5: its tables do not match its audio"):
        ClipStore(tmp_path)


def test_shards_of_earlier_releases_are_read(tmp_path: Path) -> None:
    """They have variable-length text and no checksum of their tables."""
    write_clips(tmp_path)
    for path in tmp_path.glob("shard-*"):
        with h5py.File(path, "a") as file:
            del file.attrs["head_crc32"]
            for name in ("keys", "labels"):
                texts = list(file[name].asstr()[:])
                del file[name]
                file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
    store = ClipStore(tmp_path)
    for n in range(len(store)):
        assert_clip(store, n)
    assert faults(tmp_path) == []


def test_a_shard_has_no_global_heap(tmp_path: Path) -> None:
    """HDF5 stores variable-length text there, and HDF5 2.0.0 hangs on a damaged heap."""
    write_clips(tmp_path, 3)
    assert b"GCOL" not in (tmp_path / "shard-00000.h5").read_bytes()


def test_two_rates_in_one_store_are_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "a")
    with pytest.raises(StoreError, match="8000 Hz; 16000 Hz"):
        StoreWriter(tmp_path / "a", 16000)
    with StoreWriter(tmp_path / "b", 16000) as writer:
        writer.add("other", clip(0), [])
    shutil.copy(tmp_path / "b" / "shard-00000.h5", tmp_path / "a" / "shard-00099.h5")
    with pytest.raises(StoreError, match="rates"):
        ClipStore(tmp_path / "a")


def test_a_clip_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_clips(tmp_path)
    shutil.copy(tmp_path / "shard-00000.h5", tmp_path / "shard-00099.h5")
    with pytest.raises(StoreError, match="twice"):
        ClipStore(tmp_path)


def test_a_folder_without_a_store_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=tmp_path.name):
        ClipStore(tmp_path)


def test_reading_does_not_change_the_store(tmp_path: Path) -> None:
    write_clips(tmp_path)
    before = {path: (path.read_bytes(), os.stat(path).st_mtime_ns) for path in tmp_path.iterdir()}
    store = ClipStore(tmp_path)
    store.audio(3)
    faults(store.folder)
    assert {path: (path.read_bytes(), os.stat(path).st_mtime_ns) for path in tmp_path.iterdir()} == before


def hold_store(tell: Callable[[str], None], folder: Path) -> None:
    with StoreWriter(folder, 8000):
        tell("writing")
        wait_to_be_killed()


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = Killable(hold_store, tmp_path)
    assert run.receive() == "writing"
    with pytest.raises(StoreError, match="another run writes to it"):
        StoreWriter(tmp_path, 8000)
    run.kill()
    with StoreWriter(tmp_path, 8000), pytest.raises(StoreError, match="another run"):
        StoreWriter(tmp_path, 8000)
    write_clips(tmp_path)
    assert len(ClipStore(tmp_path)) == 20


def _interrupted_after_eight_clips(writer: StoreWriter) -> None:
    for n in range(8):
        writer.add(f"clip {n}", clip(n), ["dog", "rain"][: n % 3])
    raise KeyboardInterrupt


def test_an_error_discards_the_open_shard_and_the_next_run_packs_it_again(tmp_path: Path) -> None:
    write_clips(tmp_path / "uninterrupted")
    writer = StoreWriter(tmp_path / "broken", 8000, 3000)
    with pytest.raises(KeyboardInterrupt), writer:
        _interrupted_after_eight_clips(writer)
    write_clips(tmp_path / "broken")
    shards = sorted(path.name for path in (tmp_path / "uninterrupted").iterdir())
    assert len(shards) >= 3
    for name in shards:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


def test_relabelling_rewrites_only_shards_with_changed_labels(tmp_path: Path) -> None:
    write_clips(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with StoreWriter(tmp_path, 8000) as writer:
        writer.relabel({"clip 0": ["cat"], "clip 1": ["dog"], "elsewhere": ["cow"]})
    changed = [name for name, content in before.items() if (tmp_path / name).read_bytes() != content]
    assert changed == ["shard-00000.h5"]
    store = ClipStore(tmp_path)
    assert store.labels[0] == ["cat"]
    assert store.labels[1:] == [["dog", "rain"][: n % 3] for n in range(1, 20)]
    assert faults(store.folder) == []
    np.testing.assert_array_equal(store.audio(0) * 32768, clip(0))
    with StoreWriter(tmp_path, 8000) as writer:
        writer.relabel({"clip 0": []})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_is_a_clear_error_and_complete_shards_are_kept(small_disk: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "roomy", count=60)
    with pytest.raises(WriteError, match=r"shard-0000\d\.h5: cannot be written \(No space left"):
        write_clips(small_disk / "store", count=60)
    kept = ClipStore(small_disk / "store")
    assert 0 < len(kept) < 60
    assert faults(kept.folder) == []
    assert not list((small_disk / "store").glob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    write_clips(small_disk / "store", count=60)
    for path in (tmp_path / "roomy").iterdir():
        assert (small_disk / "store" / path.name).read_bytes() == path.read_bytes()
