"""The public Python interface: lazy, and as README shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unfreeze
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[1]


def test_import_alone_starts_neither_tensorflow_nor_numpy():
    code = "import sys, unfreeze; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", unfreeze.__all__)
def test_every_public_name_is_found_and_documented(name):
    assert getattr(unfreeze, name).__doc__


def test_unknown_name_is_an_attribute_error_that_lists_the_others():
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .*'train'"):
        _ = unfreeze.trian


def readme_program() -> str:
    section = (ROOT / "README.md").read_text().split("## From Python")[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_readme_example_runs_as_typed(coloured, tmp_path, monkeypatch, capsys):
    """With a folder of that name, and the network of tests in place of the flag file's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(coloured, "flowers")
    shutil.copy(coloured / "red" / "00.jpg", "rose.jpg")
    shutil.copy(coloured / "blue" / "00.jpg", "tulip.jpg")
    small = (
        *(f"--backbone={tiny.NAME}", "--weights=none", "--batch_size=8", "--augment=none"),
        *("--phase=head(epochs=1)", "--phase=top(trainable=top, epochs=1)", "--dropout=0"),
    )
    real = unfreeze.recipe_from_flags
    monkeypatch.setitem(vars(unfreeze), "recipe_from_flags", lambda *flags: real(*flags, *small))
    names: dict = {}
    exec(readme_program(), names)
    assert names["run"].classes == ("blue", "red")
    assert names["probabilities"].shape == (3, 2)
    np.testing.assert_allclose(names["probabilities"].sum(-1), 1, atol=1e-5)
    assert [row["phase"] for row in names["run"].history] == ["head", "top"]
    assert Path("exported/model.keras").is_file()
    assert "('blue', 'red') (3, 2)" in capsys.readouterr().out
