"""Several networks in one budget: real processes, real kills."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import warm
from schedule import ends_late, progress_of
from small_disk import LIMITS_FILES
from small_model import same_bits

from speedtrain import load
from speedtrain.cli import main
from speedtrain.data import load_data
from speedtrain.model.weights import load_facts

SMALL = ["--data", "digits", "--set", "width=8", "--set", "precision=fp32", "--set", "batch_size=64"]
MEMBERS = "members=[{}, {with: mirror_equivariance, without: patch_whitening, test_time_augmentation.mode: shift}]"
NETWORKS = MEMBERS.partition("=")[2]
OPEN = ["--data", "digits", "--device", "cpu", "--threads", "2", "--set", "precision=fp32"]
OPEN += ["--set", f"or_members={{gain: 0.9, networks: {NETWORKS}}}"]
"""A recipe that leaves it to the planner whether members are trained, and makes them look good."""
SEVERAL_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
BUDGET = "9"  # the processes start warm
COLD = "14"


def start(
    warm_python: str, out: Path, budget: str = BUDGET, options: Sequence[str] = (*SMALL, "--set", MEMBERS)
) -> subprocess.Popen:
    command = [*warm.through(warm_python, "speedtrain"), "--budget", budget, *options, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def members_of(out: Path) -> dict[int, int]:
    """The number of each member whose process is there, by the log it writes to → its process id."""
    logs = {str(out / "members" / str(number) / "log.txt"): number for number in (1, 2)}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                stands_in = b"run" in words and warm.__file__.encode() in words
                if not stands_in and (log := os.readlink(entry / "fd" / "1")) in logs:
                    found[logs[log]] = int(entry.name)
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def finished(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two members, used by several tests."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    process = start(warm_python, out)
    said = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, said
    assert "each alone: " in said
    assert "with mirror_equivariance, without patch_whitening, test_time_augmentation.mode=shift" in said
    return out


def test_both_train_within_one_budget(finished: Path) -> None:
    result = result_of(finished)
    assert result["status"] == "finished"
    assert result["wall_seconds"] < float(BUDGET) + 0.5
    assert sum(result["phases"].values()) == pytest.approx(result["wall_seconds"], rel=0.01)
    first, second = result["members"]
    assert "patch_whitening" in first["tricks"]
    assert "mirror_equivariance" in second["tricks"]
    assert first["step"] + second["step"] == result["steps"]
    assert all(ends_late(progress_of(finished / "members" / number / "clock.csv")) for number in "12")
    assert result["accuracy"] >= max(0.5, min(first["accuracy"], second["accuracy"]))
    assert result["images_per_second"] == pytest.approx(first["images_per_second"] + second["images_per_second"], abs=1)
    assert "Networks trained at the same time" in (finished / "report.html").read_text()
    assert "2 networks whose answers are averaged" in (finished / "model_card.md").read_text()


def test_the_answer_is_the_mean_of_the_logarithms(finished: Path) -> None:
    images = load_data("digits").test.images[:300]
    together = load(finished)
    alone = [load(finished / "members" / number) for number in "12"]
    expected = np.mean([np.log(model.predict(images, exact=True).probabilities) for model in alone], axis=0)
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    predicted = together.predict(images, exact=True)
    np.testing.assert_allclose(predicted.probabilities, expected, rtol=1e-3, atol=1e-6)
    each = [model.predict(images, exact=True).probabilities for model in alone]
    np.testing.assert_allclose(predicted.of_members, each, rtol=1e-3, atol=1e-6)
    # and by the networks themselves, for one's own code
    logits = together.network(together.preprocess(images[:20])).detach().softmax(1).numpy()
    plain = together.predict(images[:20], augmented=False).probabilities
    np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-5)


def test_one_file_is_enough(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes((finished / "weights.safetensors").read_bytes())
    images = load_data("digits").test.images[:20]
    here, there = (load(path).predict(images).probabilities for path in (finished, tmp_path / "w"))
    np.testing.assert_array_equal(here, there)


def test_it_is_exported_as_one_program(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--run", str(finished), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]
    assert main(command) == 0, capsys.readouterr()


@pytest.mark.usefixtures("warm_processes")
def test_replay_ends_with_the_same_bits(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--run", str(finished), "--out", str(tmp_path / "again")]) == 0
    assert "bit for bit the same" in capsys.readouterr().out
    assert same_bits(finished, tmp_path / "again")


@pytest.mark.usefixtures("warm_processes")
def test_plan_shows_what_each_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--budget", "30", *SMALL, "--set", MEMBERS, "--set", "width=auto"]) == 0
    said = capsys.readouterr().out
    assert "network 1 of 2, the recipe" in said
    assert "network 2 of 2, with mirror_equivariance, without patch_whitening" in said
    assert len(re.findall(r"width +\d+", said)) >= 2


@SEVERAL_CORES
@pytest.mark.usefixtures("warm_processes")
def test_plan_shows_what_members_were_weighed_against(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--budget", "100", *OPEN]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 networks at once: their average is predicted \d+\.\d points better than one", said)
    assert said.index("measured (width") < said.index("network 1 of 2, the recipe")
    assert "network 2 of 2, with mirror_equivariance, without patch_whitening" in said


@pytest.mark.skipif(not LIMITS_FILES, reason="needs a file system of limited size")
@pytest.mark.usefixtures("warm_processes")
def test_a_full_disk_is_named_and_ends_in_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], check=True)
    try:
        assert main(["--budget", BUDGET, *SMALL, "--set", MEMBERS, "--out", str(disk / "run")]) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    said = "".join(capfd.readouterr())
    assert "No space left" in said
    assert "Traceback" not in said


def test_training_does_not_start_from_several_networks(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--budget", "9", "--data", "digits", "--from", str(finished)]) == 2
    assert "several networks" in capsys.readouterr().err


@pytest.mark.parametrize("victim", [1, 2])
def test_a_member_that_dies_costs_itself_alone(victim: int, warm_python: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    struck, over = [], threading.Event()

    def strike() -> None:
        while not over.wait(0.02):
            if (out / "members" / str(victim) / "weights.safetensors").exists():
                time.sleep(random.Random(victim).uniform(0, 1))
                struck.append(members_of(out)[victim])
                os.kill(struck[0], signal.SIGKILL)
                return

    watch = threading.Thread(target=strike)
    watch.start()
    process = start(warm_python, out)
    said = process.communicate(timeout=200)[0].decode()
    over.set()
    watch.join()
    assert struck
    assert process.returncode == 0, said
    assert f"member {victim}: killed by SIGKILL" in said
    assert f"member {victim} is left out" in said
    result = result_of(out)
    assert result["status"] == "finished"
    dead, alive = result["members"][victim - 1], result["members"][2 - victim]
    assert dead["accuracy"] is None
    assert alive["accuracy"] == result["accuracy"] > 0.5
    images = load_data("digits").test.images[:50]
    alone = load(out / "members" / str(3 - victim)).predict(images).probabilities
    np.testing.assert_array_equal(load(out).predict(images).probabilities, alone)
    assert "left out" in (out / "report.html").read_text()


@SEVERAL_CORES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("warm_processes")
def test_the_end_of_a_run_is_the_end_of_its_members(number: signal.Signals, warm_python: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # once with members that the planner takes in place of one network
    options = OPEN if number == signal.SIGTERM else (*SMALL, "--set", MEMBERS)
    process = start(warm_python, out, "120", options)
    end = time.monotonic() + 100
    while not (out / "weights.safetensors").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(members_of(out)) == 2
    while len(saved := load_facts(out / "weights.safetensors")["members"]) < 2 or saved[0]["progress"] < 0.05:
        assert time.monotonic() < end  # when they have begun at different instants, the later one may be far behind
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=100)[0].decode()
    end = time.monotonic() + 20
    while members_of(out):
        assert time.monotonic() < end
        time.sleep(0.05)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number, said
        result = result_of(out)
        assert result["status"] == "interrupted"
        assert result["wall_seconds"] < 100
        assert all(member["accuracy"] is not None for member in result["members"])
        assert result["plan"]["accuracy"] > 0.9  # the gain is in it
        assert len(result["plan"]["alternatives"]) >= 2  # widths of one network
        assert "points better than one" in said
        assert main(["replay", "--run", str(out), "--out", str(tmp_path / "again")]) == 0
        assert same_bits(out, tmp_path / "again")
    assert load(out).predict(load_data("digits").test.images[:3]).probabilities.shape == (3, 10)


def test_a_submission_trains_them_too(tmp_path: Path) -> None:
    options = [*SMALL[2:], "--set", MEMBERS, "--set", "max_epochs=5"]
    assert main(["package", "--out", str(tmp_path / "a.zip"), *options]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "a")
    description = (tmp_path / "a" / "DESCRIPTION.md").read_text()
    assert "1. the recipe" in description
    assert "- end: with the budget, or after 5 epochs" in description
    data = load_data("digits")
    np.savez(tmp_path / "train.npz", images=data.train.images, labels=data.train.labels)
    (tmp_path / "not_installed").mkdir()  # an organiser need not have what completes a recipe
    (tmp_path / "not_installed" / "jsonargparse.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "not_installed")}
    command = [sys.executable, "training.py", "--data", "../train.npz", "--net_sav", "w", "--budget", "90"]
    said = subprocess.run(command, cwd=tmp_path / "a", env=environment, check=True, capture_output=True).stdout.decode()
    seen = int(said.rpartition("images_seen: ")[2])
    assert 0 <= seen - 2 * 5 * len(data.train.images) < 2 * 64, "each network ends after its epochs"
    model = load(tmp_path / "a" / "w")
    assert len(model.members) == 2
    predicted = model.predict(data.test.images).probabilities.argmax(1)
    assert (predicted == data.test.labels).mean() > 0.5
