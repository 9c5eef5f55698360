"""The machine's limits, read from real files laid out as the kernel does.

The layouts follow the kernel's Documentation/admin-guide/cgroup-v2.rst, its cgroup-v1/ and cgroups(7).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speedtrain import machine
from speedtrain.machine import (
    available_cores,
    bind_to_cores,
    core_numbers,
    free_memory,
    processor_name,
    total_memory,
)

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GIB = 1 << 30
UNLIMITED_V1 = str((1 << 63) - os.sysconf("SC_PAGE_SIZE"))
"""What version 1 shows where it sets no limit: the largest number of whole pages."""


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity of a larger machine, so that the limits of the groups are what binds."""
    monkeypatch.setattr(machine, "_affinity", lambda: list(range(16)))


def lay_out(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Writes /proc/self/cgroup and files below /sys/fs/cgroup, each with the line end that the kernel gives it."""
    for path, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": t for name, t in files.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("30000 10000", 3), ("max 100000", 16)],
)
def test_version_2_sets_a_quota_per_period(cpu_max: str, cores: int, tmp_path: Path) -> None:
    assert available_cores(lay_out(tmp_path, "0::/job", {"job/cpu.max": cpu_max})) == cores


def test_a_limit_of_a_group_around_binds_too(tmp_path: Path) -> None:
    files = {
        "machine.slice/cpu.max": "400000 100000",
        "machine.slice/memory.max": str(GIB),
        "machine.slice/job.scope/cpu.max": "max 100000",
        "machine.slice/job.scope/memory.max": "max",
        "machine.slice/job.scope/worker/cpu.max": "800000 100000",
        "machine.slice/job.scope/worker/memory.max": str(2 * GIB),
        "other.slice/cpu.max": "100000 100000",
        "other.slice/memory.max": "4096",
    }
    root = lay_out(tmp_path, "0::/machine.slice/job.scope/worker", files)
    assert available_cores(root) == 4
    assert total_memory(root) == min(GIB, PHYSICAL)


def test_the_top_group_has_no_limit(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "0::/", {"cgroup.controllers": "cpu memory"})
    assert available_cores(root) == 16
    assert total_memory(root) == PHYSICAL


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 16), ("250000", 2)])
def test_version_1_has_a_tree_per_controller(mounted: str, quota: str, cores: int, tmp_path: Path) -> None:
    files = {
        f"{mounted}/job/cpu.cfs_quota_us": quota,
        f"{mounted}/job/cpu.cfs_period_us": "100000",
        f"{mounted}/cpu.cfs_quota_us": "-1",
        f"{mounted}/cpu.cfs_period_us": "100000",
        "memory/job/memory.limit_in_bytes": str(GIB),
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
    }
    root = lay_out(tmp_path, "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job", files)
    assert available_cores(root) == cores
    assert total_memory(root) == min(GIB, PHYSICAL)


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "5:memory:/job", {"memory/job/memory.limit_in_bytes": UNLIMITED_V1})
    assert total_memory(root) == PHYSICAL


def test_of_both_versions_at_once_the_one_with_the_controller_counts(tmp_path: Path) -> None:
    files = {
        "unified/job/cgroup.procs": "1",
        "cpu,cpuacct/job/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "memory/job/memory.limit_in_bytes": str(GIB),
    }
    root = lay_out(tmp_path, "4:cpu,cpuacct:/job\n3:memory:/job\n0::/job", files)
    assert available_cores(root) == 3
    assert total_memory(root) == min(GIB, PHYSICAL)
    (root / "sys/fs/cgroup/unified/job/cpu.max").write_text("200000 100000\n")
    assert available_cores(root) == 2


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/docker/3f1c", {"cpu.max": "200000 100000", "memory.max": str(GIB)}),
        ("0::/../../kubepods/pod1", {"cpu.max": "200000 100000", "memory.max": str(GIB)}),
        (
            "4:cpu,cpuacct:/docker/3f1c\n3:memory:/docker/3f1c",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(GIB),
            },
        ),
    ],
)
def test_in_a_container_the_group_is_mounted_as_the_top(groups: str, files: dict[str, str], tmp_path: Path) -> None:
    root = lay_out(tmp_path, groups, files)  # the group's path is the host's, and is not there
    assert available_cores(root) == 2
    assert total_memory(root) == min(GIB, PHYSICAL)


def test_a_limit_above_what_the_machine_has_adds_nothing(tmp_path: Path) -> None:
    files = {"job/cpu.max": "6400000 100000", "job/memory.max": str(1000 * PHYSICAL)}
    root = lay_out(tmp_path, "0::/job", files)
    assert available_cores(root) == 16
    assert total_memory(root) == PHYSICAL


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == 16
    assert total_memory(tmp_path) == PHYSICAL


MIB = 1 << 20
AVAILABLE = "MemTotal:        3145728 kB\nMemFree:          131072 kB\nMemAvailable:    1048576 kB\nBuffers: 1 kB"
"""Of /proc/meminfo: 1 GiB is available."""


def test_free_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == PHYSICAL  # nothing says more
    root = lay_out(tmp_path, "0::/", {"cgroup.controllers": "cpu memory"})
    (root / "proc/meminfo").write_text(AVAILABLE)
    assert free_memory(root) == min(GIB, PHYSICAL)


def test_free_is_what_a_group_of_version_2_leaves(tmp_path: Path) -> None:
    files = {
        "machine.slice/memory.max": str(800 * MIB),
        "machine.slice/memory.current": str(600 * MIB),
        "machine.slice/memory.stat": f"anon {350 * MIB}\nfile {250 * MIB}\nactive_file {50 * MIB}\n"
        f"inactive_file {150 * MIB}\nshmem {50 * MIB}\ninactive_anon 7",
        "machine.slice/job/memory.max": "max",
        "machine.slice/job/memory.current": str(100 * MIB),
    }
    root = lay_out(tmp_path, "0::/machine.slice/job", files)
    (root / "proc/meminfo").write_text(AVAILABLE)
    assert free_memory(root) == 400 * MIB  # 200 of those used are of files; what is in /dev/shm stays
    (root / "sys/fs/cgroup/machine.slice/job/memory.max").write_text(f"{300 * MIB}\n")
    assert free_memory(root) == 200 * MIB
    (root / "sys/fs/cgroup/machine.slice/memory.current").write_text(f"{1200 * MIB}\n")
    assert free_memory(root) == 0


def test_free_is_what_a_group_of_version_1_leaves(tmp_path: Path) -> None:
    files = {
        "memory/job/memory.limit_in_bytes": str(800 * MIB),
        "memory/job/memory.usage_in_bytes": str(600 * MIB),
        # the group alone, and with all groups inside
        "memory/job/memory.stat": f"active_file 1\ninactive_file 2\ntotal_active_file {50 * MIB}\n"
        f"total_inactive_file {150 * MIB}",
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/memory.usage_in_bytes": str(100 * GIB),
    }
    root = lay_out(tmp_path, "5:memory:/job", files)
    assert free_memory(root) == 400 * MIB


def test_a_folder_is_in_memory_where_the_nearest_mount_is(tmp_path: Path) -> None:
    for name in ("plain", "quick/deep", "a b"):
        (tmp_path / name).mkdir(parents=True)
    top = str(tmp_path).replace(" ", "\\040")
    mounts = [
        "/dev/sda / ext4 rw 0 0",
        f"tmpfs {top}/quick tmpfs rw 0 0",
        f"tmpfs {top}/a\\040b ramfs rw 0 0",
        f"tmpfs {top}/plain tmpfs rw 0 0",
        f"/dev/sdb {top}/plain xfs rw 0 0",
    ]
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc/mounts").write_text("\n".join(mounts) + "\n")
    named = {name: machine.is_in_memory(tmp_path / name, root) for name in ("plain", "quick", "quick/deep", "a b", ".")}
    assert named == {"plain": False, "quick": True, "quick/deep": True, "a b": True, ".": False}
    assert not machine.is_in_memory(tmp_path, tmp_path / "nowhere")


def test_there_are_as_many_core_numbers_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_quotas", lambda root: iter([None, 3.5]))
    assert core_numbers() == [0, 1, 2]


@pytest.mark.skipif("not hasattr(__import__('os'), 'sched_setaffinity')")
def test_the_affinity_of_a_process_binds() -> None:
    one = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from speedtrain import machine as m"
    code += "; print(m.core_numbers(), m.available_cores())"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"[{one}] 1\n"


@pytest.mark.skipif("not hasattr(__import__('os'), 'sched_setaffinity')")
def test_a_process_is_bound_to_cores_and_one_that_has_ended_is_no_error() -> None:
    """A trial may end before it is bound."""
    one = max(os.sched_getaffinity(0))
    with subprocess.Popen(["sleep", "60"]) as process:
        bind_to_cores(process.pid, [one])
        assert os.sched_getaffinity(process.pid) == {one}
        process.kill()
    bind_to_cores(process.pid, [one])


def test_the_processor_has_a_name() -> None:
    assert processor_name()
