"""TensorFlow imported and configured: threads, determinism, memory growth, no chatter."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from engine.core.errors import UserError
from engine.runtime.captured_output import capture_native_stderr

# What Keras imports where it is installed, for wrappers and galleries that no command uses.
KERAS_EXTRAS = ("sklearn", "matplotlib", "scipy")
_skipped: set[str] = set()


def start_tensorflow(
    threads: int | None = None,
    deterministic: bool = False,
    inter_op_threads: int | None = 1,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Imports and configures TensorFlow; respects the settings of one that was started before.

    On a CPU the operations of a step run one after the other, each on all threads: two branches of
    a network adding up side by side would make gradients differ from run to run.

    Args:
      threads: CPU threads; None for all cores that the process may use.
      inter_op_threads: operations that may run side by side on a CPU; None where images are decoded
        on the threads beside a model that predicts, and nothing trains.
      log: receives a line for each setting that an earlier start of TensorFlow has fixed.

    Returns:
      the number of threads.

    Raises:
      UserError: no temporary folder can be written.
    """
    threads = threads or len(os.sched_getaffinity(0))
    _require_temporary_folder()
    imported_here = "tensorflow" not in sys.modules
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors stay
    with capture_native_stderr():
        _import_tensorflow()
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        logging.getLogger("absl").setLevel(logging.ERROR)  # TensorFlow Datasets logs its every step
        _set_threads(tf.config, threads, inter_op_threads or threads + 1, log)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        # What TensorFlow says once about the devices and about oneDNN, it says here.
        tf.transpose(tf.zeros([2, 2], tf.uint8))
    if imported_here:
        gc.freeze()  # a million objects that stay: Python need not look through them time and again
    return threads


def _require_temporary_folder() -> None:
    """TensorFlow looks for one as it is imported, and writes there what it converts to graphs."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            "no temporary folder can be written, and TensorFlow needs one; name one: TMPDIR=FOLDER"
        ) from None


def skip_keras_extras() -> None:
    """Has `start_tensorflow` import Keras without its extras: a third of the time is theirs.

    For a process of our own: in one with extras skipped, `keras.wrappers` does not work.
    """
    _skipped.update(KERAS_EXTRAS)


def _import_tensorflow() -> None:
    hidden: dict[str, Any] = dict.fromkeys(_skipped - sys.modules.keys())
    sys.modules.update(hidden)  # importing a module that is None there is an ImportError
    try:
        import tensorflow  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


def _set_threads(
    config: Any, threads: int, inter_op_threads: int, log: Callable[[str], None]
) -> None:
    gpus = config.list_physical_devices("GPU")
    try:
        config.threading.set_intra_op_parallelism_threads(threads)
        if not gpus:
            config.threading.set_inter_op_parallelism_threads(inter_op_threads)
    except RuntimeError:  # what TensorFlow raises once it has started
        current = (
            config.threading.get_intra_op_parallelism_threads(),
            config.threading.get_inter_op_parallelism_threads(),
        )
        log(
            f"TensorFlow was started before with threads={current[0]} (inter_op={current[1]}; 0 "
            f"for its own choice), which stays; threads={threads} holds for decoding alone"
        )
    for gpu in gpus:
        try:
            config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError):
            log(f"TensorFlow was started before without memory growth on {gpu.name}, which stays")


def list_gpus() -> list[str]:
    """The GPUs that TensorFlow sees, by its names for them."""
    import tensorflow as tf

    return [f"/gpu:{index}" for index, _ in enumerate(tf.config.list_logical_devices("GPU"))]


def prefetch_device() -> str | None:
    """Where batches are copied ahead: the GPU where there is exactly one, else None."""
    gpus = list_gpus()
    return gpus[0] if len(gpus) == 1 else None
