"""Damaged model files are refused, or read as they were saved."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from functools import cache
from pathlib import Path

import damage as damages
import numpy as np
import pytest
import torch
from malformed import Outcome, expect, read_damaged

from weakaudio.errors import WeakAudioError
from weakaudio.pretrained.checkpoint import model_checksum, open_model


def _check_checkpoint(path: Path, seed: Path, changes: tuple[str, ...]) -> Outcome:
    try:
        model = open_model(path)
    except WeakAudioError:
        return "refused"
    tensors = [tensor for tensor in model.network.state_dict().values() if tensor.is_floating_point()]
    expect(all(bool(torch.isfinite(tensor).all()) for tensor in tensors), "weights that are not finite")
    expect(len(model.labels) == model.network.classifier.out_features, "more or fewer labels than classes")
    if "unsealed" not in seed.name:
        expect(model_checksum(model) == _model_checksum(seed), "not what was saved")
    return "read"


@cache
def _model_checksum(seed: Path) -> str:
    return model_checksum(open_model(seed))


def test_a_damaged_checkpoint_is_refused_or_read_as_it_was_saved(intact: Path, scratch: Path) -> None:
    read_damaged("checkpoint", _check_checkpoint, intact, scratch)


def test_weights_of_another_model_are_found(intact: Path) -> None:
    """The check itself."""
    with pytest.raises(AssertionError, match="not what was saved"):
        _check_checkpoint(intact / "models/half.safetensors", intact / "models/whole.safetensors", ("splice",))


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
