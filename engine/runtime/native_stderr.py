"""Keeps what decoders print about broken images off the terminal: the program names the files.

libjpeg and libpng write their complaints to the error stream, without the name of the file.
A process of its own passes on everything else that native code writes there, so that nothing is
lost even where the system ends the program. Python's own error stream bypasses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys

from engine.core.streams import open_output

# The texts are those of jerror.h (libjpeg-turbo), pngerror.c (libpng), jpeg_mem.cc and png_io.cc.
NOISE = re.compile(
    rb"Corrupt JPEG data|Premature end of JPEG|Unsupported JPEG |Unsupported marker type"
    rb"|Quantization table 0x|Huffman table 0x|Bogus |Invalid JPEG file structure"
    rb"|Improper call to JPEG|Empty JPEG image|Empty input file|JPEG datastream contains"
    rb"|Input file read error|Inconsistent progression|Invalid (progressive|SOS) param"
    rb"|Invalid component ID|Invalid memory pool|Inconsistent component|Sampling factors too"
    rb"|Unsupported color conversion|Unknown Adobe color transform|Maximum supported image dim"
    rb"|Not a JPEG file|Warning: unknown JFIF|Duplicate component|Fractional sampling"
    rb"|Too many color components|Cannot quantize|Missing Huffman code|Scan script"
    rb"|Application transferred too (few|many) scanlines|Caution: quantization tables"
    rb"|libpng (error|warning): |[EIW]\d{4} .* (jpeg_mem|png_io|gif_io)\.cc:\d+\]"
)


def drop_decoder_noise() -> None:
    """Drops it from now on, unless Python's error stream is not that of the process."""
    try:
        if sys.stderr.fileno() != 2:
            return
    except (AttributeError, OSError):  # it is closed, or no file
        return
    sys.stderr.flush()
    terminal = _above_the_streams(os.dup(2))
    reader, writer = map(_above_the_streams, os.pipe())
    if os.fork() == 0:
        try:
            _filter_lines(reader, terminal)
        finally:
            os._exit(0)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = open_output(sys.stderr, terminal)


def _above_the_streams(descriptor: int) -> int:
    """The same open file at 3 or more: a program may be started without its streams."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _filter_lines(reader: int, terminal: int) -> None:
    """Runs until nobody writes any more; a signal to the whole group is for the others."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    # Somebody waits for the end of other streams, and locks end with their process: close all.
    first, second = sorted((reader, terminal))
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, os.sysconf("SC_OPEN_MAX"))
    with open(reader, "rb") as lines:
        for line in lines:
            if not NOISE.match(line):
                with contextlib.suppress(OSError):
                    os.write(terminal, line)
