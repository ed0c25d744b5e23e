"""Describes the machine and its software, and measures the memory and the age of this process."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

# Instructions that decide which arithmetic is fast, by the kernel's names for x86 and Arm.
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimdhp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme"),
)

# Arm's kernel reports numbers, not a name; from Linux, arch/arm64/include/asm/cputype.h.
ARM_PARTS = {
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
    ("0x41", "0xd84"): "Arm Neoverse V3",
    ("0x41", "0xd8e"): "Arm Neoverse N3",
    ("0xc0", "0xac3"): "Ampere-1",
}

QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
TIMEOUT_SECONDS = 20  # nvidia-smi may have to wake up the driver
MIB = 2**20


def describe_machine() -> dict[str, Any]:
    """Returns processor, memory, GPUs and driver; None where unknown.

    `gpus` are those that TensorFlow uses, `cuda` and `cudnn` the versions it was built for.
    """
    import tensorflow as tf

    cpu, features = describe_cpu(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
    driver, memory = read_nvidia_smi(_run_nvidia_smi())
    gpus = tf.config.list_physical_devices("GPU")
    build = tf.sysconfig.get_build_info() if gpus else {}
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu,
        "cpu_features": features,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _machine_memory(),
        "gpus": [_gpu(detail, memory) for detail in details],
        "driver": driver,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
    }


def _gpu(detail: dict[str, Any], memory: dict[str, int]) -> dict[str, Any]:
    name = detail.get("device_name", "unknown")
    capability = detail.get("compute_capability")
    return {
        "name": name,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "memory_bytes": memory.get(name),
    }


def describe_cpu(cpuinfo: str) -> tuple[str, list[str]]:
    """Returns name and notable instructions of the first processor in /proc/cpuinfo."""
    values: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    part = (values.get("CPU implementer", ""), values.get("CPU part", ""))
    name = values.get("model name") or ARM_PARTS.get(part) or platform.machine()
    flags = (values.get("flags") or values.get("Features") or "").split()
    return name, [feature for feature in FEATURES if feature in flags]


def read_nvidia_smi(output: str) -> tuple[str | None, dict[str, int]]:
    """Returns the driver's version, and the memory in bytes by the GPU's name, where known.

    By name, not by number: CUDA_VISIBLE_DEVICES changes the numbers for TensorFlow only.
    """
    driver, memory = None, {}
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) != 3:
            continue
        name, mebibytes, version = (cell.strip() for cell in row)
        driver = version if version[:1].isdigit() else driver
        if mebibytes.isdecimal():  # else "[N/A]", where memory is shared with the processor
            memory[name] = int(mebibytes) * MIB
    return driver, memory


def device_memory() -> int:
    """Returns the bytes of the smallest GPU, or of the machine where there is none."""
    gpus = read_nvidia_smi(_run_nvidia_smi())[1].values()
    return min(gpus, default=_machine_memory())


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _run_nvidia_smi() -> str:
    """Returns its output; empty where there is no such program, or it fails or hangs."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *QUERY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def reset_peak_memory() -> None:
    """Restarts the measurement of `peak_memory`, where the system allows it."""
    import tensorflow as tf

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM; see proc(5)
    for index, _ in enumerate(tf.config.list_physical_devices("GPU")):
        tf.config.experimental.reset_memory_stats(f"GPU:{index}")


def peak_memory() -> dict[str, int]:
    """Returns the largest use since the last reset, in bytes: on the host and on each GPU."""
    import tensorflow as tf

    peak = {"host": _process_status("VmHWM:")}
    for index, _ in enumerate(tf.config.list_physical_devices("GPU")):
        peak[f"gpu_{index}"] = tf.config.experimental.get_memory_info(f"GPU:{index}")["peak"]
    return peak


def resident_memory() -> int:
    """Returns the bytes of this process that are in the host's memory now."""
    return _process_status("VmRSS:")


def _process_status(field: str) -> int:
    """Returns a field of proc_pid_status(5) in bytes; the kernel reports kB."""
    return int(Path("/proc/self/status").read_text().partition(field)[2].split()[0]) * 1024


def describe_software() -> dict[str, str]:
    """Returns the versions of Python and the packages that results depend on."""
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **versions}


def process_seconds() -> float:
    """Returns the seconds since this process was started, from proc_pid_stat(5)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
