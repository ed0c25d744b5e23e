import json
import os

import pytest

from engine.core import text
from engine.core.text import byte_size, csv_cell, csv_path, duration, money, printable, shorten


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-cmd", "'-cmd"),
        ("\t=1", "'\t=1"),
        ("-1", "-1"),
        ("+2.5e3", "+2.5e3"),
        ("cat", "cat"),
        ("a=b", "a=b"),
        ("'=x", "'=x"),
        ("", ""),
    ],
)
def test_csv_cell_is_no_formula(value, written):
    assert csv_cell(value) == written


@pytest.mark.parametrize("name", ["=1.jpg", "-1", "+a", "@a", "a.jpg", "./a"])
def test_csv_path_names_the_same_file_and_is_no_formula(name):
    path = csv_path(name)
    assert os.path.normpath(path) == os.path.normpath(name)
    assert path[0] not in "=+-@"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        ("café.jpg", "café.jpg"),
        ("a\nb", "a\\nb"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
    ],
)
def test_printable_escapes_what_a_terminal_would_obey(name, shown):
    assert printable(name) == shown
    assert printable(name).isprintable()


@pytest.mark.parametrize("indent", [None, 2])
def test_json_text_escapes_every_control_character_and_keeps_letters(indent):
    controls = [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2028, 0xDC80, 0xE0001]
    value = {f"größe 犬🐱 {chr(code)}": ["\n", chr(code), 0.5, None] for code in controls}
    written = text.json_text(value, indent=indent)
    assert all(line.isprintable() for line in written.split("\n"))
    assert written.count("größe 犬🐱") == len(controls)
    assert json.loads(written.encode()) == value
    assert len(written.split("\n")) == len(json.dumps(value, indent=indent).split("\n"))


def test_printable_keeps_the_characters_asked_for():
    assert printable("1\xa0GB\n", keep="\xa0") == "1\xa0GB\\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (byte_size(12), "12 bytes"),
        (byte_size(999_600), "1 MB"),
        (byte_size(444_800_000), "445 MB"),
        (byte_size(1_973_559_296), "1.97 GB"),
        (byte_size(1.5e15), "1,500 TB"),
        (duration(0), "0 s"),
        (duration(59.4), "59 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(200), "3 min 20 s"),
        (duration(3599.4), "59 min 59 s"),
        (duration(3599.6), "1 h 0 min"),
        (duration(90_000), "25 h 0 min"),
        (money(0.010388), "0.0104"),
        (money(0.5), "0.500"),
        (money(1234.5), "1,234.50"),
        (money(0), "0.00"),
        (shorten("four", 4), "four"),
        (shorten("fives", 4), "fiv…"),
    ],
)
def test_number_as_text(text, expected):
    assert text == expected


def test_program_is_named_as_it_is_installed(monkeypatch, tmp_path):
    assert text.command_line("train", "--data_dir=a b") == "bin/train '--data_dir=a b'"
    monkeypatch.setattr(text, "_PROGRAMS", tmp_path)
    assert text.command_line("train") == "unfreeze train"
