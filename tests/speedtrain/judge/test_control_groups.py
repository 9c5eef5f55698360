"""Control groups of version 2 in a tree of plain files: this kernel may have given its controllers to version 1."""

import os
from pathlib import Path

import pytest

from speedtrain.judge import control_groups
from speedtrain.judge.control_groups import Group, NoControlGroups, new_group
from speedtrain.judge.settings import Limits

LIMITS = Limits(seconds=5, memory=1600, disk=1 << 20, processes=10, cpus=(0,))
FILES = (
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "memory.events",
    "pids.max",
    "cpuset.cpus",
    "cgroup.procs",
)


class Tree:
    """A tree of groups. A group has its files as soon as it is made, and a process is in one group alone."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top, self.own = top, top.parent / "own"
        mkdir, write = Path.mkdir, control_groups._write

        def make(path: Path, *rest: object, **options: object) -> None:
            mkdir(path, *rest, **options)  # type: ignore[arg-type]
            if path.is_relative_to(top):
                for name in FILES:
                    (path / name).touch()

        def record(file: Path, value: object) -> None:
            if file.name == "cgroup.procs":
                for procs in top.rglob("cgroup.procs"):
                    procs.write_text(procs.read_text().replace(f"{value}\n", ""))
                file.write_text(f"{file.read_text()}{value}\n")
                self.own.write_text(f"0::/{file.parent.relative_to(top)}\n")
            elif file.name == "cgroup.subtree_control":
                if (file.parent / "cgroup.procs").read_text():
                    raise OSError(16, "busy", str(file))
                file.write_text(str(value).replace("+", ""))
            else:
                write(file, value)

        monkeypatch.setattr(Path, "mkdir", make)
        monkeypatch.setattr(control_groups, "_write", record)
        monkeypatch.setattr(control_groups, "_mounts", lambda kind: [(top, set())] if kind == "cgroup2" else [])
        monkeypatch.setattr(control_groups, "OWN_GROUPS", self.own)
        monkeypatch.setattr(Group, "joined", lambda group, command: command)
        top.mkdir()

    def enter(self, name: str, controllers: str, *others: int) -> Path:
        """A group that this process is in, with others."""
        group = self.top / name
        group.mkdir(parents=True)
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in (os.getpid(), *others)))
        self.own.write_text(f"0::/{name}\n")
        return group


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path / "cgroup", monkeypatch)


def test_every_group_lies_in_the_group_that_was_given(tree: Tree) -> None:
    own = tree.enter("run.scope", "cpuset cpu memory pids")
    for _ in range(3):
        group = new_group(LIMITS)
        assert {folder.parent for folder in group.folders.values()} == {own}
        assert group.bounds == ("memory", "processes", "cores")
    assert sorted(path.name for path in own.iterdir() if path.is_dir())[0] == "judge"
    assert (own / "judge" / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    folder = group.folders["memory"]
    written = {
        name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpuset.cpus")
    }
    assert written == {"memory.max": "1700", "memory.swap.max": "0", "pids.max": "18", "cpuset.cpus": "0"}


def test_what_systemd_gives_a_user_has_no_cores(tree: Tree) -> None:
    tree.enter("user.slice/run.scope", "cpu memory pids")
    assert new_group(LIMITS).bounds == ("memory", "processes")


def test_processes_of_others_are_not_moved_and_the_top_stays_as_it_is(tree: Tree) -> None:
    own = tree.enter("session.scope", "cpuset cpu memory pids", 1)
    with pytest.raises(NoControlGroups):
        new_group(LIMITS)
    assert (own / "cgroup.procs").read_text() == f"{os.getpid()}\n1\n"
    (tree.top / "cgroup.subtree_control").write_text("memory pids")
    group = new_group(LIMITS)
    assert group.folders["memory"].parent == tree.top
    assert (tree.top / "cgroup.subtree_control").read_text() == "memory pids"


@pytest.mark.parametrize(
    ("events", "killed"),
    [
        ("low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n", False),
        ("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n", True),
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n", False),  # the machine has no memory left
    ],
)
def test_a_kill_counts_where_the_group_had_reached_its_limit(tree: Tree, events: str, killed: bool) -> None:
    tree.enter("run.scope", "memory pids")
    group = new_group(LIMITS)
    (group.folders["memory"] / "memory.events").write_text(events)
    assert group.killed_for_memory == killed
