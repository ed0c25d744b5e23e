"""Output that can't be written: dropped, and remembered."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from engine.core.streams import lost_output, open_output


@pytest.fixture
def pipe():
    """A stream into a pipe, and the number of the end that reads it."""
    reader, writer = os.pipe()
    with open(writer, "w", encoding="ascii") as stream:
        yield stream, reader


def test_reader_that_goes_away_is_remembered(pipe):
    stream, reader = pipe
    output = open_output(stream)
    print("read", file=output)
    assert lost_output(output) is None
    os.close(reader)
    for _ in range(2):
        print("x" * 100_000, file=output, flush=True)
    assert lost_output(output).errno == errno.EPIPE


def test_output_resumes_where_there_is_room_again(tmp_path):
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    full = os.open("/dev/full", os.O_WRONLY)
    with open(tmp_path / "log", "w") as stream:
        output = open_output(stream)
        os.dup2(full, stream.fileno())
        print("lost", file=output, flush=True)
        os.dup2(file, stream.fileno())
        print("written", file=output, flush=True)
    assert (tmp_path / "log").read_text() == "written\n"
    assert lost_output(output).errno == errno.ENOSPC
    os.close(file)
    os.close(full)


def test_pipe_that_does_not_block_loses_nothing(pipe):
    stream, reader = pipe
    os.set_blocking(stream.fileno(), False)
    output, text = open_output(stream), "line\n" * 100_000
    thread = threading.Thread(target=lambda: print(text, end="", file=output, flush=True))
    thread.start()
    with open(reader) as lines:
        assert lines.read(len(text)) == text
    thread.join()
    assert lost_output(output) is None


def test_letter_unknown_to_the_stream_is_escaped(pipe):
    stream, reader = pipe
    print("B\xe4ume \udcff", file=open_output(stream), flush=True)
    assert os.read(reader, 100) == b"B\\xe4ume \\udcff\n"
    os.close(reader)
