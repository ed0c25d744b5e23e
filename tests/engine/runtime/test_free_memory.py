import contextlib
import gc
import os
import weakref

import pytest

from engine.runtime.free_memory import free_memory, frequent_collections


def machine(root, available, groups, files):
    """Writes a root folder with `proc` and `sys` as Linux shows them."""
    contents = {
        "proc/meminfo": f"MemTotal:  99 kB\nMemAvailable:  {available} kB\n",
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": content for name, content in files.items()},
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("", {}, 1024_000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, 1024_000),
        ("0::/\n", {"memory.max": "900\n", "memory.current": "500\n"}, 400),
        (
            "0::/a/b\n",
            {
                "a/memory.max": "900\n",
                "a/memory.current": "500\n",
                "a/memory.stat": "anon 7\ninactive_file 100\n",
                "a/b/memory.max": "max\n",
                "a/b/memory.current": "3\n",
            },
            500,
        ),
        # A container sees its own group at the top, whatever its path on the host.
        ("0::/host/path\n", {"memory.max": "90\n", "memory.current": "30\n"}, 60),
        (
            "5:cpu,memory:/a\n0::/\n",
            {
                "memory/a/memory.limit_in_bytes": "1000\n",
                "memory/a/memory.usage_in_bytes": "900\n",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "900\n",
            },
            150,
        ),
        ("0::/\n", {"memory.max": "10\n", "memory.current": "30\n"}, 0),
    ],
)
def test_free_memory_is_the_least_that_machine_and_groups_leave(tmp_path, groups, files, left):
    assert free_memory(machine(tmp_path, 1000, groups, files)) == left


def test_free_memory_is_below_that_of_this_machine():
    assert 0 < free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("often", [True, False])
def test_old_circles_are_collected_soon_in_the_block_alone(often):
    class Graph:
        def __init__(self):
            self.circle = self

    thresholds = gc.get_threshold()
    with frequent_collections() if often else contextlib.nullcontext():
        graph = Graph()
        gc.collect()  # to the oldest generation
        alive = weakref.ref(graph)
        del graph
        others = [[] for _ in range(20_000)]
        assert (alive() is None) == often
    assert len(others) == 20_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, 0)
