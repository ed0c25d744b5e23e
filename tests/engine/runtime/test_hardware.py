"""Descriptions of a machine: processor, GPUs, driver, memory in use."""

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from engine.runtime import hardware as machines

GIB = 1024**3

# Lines of /proc/cpuinfo as kernels print them, shortened; the two cores of the first differ.
AMD = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 2
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx2 avx512f avx512vl avx512_bf16 avx512_vnni

processor\t: 1
model name\t: Another
flags\t\t: fpu amx_bf16
"""
INTEL = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C: odd name
flags\t\t: avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8 avx2 avx512f
"""
GRAVITON3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimdhp cpuid sve asimdfhm svebf16 i8mm bf16 dgh rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features"),
    [
        (AMD, "AMD EPYC 9R14", {"avx2", "avx512f", "avx512_bf16", "avx512_vnni"}),
        (
            INTEL,
            "Intel(R) Xeon(R) Platinum 8488C: odd name",
            {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"},
        ),
        (GRAVITON3, "Arm Neoverse V1", {"asimdhp", "sve", "svebf16", "i8mm", "bf16"}),
        (GRAVITON3.replace("0xd40", "0xfff"), platform.machine(), {"sve", "bf16"}),
        ("", platform.machine(), set()),
    ],
)
def test_cpu_name_and_features_by_cpuinfo(cpuinfo, name, features):
    found_name, found = machines.describe_cpu(cpuinfo)
    assert found_name == name
    assert features <= set(found)
    assert set(found) <= set(re.findall(r"\w+", cpuinfo))
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("output", "driver", "memory"),
    [
        (
            "NVIDIA L4, 23034, 550.90.07\nNVIDIA L4, 23034, 550.90.07\n",
            "550.90.07",
            {"NVIDIA L4": 23034 * 1024**2},
        ),
        ("NVIDIA GH200, [N/A], 560.35.03\n", "560.35.03", {}),
        ("Tesla T4, 15360, [N/A]\n", None, {"Tesla T4": 15 * GIB}),
        ("No devices were found\n", None, {}),
        ("", None, {}),
        ("a,b\n\n,,\n", None, {}),
    ],
)
def test_nvidia_smi_output_is_parsed(output, driver, memory):
    assert machines.read_nvidia_smi(output) == (driver, memory)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of that content in place of nvidia-smi."""

    def put(script: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(script)
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\necho 'A 1, 2, 3.4'\nexit 9\n",
        "#!/no/such/interpreter\n",
        "#!/bin/sh\nexec sleep 600\n",
        None,
    ],
    ids=["fails", "broken", "hangs", "missing"],
)
def test_nvidia_smi_that_does_not_work_says_nothing(program, script, monkeypatch, tmp_path):
    monkeypatch.setattr(machines, "TIMEOUT_SECONDS", 0.5)
    if script:
        program(script)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert machines._run_nvidia_smi() == ""


def test_machine_is_described_as_by_system_programs():
    found = machines.describe_machine()
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found["memory_bytes"] == pytest.approx(int(total.group(1)) * 1024, rel=0.01)
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True)
    assert found["cores"] == int(cores.stdout)
    release = subprocess.run(["uname", "-sr"], capture_output=True, text=True, check=True)
    assert found["system"] == release.stdout.strip()
    assert found["cpu"]
    assert len(found["gpus"]) == len(tf.config.list_physical_devices("GPU"))
    assert json.loads(json.dumps(found)) == found


def test_gpus_are_described_with_their_memory(program, monkeypatch):
    """Two GPUs as TensorFlow lists them; nvidia-smi knows the memory of one, and a third one."""
    details = {
        "gpu:0": {"device_name": "NVIDIA L4", "compute_capability": (8, 9)},
        "gpu:1": {},
    }
    config = tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: list(details))
    monkeypatch.setattr(config.experimental, "get_device_details", details.__getitem__)
    build = {"cuda_version": "12.5.1", "cudnn_version": "9"}
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
    program(
        f"#!/bin/sh\n[ \"$*\" = '{' '.join(machines.QUERY)}' ] || exit 1\n"
        "echo 'Tesla T4, 15360, 550.90.07'; echo 'NVIDIA L4, 23034, 550.90.07'\n"
    )
    found = machines.describe_machine()
    assert found["gpus"] == [
        {"name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 23034 * 1024**2},
        {"name": "unknown", "compute_capability": None, "memory_bytes": None},
    ]
    assert (found["driver"], found["cuda"], found["cudnn"]) == ("550.90.07", "12.5.1", "9")


def test_machine_without_gpu_has_no_cuda(monkeypatch, tmp_path):
    """TensorFlow's wheel names the CUDA that it was built for, whether or not it is in use."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machines.describe_machine()
    assert [found[key] for key in ("gpus", "driver", "cuda", "cudnn")] == [[], None, None, None]


def test_resident_and_peak_memory_are_those_of_the_kernel():
    block = bytearray(b"x" * 64 * 1024**2)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    assert len(block) < held
    assert machines.resident_memory() == pytest.approx(held, abs=5e6)
    del block
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert held * 0.98 <= machines.peak_memory()["host"] <= most * 1.02


def test_peak_memory_of_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    used = {"GPU:0": {"current": 1, "peak": 7}, "GPU:1": {"current": 2, "peak": 9}}
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", used.__getitem__)
    peak = machines.peak_memory()
    assert (peak["gpu_0"], peak["gpu_1"]) == (7, 9)


def test_software_versions():
    import keras

    found = machines.describe_software()
    assert found["tensorflow"] == tf.__version__
    assert found["keras"] == keras.__version__
    assert found["python"] == sys.version.split()[0]
