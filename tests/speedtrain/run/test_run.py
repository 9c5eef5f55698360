"""Whole runs on real images (scikit-learn's digits), under the real clock, with real kills."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import warm
from PIL import Image
from schedule import ends_late, progress_of
from sklearn.datasets import load_digits
from small_disk import LIMITS_FILES
from small_model import same_bits

from speedtrain import train
from speedtrain.cli import main
from speedtrain.model.weights import load_weights, save_weights
from speedtrain.run import execute
from tricks import TRICKS

SMALL = ["--data", "digits", "--set", "width=8", "--set", "precision=fp32", "--set", "batch_size=64"]
FEW_EPOCHS = ["--set", "max_epochs=2"]
"""Where a test is not about the clock: the budget is then what a busy machine needs at most."""


def start(out: Path, budget: float, *more: str, warm_python: str | None = None) -> subprocess.Popen:
    """The command, in a session of its own so that a signal goes where it is sent."""
    command = [sys.executable, "-m", "speedtrain"]
    if warm_python is not None:
        command = warm.through(warm_python, "speedtrain")
    command += ["--budget", str(budget), *SMALL, "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def run_here(out: Path, budget: float, *more: str) -> int:
    """The command from this process, which has imported already what checks and scores; training is in one of its own.

    Returns:
        Its exit code.
    """
    return main(["--budget", str(budget), *SMALL, "--out", str(out), *more])


def finish(process: subprocess.Popen, seconds: float = 200) -> tuple[int, str]:
    said = process.communicate(timeout=seconds)[0].decode()
    return process.returncode, said


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def workers_of(out: Path) -> list[int]:
    """Process ids of the training processes of this run, by the log they write to; not those that stand in for one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                trains = b"speedtrain.training.worker" in words or b"serve" in words
                stands_in = b"run" in words and warm.__file__.encode() in words
                if trains and not stands_in and os.readlink(entry / "fd" / "1") == str(out / "log.txt"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def commandline(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_sound(out: Path, result: dict) -> None:
    """What was saved is whole, and the score is that of the stored predictions."""
    state, facts = load_weights(out / "weights.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in state.values())
    assert facts["step"] > 0
    with np.load(out / "predictions.npz") as stored:
        probabilities, predicted = stored["probabilities"], stored["predicted"]
    assert probabilities.dtype == np.float32
    assert predicted.dtype == np.int64
    assert probabilities.shape == (result["num_test_images"], 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    assert 0 <= result["accuracy"] <= 1
    low, high = result["accuracy_interval"]
    assert low <= result["accuracy"] <= high
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ordinary run, used by several tests."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    code, said = finish(start(out, 11))
    if "too small to take a single step" in said:  # a slow machine, or a busy one
        shutil.rmtree(out)
        code, said = finish(start(out, 40))
    assert code == 0, said
    return out


def test_a_run_ends_in_time_and_writes_everything(finished: Path) -> None:
    result = result_of(finished)
    assert result["status"] == "finished"
    assert result["budget_seconds"] - 2.5 < result["wall_seconds"] < result["budget_seconds"] + 0.5
    assert sum(result["phases"].values()) == pytest.approx(result["wall_seconds"], rel=0.01)
    assert not result["all_epochs"]
    assert_sound(finished, result)
    assert result["accuracy"] > 0.25  # a tenth would be chance
    assert result["accuracy_on"] == "holdout"
    assert result["data"]["num_train"] + result["num_test_images"] == len(load_digits().target)
    assert result["images_seen"] == pytest.approx(result["epochs"] * result["data"]["num_train"], rel=0.01)
    for key in (
        "schema",
        "budget_seconds",
        "tricks",
        "plan",
        "images_per_second",
        "seed",
        "device",
        "versions",
        "command",
    ):
        assert key in result
    with open(finished / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert ends_late(progress_of(finished / "clock.csv"))
    assert float(rows[-1]["lr"]) < 0.2 * max(float(row["lr"]) for row in rows)
    assert int(rows[-1]["step"]) == result["steps"]


def test_accuracy_is_that_of_the_predictions(finished: Path) -> None:
    """Against the labels of scikit-learn itself: the holdout is found again by its images' predictions' count."""
    from speedtrain.data import load_data

    result = result_of(finished)
    labels = load_data("digits").test.labels
    with np.load(finished / "predictions.npz") as stored:
        predicted = stored["predicted"]
    assert (predicted == labels).mean() == pytest.approx(result["accuracy"])
    of_each = [(predicted[labels == label] == label).mean() for label in range(10)]
    assert result["class_accuracy"] == pytest.approx(of_each)
    card = (finished / "model_card.md").read_text()
    assert f"**{100 * result['accuracy']:.1f}" in card


@pytest.mark.usefixtures("warm_processes")
def test_replay_ends_with_the_same_bits(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--run", str(finished), "--out", str(tmp_path / "again")]) == 0
    assert "bit for bit the same" in capsys.readouterr().out
    assert same_bits(finished, tmp_path / "again")
    again = result_of(tmp_path / "again")
    assert again["replay_of"] == str(finished)
    assert again["plan"]["resolutions"] == result_of(finished)["plan"]["resolutions"]
    assert "by the log" in (tmp_path / "again" / "report.html").read_text()


@pytest.mark.usefixtures("warm_processes")
def test_replay_tells_when_the_bits_differ(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(finished, altered)
    lines = (altered / "clock.csv").read_text().splitlines()
    step, _, *rest = lines[10].split(",")
    lines[10] = ",".join([step, "0.5", *rest])
    (altered / "clock.csv").write_text("\n".join(lines) + "\n")
    state, facts = load_weights(altered / "weights.safetensors")
    save_weights(altered / "weights.safetensors", state, {**facts, "step": 12})  # that much is enough to differ
    assert main(["replay", "--run", str(altered), "--out", str(tmp_path / "again")]) == 1
    assert "NOT the same" in capsys.readouterr().out


def test_predict_gives_what_scoring_gave(finished: Path, tmp_path: Path) -> None:
    from speedtrain.data import load_data

    np.savez(tmp_path / "images.npz", images=load_data("digits").test.images)
    command = ["predict", "--run", str(finished), "--images", str(tmp_path / "images.npz")]
    assert main([*command, "--out", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz") as ours, np.load(finished / "predictions.npz") as theirs:
        np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-5)


def test_predict_goes_on_without_unreadable_files(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    for name in "bd":
        Image.new("RGB", (40, 30), "red").save(tmp_path / "new" / f"{name}.png")
    for name in "ac":
        (tmp_path / "new" / f"{name}.png").write_bytes(b"no image")
    command = ["predict", "--run", str(finished), "--images", str(tmp_path / "new"), "--no-cache"]
    assert main([*command, "--out", str(tmp_path / "p.npz")]) == 1
    with np.load(tmp_path / "p.npz") as ours:
        assert ours["files"].tolist() == ["b.png", "d.png"]
        assert ours["unreadable"].tolist() == ["a.png", "c.png"]
        assert len(ours["probabilities"]) == len(ours["predicted"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "cannot be read as an image" in line]
    assert [line.partition(":")[0] for line in lines] == ["a.png", "c.png"]


@pytest.mark.usefixtures("warm_processes")
def test_the_saved_configuration_runs_again(finished: Path, tmp_path: Path) -> None:
    command = ["--recipe", str(finished / "config.yaml"), "--budget", "60", "--set", "max_epochs=2"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    first, second = result_of(finished), result_of(tmp_path / "run")
    assert second["tricks"] == first["tricks"]
    assert second["plan"]["width"] == first["plan"]["width"]
    assert second["data"]["sha256"] == first["data"]["sha256"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_early_and_score(number: signal.Signals, warm_python: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, 120, warm_python=warm_python)
    wait_for(out / "weights.safetensors", process)
    process.send_signal(number)
    code, said = finish(process)
    assert code == 128 + number, said
    result = result_of(out)
    assert result["status"] == "interrupted"
    assert result["wall_seconds"] < 100
    assert_sound(out, result)
    assert workers_of(out) == []


@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_signal_to_the_worker_at_any_instant(number: signal.Signals, tmp_path: Path) -> None:
    out, budget = tmp_path / "run", 9
    struck, over = [], threading.Event()

    def strike() -> None:
        while not over.wait(0.02):
            if (out / "weights.safetensors").exists():
                (worker,) = workers_of(out)
                time.sleep(random.Random(number).uniform(0, 2))
                os.kill(worker, number)
                struck.append(worker)
                return

    watch = threading.Thread(target=strike)
    watch.start()
    try:
        code = run_here(out, budget)
    finally:
        over.set()
        watch.join()
    assert struck
    result = result_of(out)
    assert_sound(out, result)
    assert result["status"] == ("interrupted" if number == signal.SIGTERM else "killed")
    assert code == (143 if number == signal.SIGTERM else 0)
    assert sum(result["phases"].values()) == pytest.approx(result["wall_seconds"], rel=0.01)
    if number == signal.SIGSTOP:
        assert budget <= result["wall_seconds"] < budget + 6
    assert workers_of(out) == []


def test_nothing_outlives_a_killed_front(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, 120)
    wait_for(out / "weights.safetensors", process)
    jobs = [Path(word) for pid in workers_of(out) for word in commandline(pid) if "speedtrain-" in word]
    assert jobs
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while workers_of(out):
        assert time.monotonic() < end
        time.sleep(0.05)
    load_weights(out / "weights.safetensors")
    assert not any(job.exists() for job in jobs)  # the images do not lie about
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 8, 8), np.uint8))
    command = ["predict", "--run", str(out), "--images", str(tmp_path / "images.npz")]
    assert main([*command, "--out", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz") as stored:
        assert stored["predicted"].shape == (3,)
        assert list(stored["classes"]) == [str(digit) for digit in range(10)]


def test_a_closed_terminal_ends_early_and_scores(warm_python: str, tmp_path: Path) -> None:
    """The bar is drawn on a terminal which then goes away, as with a lost connection."""
    out = tmp_path / "run"
    ours, theirs = pty.openpty()

    def in_child() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = warm.through(warm_python, "speedtrain", "--budget", "120", *SMALL, "--out", str(out))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=in_child)
    os.close(theirs)
    drawn = b""
    while b"images/s" not in drawn or not (out / "weights.safetensors").exists():
        drawn += os.read(ours, 4096)
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # a shell passes on what the terminal sends as well
    assert process.wait(100) == 128 + signal.SIGHUP
    result = result_of(out)
    assert result["status"] == "interrupted"
    assert_sound(out, result)


@pytest.mark.usefixtures("warm_processes")
@pytest.mark.skipif(not LIMITS_FILES, reason="needs to mount a small file system")
def test_a_disk_that_is_full_from_the_start_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    # room for the configuration and the log, not for the weights
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(out)], check=True)
    try:
        assert run_here(out, 5) == 1
    finally:
        subprocess.run(["umount", str(out)], check=True)
    said = "".join(capfd.readouterr())
    assert "could be saved" in said
    assert "No space left" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("warm_processes")
def test_a_busy_machine_ends_on_time_and_anneals(
    warm_python: str, tmp_path: Path, busy: Callable[[], contextlib.AbstractContextManager]
) -> None:
    out = tmp_path / "run"
    process = start(out, 15, warm_python=warm_python)
    wait_for(out / "weights.safetensors", process)
    time.sleep(1)
    with busy():
        code, said = finish(process)
    assert code == 0, said
    result = result_of(out)
    assert result["wall_seconds"] < 15.5
    with open(out / "clock.csv") as file:
        rows = list(csv.DictReader(file))
    assert ends_late(progress_of(out / "clock.csv"))
    if (os.cpu_count() or 1) > 1 and Path("/proc/self/schedstat").exists():
        assert int(rows[-1]["threads"]) < (os.cpu_count() or 1)  # it made room, and the record says so
    assert main(["replay", "--run", str(out), "--out", str(tmp_path / "again")]) == 0


@pytest.mark.usefixtures("warm_processes")
def test_a_budget_too_small_for_a_step_says_what_would_do(warm_python: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = finish(start(out, 0.1, warm_python=warm_python))
    assert code == 1
    result = result_of(out)
    assert result["status"] == "failed"
    assert result["accuracy"] is None
    assert "too small" in result["error"]
    assert "too small" in said
    enough = float(result["error"].split("about ")[1].split(" s")[0])
    for attempt in ("enough", "again"):  # it cannot know of a pause to come
        code = run_here(tmp_path / attempt, enough)
        if (code, result_of(tmp_path / attempt)["status"]) == (0, "finished"):
            return
    pytest.fail(f"{enough} s were not enough")


@pytest.mark.usefixtures("warm_processes")
def test_where_no_budget_would_do_it_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the measuring process said last, though its folder is gone."""
    assert run_here(tmp_path / "run", 0.5, "--set", "width=2000000")  # more bytes than there are addresses == 1
    assert "memory" in result_of(tmp_path / "run")["error"]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("warm_processes")
def test_all_tricks_together(tmp_path: Path) -> None:
    # but for those that keep something per image, and cannot be where batches are halved, and low_rank, which refuses
    # the kernels that mirror_equivariance and harmonic build
    together = [name for name in TRICKS if name not in ("early_learning_regularization", "saf", "low_rank")]
    assert run_here(tmp_path / "run", 60, *FEW_EPOCHS, "--tricks", ",".join(together)) == 0
    result = result_of(tmp_path / "run")
    assert list(result["tricks"]) == together
    assert_sound(tmp_path / "run", result)


@pytest.mark.usefixtures("warm_processes")
def test_training_ends_after_max_epochs_and_a_long_run_has_more_tricks(tmp_path: Path) -> None:
    long = "in_long_runs={width_times_epochs: 1, gain: 0.01, tricks: {trivial_augment: {strength: 0.5}}}"
    options = ["--set", "max_epochs=2.5", "--set", "width=auto", "--set", long, "--per-class", "64"]
    assert run_here(tmp_path / "run", 60, *options) == 0
    assert main(["replay", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    assert same_bits(tmp_path / "run", tmp_path / "again")
    result = result_of(tmp_path / "run")
    assert_sound(tmp_path / "run", result)
    assert result["status"] == "finished"
    assert 0 <= result["images_seen"] - 2.5 * result["data"]["num_train"] < 64
    assert result["all_epochs"]
    assert result["saved_at"]["progress"] > 0.9
    assert any(event.startswith("training ended after 2.5") for event in result["events"])
    assert not any("too few for the schedule" in event for event in result["events"])
    assert result["tricks"]["trivial_augment"] == {"strength": 0.5}
    assert any(reason.startswith("with trivial_augment: ") for reason in result["plan"]["reasons"])
    progress = progress_of(tmp_path / "run" / "clock.csv")
    assert progress == sorted(progress)


@pytest.mark.usefixtures("warm_processes")
def test_from_python_with_arrays_fewer_than_a_batch_and_two_classes(tmp_path: Path) -> None:
    digits = load_digits()
    chosen = np.flatnonzero(digits.target < 2)[:40]
    images = (digits.images[chosen] * 15).astype(np.uint8)
    result = train(
        60, (images, digits.target[chosen]), tricks=["flip", "sam"],
        settings={"width": 8, "sam.rho": 0.1, "max_epochs": 30},
        out=tmp_path / "run", precision="fp32",
    )  # fmt: skip
    assert result["status"] == "finished"
    assert result["tricks"] == {"flip": {"probability": 0.5}, "sam": {"rho": 0.1, "interval": 1, "start": 0.0}}
    assert result["data"]["num_classes"] == 2
    assert Path(result["out"]) == tmp_path / "run"
    assert result_of(tmp_path / "run")["accuracy"] == result["accuracy"]


@pytest.mark.usefixtures("warm_processes")
def test_photographs_are_seen_alike_in_training_scoring_prediction_and_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oblong JPEGs, larger than what they are trained at."""
    chance = np.random.default_rng(0)
    for split, counts in (("train", (24, 9)), ("test", (9, 4))):
        for (name, colour), count in zip((("red", 0), ("blue", 2)), counts, strict=True):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 160, (90, 150, 3), np.uint8)
                pixels[..., colour] |= 64
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.jpg")
    command = ["--data", str(tmp_path / "photos"), "--budget", "60", "--set", "width=8", "--set", "batch_size=16"]
    command += FEW_EPOCHS
    assert main([*command, "--side", "48", "--set", "fit=squash", "--out", str(tmp_path / "run")]) == 0
    result = result_of(tmp_path / "run")
    assert result["plan"]["side"] == 48
    assert result["plan"]["resolutions"] == [48]
    assert result["expected"] is None
    assert (result["data"]["class_counts"], result["test_data"]["class_counts"]) == ([9, 24], [4, 9])
    said = capsys.readouterr().out  # blue has less than half of red's images: accuracy alone may deceive
    assert f"balanced accuracy {result['balanced_accuracy']:.2%}  (69.2% are of the largest class)" in said
    worst = result["worst_class"]
    shares = dict(zip(result["data"]["classes"], result["class_accuracy"], strict=True))
    assert worst["accuracy"] == min(shares.values()) == shares[worst["class"]]
    assert f"worst class {worst['class']}: {worst['accuracy']:.2%}" in said
    with np.load(tmp_path / "run" / "predictions.npz") as stored:
        scored, files = stored["probabilities"], stored["files"].tolist()
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == files
    assert all((tmp_path / "photos" / "test" / name).is_file() for name in files)
    command = ["predict", "--run", str(tmp_path / "run"), "--images", str(tmp_path / "photos" / "test")]
    assert main([*command, "--out", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz") as stored:
        np.testing.assert_allclose(stored["probabilities"], scored, atol=1e-6)
    assert main(["replay", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0


@pytest.mark.usefixtures("warm_processes")
def test_a_score_that_fails_costs_neither_weights_nor_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory:\ntried to allocate 2 GiB")

    monkeypatch.setattr(execute, "score", fail)
    assert run_here(tmp_path / "run", 60, *FEW_EPOCHS) == 1
    result = result_of(tmp_path / "run")
    assert (result["status"], result["accuracy"]) == ("finished", None)
    assert "could not be scored (RuntimeError: out of memory: tried to allocate 2 GiB)" in result["error"]
    assert load_weights(tmp_path / "run" / "weights.safetensors")[1]["step"] == result["steps"]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("warm_processes")
def test_a_timm_model_trains_too(tmp_path: Path) -> None:
    command = ["--data", "digits", "--per-class", "20", "--model", "timm:resnet10t.c3_in1k"]
    command += ["--set", "batch_size=16", "--set", "precision=fp32"]
    assert main([*command, *FEW_EPOCHS, "--budget", "60", "--out", str(tmp_path / "run")]) == 0
    result = result_of(tmp_path / "run")
    assert result["plan"]["model"] == "timm:resnet10t.c3_in1k"
    assert any("c3_in1k names pretrained weights, which are not used" in event for event in result["events"])
    assert result["images_seen"] > 0
