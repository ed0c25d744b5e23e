"""Good bytes made bad. A seed and a number are a case: what failed once fails again."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

# What readers stumble over: ends of number ranges, bytes of other encodings, ends of lines.
EXTREMES = (
    *(b"\0", b"\0" * 8, b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" * 10, b"\x7f\xff\xff"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", "\u2028".encode(), b"\r", b"\n", b"\x1b[2J"),
    *(b"-1", b"9" * 400, b"9" * 5000, b"1e999", b"18446744073709551616", b"(" * 50, b"\x00\xd8"),
)
MOST = 1 << 17  # bytes that a case grows to: it is passed on again and again
Mutation = Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def cases(
    samples: Sequence[bytes], tokens: Sequence[bytes], count: int, seed: int = 0
) -> Iterator[bytes]:
    """`count` cases, each a sample that was changed once or a few times; tokens are put in."""
    for number in range(count):
        random = Random(f"{seed} {number}")
        data = random.choice(samples)
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            data = random.choice(MUTATIONS)(random, data, tokens, samples)[:MOST]
        yield data


def _slice(random: Random, data: bytes) -> tuple[int, int]:
    """Two places, more often near each other than far apart."""
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 2, 4, 8, 64, len(data))))


def flip(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """Some bits are others."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 16)) if data else 0):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """It ends too early, or begins too late."""
    place = random.randint(0, len(data))
    return data[:place] if random.random() < 0.8 else data[place:]


def remove(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    start, stop = _slice(random, data)
    return data[:start] + data[stop:]


def double(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """A part stands there twice, or many times."""
    start, stop = _slice(random, data)
    return data[:stop] + data[start:stop] * random.choice((1, 1, 2, 100)) + data[stop:]


def swap(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """Two neighbouring parts have changed places."""
    a, b, c = sorted(random.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def blank(random: Random, data: bytes, *_: Sequence[bytes]) -> bytes:
    """A part never came to the disk."""
    start, stop = _slice(random, data)
    return data[:start] + bytes(stop - start) + data[stop:]


def put_in(random: Random, data: bytes, tokens: Sequence[bytes], _: Sequence[bytes]) -> bytes:
    """A token or an extreme, between what is there or in its place."""
    word = random.choice(tokens if tokens and random.random() < 0.7 else EXTREMES)
    start = random.randint(0, len(data))
    return data[:start] + word + data[start + random.choice((0, len(word))) :]


def splice(random: Random, data: bytes, _: Sequence[bytes], samples: Sequence[bytes]) -> bytes:
    """The beginning of one and the end of another."""
    other = random.choice(samples)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


MUTATIONS: tuple[Mutation, ...] = (flip, cut, remove, double, swap, blank, put_in, put_in, splice)

# What a value of a JSON file may become; json writes and reads NaN, infinities and any integer.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, 2**64, 10**400, 1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "a", "\0", "a\nb", "\ud800", "~\0", "9" * 400),
    *("x" * 20_000, "\x1b[2J", "none", "rotate(30)", [], {}, [[]], [None], {"": None}),
)


def json_cases(samples: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """JSON texts with other values, keys that are gone, and keys that nobody knows."""
    for number in range(count):
        random = Random(f"{seed} {number}")
        value = json.loads(random.choice(samples))
        for _ in range(random.choice((1, 1, 2, 4))):
            value = _changed(random, value)
        yield json.dumps(value).encode()


def _changed(random: Random, value: Any) -> Any:
    """The value with one of its parts changed, or another in its place."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.1:
        return random.choice(VALUES)
    places = list(value) if isinstance(value, dict) else range(len(value))
    place, changed = random.choice(places), value.copy()
    what = random.random()
    if what < 0.1:
        del changed[place]
    elif what < 0.2 and isinstance(changed, dict):
        changed[random.choice(("", "a", "\ud800", "x\ny", "z" * 5000))] = changed[place]
    elif what < 0.2:
        changed *= random.choice((2, 50))
    else:
        changed[place] = _changed(random, changed[place])
    return changed


def zip_cases(
    samples: Sequence[bytes], tokens: Sequence[bytes], count: int, seed: int = 0
) -> Iterator[bytes]:
    """Archives whose checksums are right, with members that were changed, renamed or left out."""
    for number in range(count):
        random = Random(f"{seed} {number}")
        members = _members(random.choice(samples))
        chosen = random.choice(list(members))
        others = list(members.values())
        what = random.random()
        if what < 0.1:
            del members[chosen]
        elif what < 0.3:
            members[random.choice(list(members))] = members[chosen]
        elif what < 0.4:
            members[random.choice(("../a.npy", "/a.npy", "a", "ä\n", "a" * 9000))] = members[chosen]
        else:
            members[chosen] = next(cases([members[chosen], *others], tokens, 1, number))
        yield zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()
