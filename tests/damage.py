"""Damage to a file: bits, bytes, chunks and numbers, near its start and end more often than inside."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from math import log

import numpy as np

Rng = np.random.Generator


def damage(suffix: str, content: bytes, donors: Sequence[bytes], rng: Rng) -> tuple[bytes, tuple[str, ...]]:
    """A damaged copy of a file, and the names of the changes, in order.

    With "inside", the container around the changed part was left, or made, whole.

    Parameters
    ----------
    suffix
        Of the file's name.
    donors
        Other files, parts of which may be spliced in.
    """
    container, done = _CONTAINERS.get(suffix), []  # type: ignore[var-annotated]
    donor = donors[rng.integers(len(donors))]
    if container and rng.random() < 0.5:
        done.append("inside")
        return container(content, lambda part: _change(part, donor, rng, done), rng), tuple(done)
    return _change(content, donor, rng, done), tuple(done)


def _change(content: bytes, donor: bytes, rng: Rng, done: list[str]) -> bytes:
    """One change in half of all cases, up to four in the others; their names are added to `done`."""
    for _ in range(1 if rng.random() < 0.5 else int(rng.integers(2, 5))):
        name = str(rng.choice(list(_CHANGES)))
        content = _CHANGES[name](content, donor, rng)
        done.append(name)
    return content


def _place(size: int, rng: Rng) -> int:
    """A position in 0 .. size - 1: near the start (0.6), near the end (0.2), or anywhere; 0 where there is none."""
    near = int(np.exp(rng.uniform(0, log(size + 1)))) - 1
    where = rng.random()
    place = near if where < 0.6 else size - 1 - near if where < 0.8 else int(rng.integers(max(size, 1)))
    return min(max(place, 0), max(size - 1, 0))


def _length(size: int, rng: Rng) -> int:
    """Length of a chunk, 1 .. size, short ones more often."""
    return int(np.exp(rng.uniform(0, log(max(size, 1)))))


def _flip_bits(content: bytes, _: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _number in range(int(rng.integers(1, 9)) if content else 0):
        changed[_place(len(content), rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _set_bytes(content: bytes, _: bytes, rng: Rng) -> bytes:
    at, count = _place(len(content), rng), int(rng.integers(1, 9))
    value = rng.bytes(count) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * count
    return (content[:at] + value + content[at + count :])[: len(content)]


def _letter(content: bytes, _: bytes, rng: Rng) -> bytes:
    """A character becomes another printable one, anywhere: for files that are text."""
    at = int(rng.integers(max(len(content), 1)))
    return (content[:at] + bytes([int(rng.integers(32, 127))]) + content[at + 1 :])[: len(content)]


def _cut(content: bytes, _: bytes, rng: Rng) -> bytes:
    return content[: _place(len(content), rng)]


def _insert(content: bytes, _: bytes, rng: Rng) -> bytes:
    at = _place(len(content), rng)
    new = _TOKENS[rng.integers(len(_TOKENS))] if rng.random() < 0.5 else rng.bytes(_length(4096, rng))
    return content[:at] + new + content[at:]


def _delete(content: bytes, _: bytes, rng: Rng) -> bytes:
    at = _place(len(content), rng)
    return content[:at] + content[at + _length(len(content) - at, rng) :]


def _duplicate(content: bytes, _: bytes, rng: Rng) -> bytes:
    at, to = _place(len(content), rng), _place(len(content), rng)
    return content[:to] + content[at : at + _length(len(content) - at, rng)] + content[to:]


def _zero(content: bytes, _: bytes, rng: Rng) -> bytes:
    at = _place(len(content), rng)
    count = min(_length(len(content) - at, rng), len(content) - at)
    return content[:at] + bytes(count) + content[at + count :]


def _extreme_field(content: bytes, _: bytes, rng: Rng) -> bytes:
    """A number of 1, 2, 4 or 8 bytes at the ends of its range."""
    size = int(rng.choice([1, 2, 4, 8]))
    bits = 8 * size
    value = int(
        rng.choice(np.array([0, 1, 2, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 2, 2**bits - 1], object))
    )
    at = _place(len(content), rng)
    at -= at % size if rng.random() < 0.5 else 0
    field = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return (content[:at] + field + content[at + size :])[: len(content)]


def _extreme_number(content: bytes, donor: bytes, rng: Rng) -> bytes:
    """A number written in digits, as in a table or in JSON, becomes another; a field where there is none."""
    found = list(_DIGITS.finditer(content[:65536]))
    if not found:
        return _extreme_field(content, donor, rng)
    number = found[int(rng.integers(len(found)))]
    return content[: number.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + content[number.end() :]


def _splice(content: bytes, donor: bytes, rng: Rng) -> bytes:
    at = _place(len(content), rng)
    return content[:at] + donor[at if rng.random() < 0.5 else _place(len(donor), rng) :]


_CHANGES: dict[str, Callable[[bytes, bytes, Rng], bytes]] = {
    "bits": _flip_bits,
    "bytes": _set_bytes,
    "letter": _letter,
    "cut": _cut,
    "insert": _insert,
    "delete": _delete,
    "duplicate": _duplicate,
    "zeros": _zero,
    "field": _extreme_field,
    "number": _extreme_number,
    "splice": _splice,
}
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
_NUMBERS = (b"0", b"-1", b"1", b"0.5", b"2147483648", b"9223372036854775808", b"1" * 40, b"1e999", b"NaN", b"null")
_TOKENS = (
    *(b"\0", b"\n", b"\r", b",", b";", b'"', b"'", b"\xff\xfe", b"\xc3", b"{", b"[", b"}", b"../../", b"/"),
    *(b"a" * 300, b"[" * 5000, b"RIFF", b"data", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"PK\x03\x04", b"\x89HDF"),
)

# Formats whose own checksums or lengths reveal nearly all damage, or have few bytes that matter: half of their inputs
# are damaged inside, and closed again, so that the code behind them is reached, too.
_Part = Callable[[bytes], bytes]


def _inside_ogg(content: bytes, change: _Part, rng: Rng) -> bytes:
    """The content of a page is changed in place, and the page's checksum is made to fit."""
    starts = [found.start() for found in re.finditer(b"OggS", content)]
    start = starts[min(int(rng.exponential(1.5)), len(starts) - 1)]
    end = min((other for other in starts if other > start), default=len(content))
    old = content[start:end]
    page = bytearray(old[:4] + change(old[4:]))[: len(old)]
    page += bytes(len(old) - len(page))
    page[22:26] = bytes(4)
    page[22:26] = _ogg_checksum(page).to_bytes(4, "little")
    return content[:start] + bytes(page) + content[end:]


def _ogg_checksum(page: bytes | bytearray) -> int:
    """CRC-32 with polynomial 0x04c11db7, neither reflected nor inverted (RFC 3533)."""
    checksum = 0
    for byte in page:
        checksum = ((checksum << 8) & 0xFFFFFFFF) ^ _OGG_CRC[(checksum >> 24) ^ byte]
    return checksum


def _ogg_crc_of(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = ((value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


_OGG_CRC = [_ogg_crc_of(byte) for byte in range(256)]


def _inside_zip(content: bytes, change: _Part, rng: Rng) -> bytes:
    """One member of the archive is changed, and the archive written again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(members)))
    members[name] = change(members[name])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return made.getvalue()


def _inside_hdf5(content: bytes, change: _Part, rng: Rng) -> bytes:
    """The content of one of HDF5's own tables is changed in place: they have no checksums."""
    starts = [found.end() for found in re.finditer(b"GCOL|TREE|HEAP|SNOD", content)]
    start = int(rng.choice(starts))
    old = content[start : start + 256]
    new = change(old)[: len(old)]
    return content[:start] + new + content[start + len(new) :]


def _inside_safetensors(content: bytes, change: _Part, rng: Rng) -> bytes:
    """The JSON at its head is changed, and the length before it is made to fit."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = change(content[8:end])
    return len(header).to_bytes(8, "little") + header + content[end:]


_CONTAINERS: dict[str, Callable[[bytes, _Part, Rng], bytes]] = {
    ".ogg": _inside_ogg,
    ".opus": _inside_ogg,
    ".h5": _inside_hdf5,
    ".npz": _inside_zip,
    ".safetensors": _inside_safetensors,
}
