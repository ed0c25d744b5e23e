"""What a machine says of itself: the processor, the GPUs, the driver, the memory used."""

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

ROOT = Path(__file__).resolve().parents[3]
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
def test_processors_of_several_makers(cpuinfo, name, features):
    found_name, found = machines.describe_cpu(cpuinfo)
    assert found_name == name
    assert features <= set(found)
    assert set(found) <= set(re.findall(r"\w+", cpuinfo)), "nothing is made up"
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
def test_what_nvidia_smi_prints(output, driver, memory):
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


def test_nvidia_smi_is_asked_for_what_is_read(program, tmp_path):
    program(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked\necho 'A 1, 2, 3.4'\n")
    assert machines._run_nvidia_smi() == "A 1, 2, 3.4\n"
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0].split("=") == ["--query-gpu", "name,memory.total,driver_version"]
    assert asked[1].split("=") == ["--format", "csv,noheader,nounits"]


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\necho 'A 1, 2, 3.4'\nexit 9\n",
        "#!/no/such/interpreter\n",
        "#!/bin/sh\nexec sleep 600\n",
    ],
    ids=["fails", "broken", "hangs"],
)
def test_an_nvidia_smi_that_does_not_work(program, script, monkeypatch):
    monkeypatch.setattr(machines, "TIMEOUT_SECONDS", 0.5)
    program(script)
    assert machines._run_nvidia_smi() == ""


def test_no_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machines._run_nvidia_smi() == ""


def test_this_machine():
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


def test_gpus_are_told_with_their_memory(program, monkeypatch):
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
    program("#!/bin/sh\necho 'Tesla T4, 15360, 550.90.07'; echo 'NVIDIA L4, 23034, 550.90.07'\n")
    found = machines.describe_machine()
    assert found["gpus"] == [
        {"name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 23034 * 1024**2},
        {"name": "unknown", "compute_capability": None, "memory_bytes": None},
    ]
    assert (found["driver"], found["cuda"], found["cudnn"]) == ("550.90.07", "12.5.1", "9")


def test_without_a_gpu_there_is_no_cuda(monkeypatch, tmp_path):
    """TensorFlow's wheel names the CUDA that it was built for, whether or not it is in use."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machines.describe_machine()
    assert [found[key] for key in ("gpus", "driver", "cuda", "cudnn")] == [[], None, None, None]


def test_peak_memory_covers_what_was_used_and_given_back():
    block = bytearray(b"x" * 64 * 1024**2)
    size = len(block)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    del block
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert size < held
    assert held * 0.98 <= machines.peak_memory()["host"] <= most * 1.02


def test_peak_memory_of_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    used = {"GPU:0": {"current": 1, "peak": 7}, "GPU:1": {"current": 2, "peak": 9}}
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", used.__getitem__)
    peak = machines.peak_memory()
    assert (peak["gpu_0"], peak["gpu_1"]) == (7, 9)


def test_software_names_what_runs():
    import keras

    found = machines.describe_software()
    assert found["tensorflow"] == tf.__version__
    assert found["keras"] == keras.__version__
    assert found["python"] == sys.version.split()[0]


def test_describing_and_comparing_need_no_tensorflow():
    modules = "engine.runtime.hardware, engine.benchmark.cloud, engine.benchmark.compare"
    code = f"import sys, {modules}; print({{'tensorflow', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_memory_is_what_the_kernel_counts():
    mine = b"1" * 50_000_000
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    held = machines.resident_memory()
    assert abs(held - pages * resource.getpagesize()) < 5_000_000
    assert len(mine) < held <= machines.peak_memory()["host"]
