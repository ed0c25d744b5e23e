"""What a program does around its work: errors as one line, TensorFlow without noise, threads."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import logging

from engine.cli import flags
from engine.core.errors import UserError
from engine.runtime import background, native_stderr, preemption
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from pipelines.pixel_cache import store
from pipelines.pixel_cache.store import CacheLocation

INTERRUPTED = 130  # what shells give for SIGINT
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: no failure, to be started again


def main(work: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake is one line on the error stream and no traceback."""
    program = _name()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        work(sys.argv)
        _flush()  # here, where a reader that has gone away is no surprise
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, flags.FlagError) else 1) from None
    except ShutdownRequested as error:
        print(
            f"{program}: stopped by {error}; started again without --overwrite it goes on",
            file=sys.stderr,
        )
        raise SystemExit(STOPPED) from None
    except KeyboardInterrupt:
        background.over()
        print(f"{program}: interrupted; the same command starts it again", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _to_nobody()
        raise SystemExit(1) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _to_nobody()
        raise UserError(
            f"its last words can't be written ({error.strerror}); make room where they go"
        ) from None


def _to_nobody() -> None:
    """Else Python would try once more to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _name() -> str:
    """Of the program."""
    return Path(sys.argv[0]).name


def stop(preemption_signal: str | None, watch_preemption: bool) -> Shutdown:
    """What ends a run: Ctrl-C, the system, a scheduler by a signal of its own, the cloud."""
    asked = Shutdown(background.over)
    own = [signal.Signals[preemption_signal]] if preemption_signal else []
    asked.on([signal.SIGINT, signal.SIGTERM], own)
    if watch_preemption and not preemption.watch(asked.interrupt):
        print(
            f"{_name()}: --watch_preemption: neither AWS nor Google answers here; asked again "
            f"every {preemption.POLL_SECONDS:g} s",
            file=sys.stderr,
        )
    return asked


def start_tensorflow(
    threads: int | None = None, deterministic: bool = False, at_once: int | None = 1
) -> int:
    """Imports and configures TensorFlow; gives the number of threads.

    On a CPU the operations of a step run one after the other, each on all threads: two branches of
    a network adding up side by side would make gradients differ from run to run.

    Args:
      at_once: operations that may run side by side on a CPU; None where images are decoded on
        the threads beside a model that answers, and nothing trains.
    """
    threads = threads or len(os.sched_getaffinity(0))
    native_stderr.hush()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors stay
    logging.set_verbosity(logging.ERROR)  # TensorFlow Datasets thinks aloud
    with _stderr_kept_back():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            at_once = threads + 1 if at_once is None else at_once
            tf.config.threading.set_inter_op_parallelism_threads(at_once)
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        # What TensorFlow says once about the devices and about oneDNN, it says here.
        tf.transpose(tf.zeros([2, 2], tf.uint8))
    gc.freeze()  # a million objects that stay: Python need not look through them again and again
    return threads


def cache_dir(parsed: flags.Parsed) -> Path | None:
    """What `--cache_dir` names; None for nowhere on the disk."""
    folder = parsed.cache_dir or str(store.default_folder())
    return None if folder == "none" else Path(folder).expanduser()


def place(parsed: flags.Parsed) -> CacheLocation:
    """Where `--cache_dir` and `--cache_memory` let things be kept."""
    memory = store.default_memory() if parsed.cache_memory is None else parsed.cache_memory
    return CacheLocation(cache_dir(parsed), memory, background.give_way)


def gpus() -> list[str]:
    """Those that TensorFlow sees, as it names them."""
    import tensorflow as tf

    return [f"/gpu:{place}" for place, _ in enumerate(tf.config.list_logical_devices("GPU"))]


def device() -> str | None:
    """Where batches are copied ahead: the GPU, where there is one and only one."""
    return gpus()[0] if len(gpus()) == 1 else None


@contextmanager
def outputs_kept_back() -> Iterator[None]:
    """Keeps what libraries and native code print, and shows it only if the block fails."""
    sys.stdout.flush()
    with _kept_back((1, 2, sys.stderr.fileno())):
        yield


@contextmanager
def _stderr_kept_back() -> Iterator[None]:
    """As `outputs_kept_back`, of what native code writes to the error stream."""
    with _kept_back((2,)):
        yield


@contextmanager
def _kept_back(streams: Iterable[int]) -> Iterator[None]:
    """What is written to these descriptors is shown only if the block fails.

    One that is asked to end has not failed.
    """
    sys.stderr.flush()
    terminals = {stream: os.dup(stream) for stream in dict.fromkeys(streams)}
    with tempfile.TemporaryFile() as kept:
        for stream in terminals:
            os.dup2(kept.fileno(), stream)
        try:
            yield
        except Exception:
            sys.stdout.flush()
            kept.seek(0)
            os.write(terminals[2], kept.read())
            raise
        finally:
            sys.stdout.flush()
            for stream, terminal in terminals.items():
                os.dup2(terminal, stream)
                os.close(terminal)
