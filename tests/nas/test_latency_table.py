from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_stand_ins import CONFIG, CPU, HERE, KEY, full

from weakaudio import __version__
from weakaudio.deploy.benchmark import Device, describe
from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import KINDS, Component
from weakaudio.nas.latency_table import LatencyTable


@given(
    st.dictionaries(
        st.builds(
            Component,
            st.sampled_from(KINDS),
            st.text(max_size=5),
            *[st.integers(1, 10**6)] * 5,
            st.floats(1e-3, 1e3),
            st.sampled_from(["float32", "bfloat16"]),
        ),
        st.one_of(st.floats(0, 100), st.text()),
        max_size=5,
    )
)
def test_a_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[Component, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "table.json"
    table = LatencyTable(HERE)
    for key, value in entries.items():
        (table.errors if isinstance(value, str) else table.times)[key] = value
    table.save(path)
    assert LatencyTable.load(path, HERE) == table
    assert not list(path.parent.glob(".table*"))


@pytest.mark.parametrize(
    "change",
    [lambda here: replace(here, threads=2), lambda here: replace(here, onnxruntime="1.22")],
    ids=["more threads", "8 bits"],
)
def test_a_table_of_another_device_is_refused_unless_allowed(
    change: Callable[[Device], Device], tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    full([CONFIG]).save(path)
    other = change(HERE)
    with pytest.raises(WeakAudioError) as caught:
        LatencyTable.load(path, other)
    assert str(HERE) in str(caught.value)
    assert str(other) in str(caught.value)
    assert LatencyTable.load(path, other, allow_other_device=True) == full([CONFIG])


def test_a_table_holds_here_with_as_many_threads_as_it_says(tmp_path: Path) -> None:
    path, here = tmp_path / "table.json", describe(CPU)
    own = LatencyTable(replace(here, threads=(here.threads or 0) + 5), {KEY: 0.5})
    own.save(path)
    assert LatencyTable.load(path) == own
    with pytest.raises(WeakAudioError, match=r"measured on another device: .* threads"):
        LatencyTable.load(path, here)
    LatencyTable(HERE).save(path)
    with pytest.raises(WeakAudioError, match=rf"another device: Toaster.*; here: {re.escape(here.name)}"):
        LatencyTable.load(path)


def test_a_table_in_8_bits_holds_for_the_runtime_that_it_was_measured_on(tmp_path: Path) -> None:
    path, here = tmp_path / "table.json", describe(CPU, int8=True)
    LatencyTable(here, {KEY: 0.5}).save(path)
    assert LatencyTable.load(path).device == here
    assert f"networks in 8 bits on ONNX Runtime {version('onnxruntime')}" in str(here)
    LatencyTable(replace(here, onnxruntime="0.1"), {KEY: 0.5}).save(path)
    with pytest.raises(WeakAudioError, match=r"measured on another device: .* ONNX Runtime 0\.1; here: "):
        LatencyTable.load(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_s_table_is_refused_without_one_unless_allowed(tmp_path: Path) -> None:
    path, table = tmp_path / "table.json", LatencyTable(Device("cuda", "Big GPU", None, None, "2.11.0", True))
    table.save(path)
    with pytest.raises(
        WeakAudioError, match=r"table.json: measured on Big GPU.*, which is not available: there is no GPU"
    ):
        LatencyTable.load(path)
    assert LatencyTable.load(path, allow_other_device=True) == table


def test_tables_of_the_first_release_are_read(tmp_path: Path) -> None:
    path, about = tmp_path / "table.json", json.dumps(asdict(HERE))
    row = '{"piece": "entry", "operator": "", "inputs": 8, "outputs": 16, "rows": 25, "mels": 16, "batch": 2, '
    row += '"seconds": 1.37, "dtype": "float32", "time": 0.25}'
    path.write_text(
        f'{{"latency_table": 2, "weakaudio": "{__version__}", "device": {about}, "entries": [\n{row}\n]}}'
    )
    assert LatencyTable.load(path, HERE).times == {Component("entry", "", 8, 16, 25, 16, 2, 1.37, "float32"): 0.25}


ROW = {"piece": "block", **KEY._asdict(), "time": 0.5}
del ROW["kind"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latency_table": 1}, "format 1, this release reads 2"),
        ({"extra": 1}, "expected latency_table, weakaudio, device and entries"),
        ({"weakaudio": None}, "weakaudio None"),
        ({"device": "toaster"}, "expected kind"),
        (
            {"device": {**asdict(HERE), "cores": True}},
            "cores",
        ),
        ({"entries": 3}, "not iterable"),
        ({"entries": [ROW, ROW]}, "listed twice"),
        ({"entries": [[1, 2]]}, "expected piece"),
        ({"entries": [{**ROW, "time": float("nan")}]}, "a time of nan s"),
        ({"entries": [{**ROW, "time": -1}]}, "a time of -1 s"),
        ({"entries": [{**ROW, "time": "1"}]}, "time '1'"),
        ({"entries": [{**ROW, "error": "no"}]}, "expected piece"),
        ({"entries": [{**ROW, "rows": 2.5}]}, "rows 2.5: expected int"),
        ({"entries": [{**ROW, "rows": 0}]}, "no component of a network"),
        ({"entries": [{**ROW, "piece": "magic"}]}, "no component of a network: magic"),
        ({"entries": [{**ROW, "seconds": float("inf")}]}, "no component of a network"),
        ({"entries": [{**ROW, "seconds": 10**400}]}, "no latency table"),
    ],
)
def test_a_file_that_no_table_would_write_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    LatencyTable(HERE, {KEY: 0.5}).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeakAudioError, match=r"table.json: no latency table, damaged or cut short") as caught:
        LatencyTable.load(path, HERE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_damaged_bytes_are_one_clear_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    LatencyTable(HERE, {KEY: 0.5}, {KEY._replace(rows=3): "no"}).save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    said = refusal(path)
    assert said is None or (said.startswith(f"{path}: no latency table") and "\n" not in said)


def refusal(path: Path) -> str | None:
    """The error, whatever the device."""
    try:
        LatencyTable.load(path, HERE, allow_other_device=True)
    except WeakAudioError as error:
        return str(error)
    return None


def test_a_missing_table_or_one_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeakAudioError, match=r"nothing.json: no such file"):
        LatencyTable.load(tmp_path / "nothing.json", HERE)
    (tmp_path / "file").write_text("")
    with pytest.raises(WeakAudioError, match=r"table.json: cannot be written"):
        LatencyTable(HERE).save(tmp_path / "file" / "table.json")
