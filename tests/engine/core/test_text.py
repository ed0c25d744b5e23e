"""No cell is a formula to a spreadsheet, and what is none stays as it is."""

import os

import pytest

from engine.core import text as cells


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
def test_text(value, written):
    assert cells.text(value) == written


@pytest.mark.parametrize("name", ["=1.jpg", "-1", "+a", "@a", "a.jpg", "./a"])
def test_a_path_stays_the_path_of_the_same_file(name):
    found = cells.path(name)
    assert os.path.normpath(found) == os.path.normpath(name)
    assert found[0] not in "=+-@"
