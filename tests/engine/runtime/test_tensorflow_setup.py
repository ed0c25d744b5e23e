"""TensorFlow configured as requested where it is fresh, and respected where it is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from engine.core.errors import UserError
from engine.runtime.child_process import module_environment
from engine.runtime.tensorflow_setup import start_tensorflow

FRESH = """
import os, sys
from engine.runtime.tensorflow_setup import list_gpus, start_tensorflow
before = "tensorflow" in sys.modules
threads = start_tensorflow(3, deterministic=True, log=print)
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled
print(before, threads, tf.config.threading.get_intra_op_parallelism_threads())
print(bool(list_gpus()), tf.config.threading.get_inter_op_parallelism_threads())
print(is_op_determinism_enabled())
os.write(2, b"errors are heard again")
"""

STARTED = """
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.zeros(1)
from engine.runtime.tensorflow_setup import start_tensorflow
print(start_tensorflow(3, log=print), tf.config.threading.get_intra_op_parallelism_threads())
tf.config.threading.set_intra_op_parallelism_threads(1)
"""


def output_of(code: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", code], env=module_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_fresh_tensorflow_starts_quietly_with_the_requested_settings():
    (threads, inter_op, deterministic), err = output_of(FRESH)
    assert threads == "False 3 3"
    assert inter_op in ("False 1", "True 0"), "one operation on a CPU, for the same bits each time"
    assert deterministic == "True"
    assert err == "errors are heard again"


def test_without_a_temporary_folder_one_line_names_the_variable(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(UserError, match=r"^no temporary folder .*; name one: TMPDIR=FOLDER$"):
        start_tensorflow()


def test_started_tensorflow_keeps_its_settings_and_says_so():
    lines, _ = output_of(STARTED)
    assert lines[0].startswith("TensorFlow was started before with threads=1 (inter_op=0; 0 for")
    assert lines[1:] == ["3 1"]
