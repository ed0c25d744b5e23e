"""Good bytes made bad. A seed and a number are a case: what failed once fails again."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

# What readers stumble over: ends of number ranges, bytes of other encodings, ends of lines.
EXTREMES = (
    *(b"\0", b"\0" * 8, b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" * 10, b"\x7f\xff\xff"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", "\u2028".encode(), b"\r", b"\n", b"\x1b[2J"),
    *(b"-1", b"9" * 400, b"9" * 5000, b"1e999", b"18446744073709551616", b"(" * 50, b"\x00\xd8"),
)
MOST = 1 << 17  # bytes that a case grows to: it is passed on again and again


def cases(
    samples: Sequence[bytes], tokens: Sequence[bytes], count: int, seed: int = 0
) -> Iterator[bytes]:
    """`count` cases, each a sample that was changed once or a few times; tokens are put in."""
    for number in range(count):
        random = Random(f"{seed} {number}")
        data = random.choice(samples)
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            data = _mutated(random, data, tokens, samples)[:MOST]
        yield data


def _mutated(
    random: Random, data: bytes, tokens: Sequence[bytes], samples: Sequence[bytes]
) -> bytes:
    """The bytes with one change; a stretch is more often short than long."""
    start = random.randint(0, len(data))
    stop = min(len(data), start + random.choice((1, 2, 4, 8, 64, len(data))))
    before, part, behind = data[:start], data[start:stop], data[stop:]
    match random.randrange(9):
        case 0:  # some bits flipped
            changed = bytearray(data)
            for _ in range(random.choice((1, 1, 2, 16)) if data else 0):
                changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
            return bytes(changed)
        case 1:  # cut off at the end or at the start
            return before if random.random() < 0.8 else part + behind
        case 2:  # removed
            return before + behind
        case 3:  # repeated once or many times
            return before + part * random.choice((2, 2, 3, 101)) + behind
        case 4:  # exchanged with what follows
            length = random.randint(0, len(behind))
            return before + behind[:length] + part + behind[length:]
        case 5:  # never written to the disk
            return before + bytes(len(part)) + behind
        case 6:  # continued by another sample
            other = random.choice(samples)
            return before + other[random.randint(0, len(other)) :]
    # A token or an extreme, between what is there or in its place.
    word = random.choice(tokens if tokens and random.random() < 0.7 else EXTREMES)
    return before + word + data[start + random.choice((0, len(word))) :]


# What a value of a JSON file may become; json writes and reads NaN, infinities and any integer.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, 2**64, 10**400, 1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "a", "\0", "a\nb", "\ud800", "~\0", "9" * 400),
    *("x" * 20_000, "\x1b[2J", "none", "rotate(30)", [], {}, [[]], [None], {"": None}),
)


def json_cases(samples: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """JSON texts with other values, keys that are gone, and unknown keys."""
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
        members = unzipped(random.choice(samples))
        chosen = random.choice(list(members))
        what = random.random()
        if what < 0.1:
            del members[chosen]
        elif what < 0.3:
            members[random.choice(list(members))] = members[chosen]
        elif what < 0.4:
            members[random.choice(("../a.npy", "/a.npy", "a", "ä\n", "a" * 9000))] = members[chosen]
        else:
            members[chosen] = next(cases([members[chosen], *members.values()], tokens, 1, number))
        yield zipped(members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def unzipped(data: bytes) -> dict[str, bytes]:
    """The members of an archive by their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of an archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()
