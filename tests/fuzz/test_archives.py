"""Fuzz: the `.npz` files of a run, of record files and of the pixel cache."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core import digests
from engine.core.errors import UserError
from engine.runs import best_model, checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from pipelines.pixel_cache import store
from pipelines.pixel_cache.index import CacheIndex, stamp_images
from pipelines.sources import tfrecord_index
from pipelines.sources.examples import from_columns
from tests.engine.models.pickles import Call
from tests.fuzz.mutations import cases, unzipped, zip_cases, zipped
from tests.fuzz.streams import SIZES, record_files

# NumPy remarks that some of them look like those of its early versions.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

WEIGHTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64), np.zeros([0, 2])]
PROGRESS = TrainState(
    phase=1, step=300, best={"phase": "a", "val_loss": 0.1}, best_loss=0.1, spent={"seconds": 7.0},
    history=[{"epoch": 1, "val_loss": float("nan")}], phases=[{"name": "a"}],
)  # fmt: skip
TOKENS = [
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"'descr': '|O'", b"<f4"),
    *(b"(9999999999999,)", b"(", b"'<U400000000'", b"'|V0'", b"'|S0'", b"True", b"model/00000"),
    *(b"../", b"NaN", b"[[[[", b"{}", b'"step": ', b"}", b"]", b"-1", b"'<M8[s]'", b"[('a','O')]"),
]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _claiming(descr: str, count: int) -> bytes:
    """The head of an array file that says so much is to come."""
    buffer = io.BytesIO()
    head = {"descr": descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, head)
    return buffer.getvalue()


def _bomb(members: dict[str, bytes], name: str, descr: str) -> bytes:
    """An archive of which one member takes 4 GB when it is unpacked, and 4 MB before."""
    size = 0xFFFFFF00
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = _claiming(descr, size // np.dtype(descr).itemsize)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = bytearray(zipped(members | {name: start + block * 256 + packer.flush()}))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        local = file.getinfo(name).header_offset
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    for method, length in ((local + 8, local + 22), (directory + 10, directory + 24)):
        data[method : method + 2] = zipfile.ZIP_DEFLATED.to_bytes(2, "little")
        data[length : length + 4] = size.to_bytes(4, "little")
    return bytes(data)


def _odd(sample: bytes, name: str, descr: str, attack: Call) -> list[bytes]:
    """Archives that claim more than they have, or hold what is no array."""
    members = unzipped(sample)
    claims = [(descr, 10**10), (descr, 2**62), ("|S0", 2**40), ("|V0", 10**9), ("<U900000000", 9)]
    return [
        b"",
        bytes(len(sample)),
        _claiming(descr, 10**10),
        *(zipped(members | {name: _claiming(*claim)}) for claim in claims),
        *(zipped({**members, odd: b""}) for odd in ("/etc/passwd", "../../a.npy", "a" * 60_000)),
        zipped(members | {name: _npy(np.array([attack], object))}),
        zipped(members | {name: b"\x80\x04."}),
        zipped(members, zipfile.ZIP_LZMA),
        zipped(members | {name: b"\x93NUMPY\x01\x00\xff\x1f" + b"(" * 8191}),
        _bomb(members, name, descr),
    ]


def _judge_archive(judge, label: str, read: Any, sample: bytes, odd: list[bytes]) -> None:
    """Bytes that changed, which checksums find, and members that changed, which they can't."""
    assert judge(label, read, [sample], UserError) == (1, 0)
    judge(label, read, odd, UserError)
    judge(label, read, cases([sample], TOKENS, 50 * judge.times), UserError)
    judge(label, read, zip_cases([sample], TOKENS, 75 * judge.times), UserError)


@pytest.fixture
def attack(tmp_path):
    """Makes a folder where it is unpickled."""
    folder = tmp_path / "executed"
    yield Call(os.mkdir, str(folder))
    assert not folder.exists()


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.checkpoints.mkdir(parents=True)
    return directory


def test_fuzzed_checkpoint_is_read_or_passed_over(judge, run, attack):
    """A newer one that is broken is passed over; one that is read has numbers for progress."""
    before = checkpoints.save(run, TrainState(step=10), {"model": WEIGHTS})
    path = checkpoints.save(run, PROGRESS, {"model": WEIGHTS, "totals": []})
    (run.path / digests.NAME).unlink()  # it would tell first
    sample = path.read_bytes()
    passed_over = []

    def read(data: bytes) -> None:
        path.write_bytes(data)
        progress, arrays = checkpoints.load(run)
        assert type(progress.step) is type(progress.phase) is int
        assert all(isinstance(row, list) for row in (progress.history, progress.phases))
        passed_over.append(progress.step == 10 and "model" in arrays)

    many = ["model/00000"] * 200_000
    odd = _odd(sample, "values.npy", "|u1", attack)
    for value in ([many, {}], [[], {"step": "x"}], [[], []], [[], None], [[3], {}], [{}, {}], 3):
        text = np.frombuffer(str(value).replace("'", '"').replace("None", "null").encode(), "u1")
        odd.append(zipped(unzipped(sample) | {"values.npy": _npy(text)}))
    _judge_archive(judge, "checkpoint", read, sample, odd)
    assert sum(passed_over) > 100
    before.unlink()
    judge("checkpoint", read, zip_cases([sample], TOKENS, 6 * judge.times, seed=1), UserError)


def test_fuzzed_best_model_is_read_or_refused(judge, run, attack):
    values = {"classes": ["a", "b"], "phase": "x", "epoch": 1, "val_loss": 0.5}
    sample = checkpoints.pack({"model": WEIGHTS}, values)

    def read(data: bytes) -> None:
        run.best.write_bytes(data)
        arrays, found = best_model.load_best_model(run)
        assert all(name.upper() for name in found["classes"])
        checkpoints.restore([], arrays[:0], "here")

    odd = _odd(sample, "model/00000.npy", "<f4", attack)
    odd += [checkpoints.pack({"model": []}, {"classes": value}) for value in (None, 3, [3], "ab")]
    odd += [checkpoints.pack({"other": WEIGHTS}, values), checkpoints.pack({}, [])]
    _judge_archive(judge, "best.npz", read, sample, odd)


def test_fuzzed_record_index_is_read_or_rebuilt(judge, tmp_path, attack):
    """An index that can't be read, or lies, is rebuilt from the record files."""
    files = record_files(tmp_path)
    cache = tmp_path / "index.npz"
    right = tfrecord_index.index_records(files, "image", "label", str(cache))
    sizes = [os.path.getsize(file) for file in files]
    sample = cache.read_bytes()

    def read(data: bytes) -> None:
        cache.write_bytes(data)
        found = tfrecord_index.index_records(files, "image", "label", str(cache))
        assert found.dtype == right.dtype
        for file, offset, length in zip(
            found["file"], found["offset"], found["length"], strict=True
        ):
            assert 0 <= int(offset) <= int(offset) + int(length) <= sizes[file]

    far = right.copy()
    far["offset"], far["length"] = 2**62, 2**62
    odd = _odd(sample, "records.npy", "<i4", attack)
    odd.append(zipped(unzipped(sample) | {"records.npy": _npy(far)}))
    _judge_archive(judge, "index of records", read, sample, odd)
    assert len(right) == len(SIZES)


def test_fuzzed_pixel_index_is_read_or_passed_over(judge, tmp_path, attack):
    """A folder of the cache: opened, or passed over."""
    paths = [str(tmp_path / f"{number}.jpg") for number in range(5)]
    for path in paths:
        Path(path).write_bytes(path.encode())
    examples = from_columns(paths, [0] * 5, ("a",), keys=paths)
    stamps, changed, _ = stamp_images(paths, examples.offsets, examples.lengths)
    index = CacheIndex.of("how", examples, stamps, changed)
    index.facts["orientation"], index.reasons[3] = [1, 8, 1, 0, 6], "it is cut off"
    cache = tmp_path / "cache"
    writer = store.PixelWriter(cache, "how", stamps, (2, 2, 3))
    writer.publish(index)
    file = writer.path / store.INDEX

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for pixels in store.open_all(cache, "how", (2, 2, 3)):
            assert len(pixels.index.find_stamps(stamps)) == 5
            assert pixels.index.facts["orientation"].max() <= 8
            assert all(isinstance(reason, str) for reason in pixels.index.reasons)
        store.is_obsolete(writer.path, index)

    sample = file.read_bytes()
    odd = _odd(sample, "facts.npy", "|S16", attack) + _odd(sample, "paths.npy", "|u1", attack)
    _judge_archive(judge, "pixel index", read, sample, odd)
