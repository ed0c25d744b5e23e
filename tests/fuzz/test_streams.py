"""Fuzz: record files, weight files of PyTorch, and what a cloud's metadata service answers."""

from __future__ import annotations

import pickletools
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from engine.benchmark import cloud
from engine.core.errors import UserError
from engine.models import torch_weights
from engine.runtime import cloud_metadata
from engine.runtime.cloud_metadata import UNAVAILABLE_ERRORS, requester
from pipelines.sources import tfrecord_index
from tests.engine.models import pickles
from tests.engine.models.pickles import part, plain, state, storage, tensor, whole
from tests.fuzz.mutations import cases
from tests.fuzz.streams import example, framed, headed, record_files

RECORD_TOKENS = [
    *(b"\x0a", b"\x12", b"\x1a", b"\x08", b"\x0b", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
    *(b"\xff\xff\xff\xff\x0f", b"image", b"label", framed(b""), framed(b"\x0a\x00")),
]


def test_fuzzed_record_file_is_indexed_or_refused(judge, tmp_path):
    """Bytes of a whole file, and bytes inside a record whose header is right."""
    file, nowhere = tmp_path / "records", str(tmp_path / "no folder" / "index")

    def read(data: bytes) -> None:
        file.write_bytes(data)
        found = tfrecord_index.index_records([str(file)], "image", "label", nowhere)
        assert np.all(found["offset"] + found["length"] <= len(data))

    samples = [Path(path).read_bytes() for path in record_files(tmp_path)]
    assert judge("record file", read, samples, UserError) == (len(samples), 0)
    odd = [b"", headed(2**63), headed(2**64 - 1), headed(10**10), headed(0) + bytes(4)]
    odd += [framed(b"\x0a\x00" * 50_000), framed(b"\x0a\x04\x0a\x02\x0a\x00" * 20_000)]
    judge("record file", read, [*odd, bytes(100_000)], UserError)
    assert all(
        judge("record file", read, cases(samples, RECORD_TOKENS, 75 * judge.times), UserError)
    )
    inside = [example(size, 3) for size in (0, 5, 200)]
    inputs = map(framed, cases(inside, RECORD_TOKENS, 75 * judge.times))
    assert all(judge("record file", read, inputs, UserError))


WEIGHTS = [
    whole(state(weight=tensor(), bias=tensor(offset=3, sizes=(3,), strides=(1,)))),
    whole(state(x=tensor(storage("HalfStorage"))), numbers=pickles.raw(pickles.SIX.astype("<f2"))),
    whole(state(), keys=(), numbers=b""),
]
LENGTHS = (b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\0" * 8, b"\x02")
OPERATIONS = [operation.code.encode("latin-1") for operation in pickletools.opcodes]
PICKLE_TOKENS = [
    *OPERATIONS,
    *(operation + length for operation in OPERATIONS for length in LENGTHS),
    *(b"cos\nsystem\n", b"(S'mkdir unfreeze_was_here'\nios\nsystem\n", b"c__builtin__\neval\n"),
    *(pickles.DICT, pickles.REBUILD, storage(), tensor(), part("a"), part(2**200), part((1, 2))),
]


def _programs(count: int) -> Iterator[bytes]:
    """Pickles put together by chance, operation by operation; those that fit are more frequent."""
    words = [part(value) for value in ("a", 1, 2**70, None, (), [], {}, ("a", 2), [1], {"a": 1})]
    words += [pickles.DICT, pickles.REBUILD, storage(), tensor(), b"q\0", b"h\0", b")R", b"(", b"t"]
    for number in range(count):
        random = Random(f"program {number}")
        body = random.choices([*words, *words, *PICKLE_TOKENS], k=random.randint(1, 60))
        yield whole(b"\x80\x02" + b"".join(body) + b".")


def _attacks() -> list[bytes]:
    """Pickles that would run a command, where the state dict should be, or before it, or after."""
    good = whole(state(a=tensor()))
    attacks = list(pickles.hostile().values())
    attacks += [
        b"\x80\x04\x95" + b"\xff" * 8 + b"\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
        b"\x80\x02\x83\x01\x00.",
        b"\x80\x02\x84\x01\x00\x00\x00.",
        b"\x80\x04cos\nsystem\n)}\x92.",
        b"\x80\x02" + state()[2:-1] + part({"__setstate__": 1}) + b"b.",
        b"\x80\x02" + b"]q\0" + b"(h\0h\0h\0e" * 10_000 + b".",
        b"\x80\x02]q\0h\0a.",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02(" + b"K\1" * 1000 + b"tq\0" + b"".join(
            b"(" + bytes((104, n)) * 50 + b"tq" + bytes((n + 1,)) for n in range(100)
        ) + b".",
    ]  # fmt: skip
    placed = [attack + good for attack in attacks] + [whole(attack) for attack in attacks]
    return placed + [good.replace(plain(["7"]), attack) for attack in attacks]


def test_fuzzed_weight_file_is_read_or_refused(judge, tmp_path, monkeypatch):
    """Arrays in proportion to the file, or a message; what an attack would make is not there."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "net.pth"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        arrays = torch_weights.read(file)
        assert sum(value.nbytes for value in arrays.values()) <= 4 * len(data)

    assert judge("weight file", read, WEIGHTS, UserError) == (len(WEIGHTS), 0)
    attacks = _attacks()
    assert judge("weight file", read, attacks, UserError) == (0, len(attacks))
    assert all(
        judge("weight file", read, cases(WEIGHTS, PICKLE_TOKENS, 75 * judge.times), UserError)
    )
    judge("weight file", read, _programs(75 * judge.times), UserError)
    assert not (tmp_path / pickles.MARKER).exists()


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ng6.xlarge",
    b"HTTP/1.0 200 OK\r\nServer: EC2ws\r\n\r\nprojects/1/machineTypes/n1-standard-4",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nTRUE\r\n0\r\n\r\n",
]
HTTP_TOKENS = [
    *(b"\r\n", b"\r\n\r\n", b":", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/9.9 ", b"200", b"302"),
    *(b"Location: http://127.0.0.1/\r\n", b"Content-Length: -1\r\n", b"Content-Length: 9e9\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n", b"-5\r\n", b" ", b"\t", b";"),
]
ODD_ANSWERS = [
    b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n" + b"a" * 100_000,
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000,
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nTRUE",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 70_000,
]


@pytest.fixture
def service() -> Iterator[socketserver.TCPServer]:
    """A server that answers every question with its `answer`, whatever that is."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(server.answer)

    class Quiet(socketserver.TCPServer):
        answer = b""

        def handle_error(self, *_: object) -> None:
            pass  # the client has heard enough

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fuzzed_metadata_service_is_answered_or_unavailable(judge, service):
    """Of every cloud: an instance type or none, a notice or none."""
    address = f"127.0.0.1:{service.server_address[1]}"
    questions = [*cloud.CLOUDS.values(), *cloud_metadata.CLOUDS_WITH_NOTICE.values()]

    def read(data: bytes) -> None:
        service.answer = data
        for question in questions:
            try:
                answer = question(requester(time.monotonic() + 5, address))
            except UNAVAILABLE_ERRORS:
                continue
            assert isinstance(answer, bool) or len(answer) <= 200

    assert judge("metadata service", read, [*ANSWERS, *ODD_ANSWERS])[0]
    assert judge("metadata service", read, cases(ANSWERS, HTTP_TOKENS, 25 * judge.times))[0]
