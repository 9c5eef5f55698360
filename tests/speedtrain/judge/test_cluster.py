"""A judging on a real Ray cluster of several nodes on this machine, one of which is killed while it judges."""

import json
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from speedtrain.cli import main
from speedtrain.files import lock
from speedtrain.judge import sandbox, settings
from speedtrain.judge.cluster import FOLDERS, Slot, _clear_leftovers, latin_square
from speedtrain.judge.turns import Turn
from speedtrain.machine import available_cores

from .conftest import SANDBOX, board_of, command, submission

ray = pytest.importorskip("ray")

MORE = ("--runs", "2", "--sandbox", SANDBOX)


@pytest.mark.skipif(available_cores() < 2, reason="two places need two cores")
def test_a_node_that_dies_costs_nobody_a_run(
    cluster, data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = sorted((cluster.add_node(num_cpus=1) for _ in range(2)), key=lambda node: node.node_id)
    cluster.wait_for_nodes()
    out = tmp_path / "board"
    zips = [
        submission(tmp_path / "a.zip", name="a", training="time.sleep(1)"),
        submission(
            tmp_path / "b.zip",
            name="b",
            training="time.sleep(1)",  # so that there are runs left when both nodes have done one
            test="predicted[:] = 0; np.save(options.predictions, predicted)",
        ),
        submission(tmp_path / "c.zip", name="c", training="time.sleep(1); os._exit(3)"),
    ]
    over = threading.Event()

    def kill_a_node() -> None:
        """When both have done a run: the one that has done fewer, so that there are some left for it."""
        journal = out / "private" / "journal.jsonl"
        while not over.wait(0.05):
            lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
            ran = Counter(json.loads(line).get("node") for line in lines if line.endswith("\n"))
            del ran[None]
            if len(ran) == 2:
                _, place = min(ran, key=lambda name: ran[name]).rsplit("-", 1)
                cluster.remove_node(nodes[int(place) - 1], allow_graceful=False)
                return

    watch = threading.Thread(target=kill_a_node)
    watch.start()
    try:
        arguments = command(data, out, *zips, more=(*MORE, "--engine", "ray", "--address", cluster.address))
        arguments[arguments.index("--drift") + 1] = "1e9"
        assert main(arguments) == 0
    finally:
        over.set()
        watch.join()
    said = capsys.readouterr().err
    assert "2 runs at a time" in said
    assert "died; the others take over" in said
    lines = [json.loads(line) for line in (out / "private" / "journal.jsonl").read_text().splitlines()]
    runs = [line for line in lines[1:] if "run" in line]
    assert sorted((run["submission"], run["run"]) for run in runs) == [
        (key, number) for key in ("01-a", "02-b", "03-c") for number in (1, 2)
    ]
    assert all(run["speed_before"] > 0 for run in runs)
    assert len({run["node"] for run in runs}) == 2

    # the same board as one machine gives
    one = tmp_path / "one"
    assert main(command(data, one, *zips, more=MORE)) == 0
    here, there = board_of(one)["by_name"], board_of(out)["by_name"]
    for name in "abc":
        assert [run["failed"] for run in there[name]["runs"]] == [run["failed"] for run in here[name]["runs"]]
        assert there[name]["accuracy"] == here[name]["accuracy"]
        assert there[name]["rank"] == here[name]["rank"]
        assert (out / there[name]["runs"][0]["log"]).read_text() == (one / here[name]["runs"][0]["log"]).read_text()
    before = (out / "private" / "journal.jsonl").read_bytes()
    assert main(command(data, out, *zips, more=(*MORE, "--resume", "--drift", "1e9"))) == 0  # nothing is left
    capsys.readouterr()
    assert (out / "private" / "journal.jsonl").read_bytes() == before

    # what no node can give
    few = command(data, tmp_path / "few", *zips, more=(*MORE, "--engine", "ray", "--address", cluster.address))
    few[few.index("--cpus") + 1] = "2"
    assert main(few) == 2
    assert "no node has 2 cores for a run; the largest of 1 has 1 cores" in capsys.readouterr().err


def test_each_of_several_runs_on_a_node_has_cores_and_gpus_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    for module in (settings, sandbox):
        monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.setattr(settings, "core_numbers", lambda: [0, 2, 4, 6, 8])
    given = settings.Settings(60, 60, 1, 1 << 30, 1 << 30, 64, cpus=2, sandbox="bwrap", drift=1.0, gpus=1)
    limits = [given.limits(60, place) for place in (0, 1)]
    assert [each.cpus for each in limits] == [(0, 2), (4, 6)]
    control = ["nvidia-uvm", "nvidiactl"]
    for place, each in enumerate(limits):
        bound = sandbox.command(sandbox.Step(*step_in(tmp_path)), each, "bwrap", None)
        seen = {Path(word).name for word in bound if Path(word).parent == tmp_path and "nvidia" in word}
        assert seen == {f"nvidia{place}", *control}
    none = sandbox.command(sandbox.Step(*step_in(tmp_path)), replace(given, gpus=0).limits(60), "bwrap", None)
    assert not [word for word in none if "nvidia" in word]
    everything = sandbox.command(sandbox.Step(*step_in(tmp_path)), replace(given, gpus=None).limits(60), "bwrap", None)
    assert sum("nvidia" in word for word in everything) == 2 * 5


def test_what_killed_runs_left_on_a_node_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("left", "in-use"):
        (tmp_path / f"{FOLDERS}{name}" / "work").mkdir(parents=True)
        (tmp_path / f"{FOLDERS}{name}" / "lock").touch()
    with open(tmp_path / f"{FOLDERS}in-use" / "lock", "r+b") as file:
        assert lock(file)
        _clear_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == [f"{FOLDERS}in-use"]


def step_in(folder: Path) -> tuple:
    return folder / "source", "training.py", [], [], folder / "scratch", 0


def test_the_runs_of_everybody_are_spread_alike() -> None:
    slots = [Slot(str(number), f"node-{number}", 0) for number in range(3)]
    names = ["01-a", "02-b", "03-c", "04-late"]
    turns = [Turn(name, run) for run in range(1, 7) for name in names[:3]]
    turns += [turn for run in range(1, 7) for turn in (Turn("02-b", run, "", "04-late"), Turn("04-late", run))]
    square = latin_square(turns, names, slots)
    assert sorted(turn.stem for mine in square.values() for turn in mine) == sorted(turn.stem for turn in turns)
    for name in names:
        for mine in square.values():
            assert sum(turn.submission == name and not turn.control_for for turn in mine) == 2
    for mine in square.values():  # a late run and the one that it is compared with are on the same machine
        late = [turn.run for turn in mine if turn.submission == "04-late"]
        assert late == [turn.run for turn in mine if turn.control_for]
    first_turns = [next(slot for slot, mine in square.items() if Turn(name, 1) in mine) for name in names[:3]]
    assert len(set(first_turns)) == 3


def test_no_cluster(data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    zipped = submission(tmp_path / "a.zip")
    for words, message in (
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster can be reached there"),
        (["--address", "127.0.0.1:1"], "say --engine ray too"),
        (["--engine", "slurm"], "no such engine"),
    ):
        assert main(command(data, tmp_path / "board", zipped, more=(*MORE, *words))) == 2
        assert message in capsys.readouterr().err
    assert time.monotonic() - began < 120
    assert not (tmp_path / "board").exists()
