"""Trials on a real Ray cluster of several nodes on this machine. One of the nodes is killed while it trains."""

import json
import os
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from speedtrain import UserError, ablate
from speedtrain.ablation.ray_engine import RayEngine
from speedtrain.cli import main
from speedtrain.config import resolve

ray = pytest.importorskip("ray")

SETTINGS = {"width": 8, "precision": "fp32", "batch_size": 64, "max_epochs": 8}
SWEEP = {"budget": 60, "data": "digits", "tricks": ["flip"], "seeds": 1, "settings": SETTINGS}


def training() -> set[int]:
    """Process ids of everything that trains here, but for what another process of pytest-xdist has started."""
    found, ours = set(), os.environ.get("PYTEST_XDIST_WORKER", "")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes().split(b"\0")
                theirs = next((e.decode() for e in environment if e.startswith(b"PYTEST_XDIST_WORKER=")), "=")
                if b"speedtrain.training.worker" in words and theirs.partition("=")[2] == ours:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def ancestors(pid: int) -> set[int]:
    """Process ids of the parent, its parent, and so on; none where the process is gone."""
    found: set[int] = set()
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.add(pid)
    return found


@pytest.fixture
def sweep_with_a_dead_node(cluster, tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """A sweep of two trials on three nodes. The node of the first one that trains is killed."""
    nodes = {cluster.add_node(num_cpus=1) for _ in range(3)}
    cluster.wait_for_nodes()
    started: set[int] = set()
    killed, over = threading.Event(), threading.Event()

    def kill_a_node_at_work() -> None:
        while not over.wait(0.2):
            started.update(training())
            at_work = {parent for pid in started for parent in ancestors(pid)}
            doomed = [node for node in nodes if node.all_processes["raylet"][0].process.pid in at_work]
            if doomed and not killed.is_set():
                nodes.remove(doomed[0])
                cluster.remove_node(doomed[0], allow_graceful=False)
                killed.set()

    watch = threading.Thread(target=kill_a_node_at_work)
    watch.start()
    try:
        table = ablate(**SWEEP, engine="ray", address=cluster.address, out=tmp_path / "ray")
    finally:
        over.set()
        watch.join()
    assert killed.is_set()
    assert len(started) > len(table)  # the trial of the dead node started again on another
    return tmp_path / "ray", table


def test_a_node_that_dies_costs_only_the_trials_on_it(
    sweep_with_a_dead_node: tuple[Path, pd.DataFrame], capsys
) -> None:
    out, table = sweep_with_a_dead_node
    assert len(table) == 2
    assert table["error"].isna().all()
    assert (table["threads"] == 1).all()
    for run in table["run"]:  # everything came back by Ray
        assert (out / run / "report.html").exists()
    assert not training()

    # as a sweep on this machine would be
    assert list(table["variant"]) == ["reference", "without flip"]
    assert set(table["seed"]) == {0}
    assert set(table["status"]) == {"finished"}
    assert list(table["run"]) == [f"trials/{name}/seed-0/run" for name in ("000-reference", "001-without-flip")]
    assert (table["accuracy"] > 0.5).all()
    assert table.attrs["comparisons"][0]["verdict"] == "too few seeds to conclude"
    for row in table.to_dict("records"):
        result = json.loads((out / str(row["run"]) / "result.json").read_text())
        assert result["accuracy"] == pytest.approx(row["accuracy"])
        assert result["wall_seconds"] < SWEEP["budget"] + 1
        assert ("flip" in result["tricks"]) == (row["variant"] == "reference")

    # a finished sweep is read again, here on this machine, by the other metric, without training
    written = (out / "trials/000-reference/seed-0/done.json").stat().st_mtime
    command = f"ablate --budget {SWEEP['budget']} --data digits --tricks flip --seeds 1 --threads 1".split()
    command += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    assert main([*command, "--out", str(out), "--resume", "--metric", "balanced_accuracy"]) == 0
    assert "too few seeds to conclude" in capsys.readouterr().out
    assert list(pd.read_csv(out / "ablation.csv")["accuracy"]) == pytest.approx(list(table["accuracy"]))
    assert (out / "trials/000-reference/seed-0/done.json").stat().st_mtime == written
    summary = json.loads((out / "ablation.json").read_text())
    more, less = (json.loads((out / run / "result.json").read_text())["balanced_accuracy"] for run in table["run"])
    assert summary["metric"] == "balanced_accuracy"
    assert summary["comparisons"][0]["difference"] == pytest.approx(more - less)


def test_each_trial_gets_the_cores_of_the_smallest_node(cluster) -> None:
    cluster.add_node(num_cpus=4)
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    with RayEngine(resolve(budget=9), cluster.address) as engine:
        assert (engine.threads, engine.at_once) == (2, 3)
    with RayEngine(resolve(budget=9, threads=3), cluster.address) as engine:
        assert (engine.threads, engine.at_once) == (3, 1)
    with pytest.raises(UserError, match="largest node"):
        RayEngine(resolve(budget=9, threads=5), cluster.address)


def test_no_cluster_at_the_address() -> None:
    with pytest.raises(UserError, match="no Ray cluster"):
        RayEngine(resolve(budget=9), "127.0.0.1:1")


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds where there is none
    with pytest.raises(UserError, match=r"speedtrain\[ray\]"):
        ablate(**SWEEP, engine="ray", out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
