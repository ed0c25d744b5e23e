"""Small files that want minutes or gigabytes, written byte by byte.

Each is as large as bin/serve accepts a file, or as small as its kind can be.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from tests.pipelines.encoded_images import COLOUR, bmp, chunk, png, saved

FILE_BYTES = 15_900_000  # bin/serve takes up to 16 MB
SIDE = 13_376  # pixels: the square is just allowed


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def progressive(
    scans: int, side: int = SIDE, spectrum: bytes = b"\x01\x3f\x00", components: int = 1
) -> bytes:
    """A JPEG whose scans say in a few bytes that nothing follows; grey with one component."""
    blocks = (-(-side // 8)) ** 2
    codes, numbers = bytes([1, *[0] * 15]), range(1, components + 1)
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\x01" * 64)
    frame = b"".join(bytes([number, 0x11, 0]) for number in numbers)
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, components) + frame)
    head += segment(0xC4, b"\x00" + codes + b"\x00") + segment(0xC4, b"\x10" + codes + b"\xe0")
    together = bytes([components]) + b"".join(bytes([number, 0]) for number in numbers)
    head += segment(0xDA, together + b"\0\0\0") + bytes(-(-blocks * components // 8))
    runs = "0".ljust(15, "1") * -(-blocks // 32_767)  # of 32,767 empty blocks each
    runs += "1" * (-len(runs) % 8)
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + (segment(0xDA, b"\x01\x01\x00" + spectrum) + data) * scans + b"\xff\xd9"


def one_component(scans: int) -> bytes:
    """A colour JPEG that is not progressive, its components in scans of their own."""
    whole = saved(COLOUR, "JPEG")
    return whole[: whole.index(b"\xff\xda")] + segment(0xDA, b"\1\1\0\0\x3f\0") * scans


def of_segments(count: int) -> bytes:
    """A JPEG file that begins with so many empty segments."""
    whole = saved(COLOUR, "JPEG")
    return whole[:2] + segment(0xE5, b"") * count + whole[2:]


def with_chunks(count: int, name: bytes = b"zTXt", body: bytes = b"a\0\0" + bytes(2**13)) -> bytes:
    """A PNG of one pixel, with so many chunks before its pixels."""
    whole = png(1, 1, 8, 2, b"\0\1\2\3")
    return whole[:33] + chunk(name, body) * count + whole[33:]


def unpacking(count: int, name: bytes = b"zTXt") -> bytes:
    """A PNG of one pixel whose compressed chunks unpack to 7.9 MB each."""
    start = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[name]
    return with_chunks(count, name, start + zlib.compress(bytes(7_900_000), 9))


def flat_png(side: int) -> bytes:
    """A PNG of black pixels of one bit."""
    return png(side, side, 1, 0, bytes((1 + -(-side // 8)) * side))


def too_many_pixels() -> bytes:
    """A PNG of one pixel, with data of billions."""
    packer = zlib.compressobj(9)
    packed = packer.compress(b"\0\1\2\3")
    while len(packed) < 2**20:
        packed += packer.compress(bytes(2**24))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", packed + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def gif_of_blocks(size: int, extensions: int) -> bytes:
    """A GIF that begins with extensions of blocks of one byte each."""
    blocks = size // (2 * extensions)
    extension = b"\x21\xfe" + b"\1a" * blocks + b"\0"
    whole = saved(COLOUR.quantize(4), "GIF")
    at = 13 + 3 * 2 ** (whole[10] % 8 + 1)
    return whole[:at] + extension * extensions + whole[at:]


def flat_gif(width: int, height: int, frames: int = 1) -> bytes:
    """A GIF of one colour in few bytes, each frame as large as the screen."""
    buffer = io.BytesIO()
    Image.new("P", (width, height)).save(buffer, "GIF")
    whole = buffer.getvalue()
    at = whole.index(b"\x2c", 13 + 3 * 2 ** (whole[10] % 8 + 1))
    return whole[:at] + whole[at:-1] * frames + b"\x3b"


def webp_animation(width: int, height: int, frames: int = 1) -> bytes:
    """An animation whose frames are of one pixel, on a canvas of any size."""

    def part(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    pixel = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = part(b"ANMF", bytes(16) + pixel)
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + part(b"VP8X", b"\2\0\0\0" + canvas) + part(b"ANIM", bytes(6))
    return b"RIFF" + struct.pack("<I", len(body) + len(frame) * frames) + body + frame * frames


def webp_of_chunks(count: int) -> bytes:
    """A WebP file whose image comes behind so many empty chunks."""
    image = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    head = b"VP8X" + struct.pack("<I", 10) + b"\x08" + bytes(9)
    body = b"WEBP" + head + (b"junk" + bytes(4)) * count + image
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of_one_row(width: int) -> bytes:
    head = bmp(24, [b""])
    return head[:18] + struct.pack("<ii", width, 1) + bmp(24, [bytes(3 * width)])[26:]


def all_bombs() -> dict[str, bytes]:
    """Every kind, by the name of a file: what must be refused, and the heaviest that need not."""
    whole = saved(COLOUR, "JPEG")
    return {
        "scans_14.jpg": progressive(14),
        "scans_20.jpg": progressive(20),
        "scans_refining.jpg": progressive(20, SIDE, b"\x01\x3f\x10"),
        "scans_million.jpg": progressive(10**6, 8),
        "scans_of_one_component.jpg": one_component(FILE_BYTES // 10),
        "four_components.jpg": progressive(1, components=4),
        "segments.jpg": of_segments(FILE_BYTES // 4),
        "filling.jpg": whole[:2] + b"\xff" * FILE_BYTES + whole[2:],
        "texts_16.png": unpacking(16),
        "texts_990.png": unpacking(990),
        "international_texts.png": unpacking(990, b"iTXt"),
        "profiles.png": unpacking(500, b"iCCP"),
        "plain_texts.png": with_chunks(FILE_BYTES // 14, b"tEXt", b"a\0"),
        "empty_data.png": with_chunks(FILE_BYTES // 12, b"IDAT", b""),
        "palettes.png": with_chunks(FILE_BYTES // 20, b"sPLT", b"a\0\x08" + bytes(5)),
        "one_bit.png": flat_png(SIDE),
        "square_of_50000.png": flat_png(50_000),
        "row_of_million.png": png(10**6, 1, 8, 2, bytes(3 * 10**6 + 1)),
        "too_many_pixels.png": too_many_pixels(),
        "blocks.gif": gif_of_blocks(FILE_BYTES, 32),
        "frames.gif": flat_gif(4_000, 4_000, 1_000),
        "canvas.webp": webp_animation(6_600, 6_600),
        "canvas_of_33.webp": webp_animation(5_700, 5_700),
        "canvas_too_large.webp": webp_animation(16_000, 16_000),
        "frames.webp": webp_animation(1, 1, FILE_BYTES // 60),
        "chunks.webp": webp_of_chunks(FILE_BYTES // 8),
        "flat.webp": saved(Image.new("RGB", (16_383, 10_900)), "WEBP", lossless=True),
        "row.bmp": bmp_of_one_row(10**5),
    }  # fmt: skip
