"""Turns, resuming after a crash, scoring again; with real processes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from speedtrain.cli import main
from speedtrain.errors import UserError
from speedtrain.judge import machine_speed, sandbox, sandbox_check
from speedtrain.judge.sandboxed_step import Outcome

from .conftest import SANDBOX, board_of, command, judge, needs_bwrap, submission

HOSTILE = "<script>alert(1)</script>|\"&'="


def journal_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "private" / "journal.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def judged(data: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two runs of an honest submission, of one with a hostile name that guesses, and of one that is refused.

    Every path is relative, and no file that the judge makes is for other users unless it says so.
    """
    folder = tmp_path_factory.mktemp("judging")
    for name in ("train", "test"):
        (folder / f"{name}.npz").write_bytes(getattr(data, name).read_bytes())
    guesses = "np.save(options.predictions, np.random.default_rng(int(os.environ['SEED'])).integers(0, 4, len(images)))"
    zips = [
        submission(folder / "a.zip", name="Ångström & sons"),
        submission(folder / "b.zip", name=HOSTILE, authors="=1+1", test=guesses),
        submission(folder / "c.zip", name="no licence", licence=""),
    ]
    more = ("--runs", "2", "--sandbox", SANDBOX)
    here = SimpleNamespace(train="train.npz", test="test.npz")
    (folder / "board" / "private").mkdir(parents=True)  # an earlier judging was killed before its first line was whole
    (folder / "board" / "private" / "journal.jsonl").write_text('{"schema": 1, "sett')
    arguments = command(here, Path("board"), *(Path(path.name) for path in zips), more=more)
    assert not [argument for argument in arguments if argument.startswith("/")]
    words = [sys.executable, "-m", "speedtrain", *arguments]
    done = subprocess.run(words, cwd=folder, umask=0o077, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(out=folder / "board", zips=zips, done=done, more=more, board=board_of(folder / "board"))


def test_relative_paths_and_a_strict_umask_harm_nobody(judged: SimpleNamespace) -> None:
    best = judged.board["by_name"]["Ångström & sons"]
    assert [run["failed"] for entry in judged.board["entries"] for run in entry["runs"]] == [False] * 4
    assert best["accuracy"] > 0.9


def test_submissions_take_turns_each_run_with_a_seed_of_its_own(judged: SimpleNamespace) -> None:
    runs = journal_of(judged.out)[1:]
    assert [(run["submission"][:2], run["run"]) for run in runs] == [("01", 1), ("02", 1), ("01", 2), ("02", 2)]
    assert len({run["seed"] for run in runs}) == 2  # the same for all submissions of one turn
    assert all(run["speed_before"] > 0 and run["speed_after"] > 0 for run in runs)


def test_accuracies_are_those_of_the_stored_predictions(judged: SimpleNamespace, data: SimpleNamespace) -> None:
    with np.load(data.test) as stored:
        labels = stored["labels"]
    right: dict[str, list[np.ndarray]] = {entry["id"]: [] for entry in judged.board["entries"]}
    for entry in judged.board["entries"]:
        for run in entry["runs"]:
            predicted = np.load(judged.out / "private" / "predictions" / f"{entry['id']}-run-{run['run']}.npy")
            right[entry["id"]].append(predicted == labels)
            assert run["accuracy"] == pytest.approx((predicted == labels).mean())
        per_class = [[run[labels == label].mean() for run in right[entry["id"]]] for label in range(4)]
        assert entry["per_class"] == pytest.approx(np.mean(per_class, 1)) if entry["runs"] else not entry["per_class"]
    best = judged.board["by_name"]["Ångström & sons"]
    assert best["rank"] == 1
    assert best["accuracy"] == pytest.approx(np.mean([run["accuracy"] for run in best["runs"]]))
    other = judged.board["by_name"][HOSTILE]
    assert other["rank"] == (2 if other["versus_leader"]["significant"] else 1)  # two runs that guess may differ much
    assert other["accuracy"] < 0.6


def test_a_refused_submission_is_not_run_and_says_why(judged: SimpleNamespace) -> None:
    entry = judged.board["by_name"]["no licence"]
    assert entry["rank"] is None
    assert entry["runs"] == []
    assert "licence" in entry["refused"]
    assert "no licence: refused" in judged.done.stderr


@pytest.mark.usefixtures("steady_machine")
def test_what_is_wrong_with_one_zip_is_told_of_that_one_and_stops_no_other(
    judged: SimpleNamespace, data: SimpleNamespace, tmp_path: Path
) -> None:
    """Nothing is run: all are refused. The judging that is resumed was killed before it had begun."""
    large, out = tmp_path / "large.zip", tmp_path / "board"
    shutil.copy(judged.zips[0], large)
    with open(large, "ab") as file:
        file.truncate(17 << 20)
    (out / "private").mkdir(parents=True)
    (out / "private" / "journal.jsonl").touch()
    refused = judged.zips[2]
    assert main(command(data, out, refused, large, refused, more=(*judged.more, "--resume"))) == 0
    entries = board_of(out)["entries"]
    reasons = {entry["id"][:2]: entry["refused"] for entry in entries}
    assert "licence" in reasons["01"]
    assert "17 MiB" in reasons["02"]
    assert "the same file as submission 01" in reasons["03"]


@pytest.mark.usefixtures("steady_machine")
def test_a_fault_of_the_judges_own_is_no_entrants(
    judged: SimpleNamespace, data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, more = tmp_path / "board", ("--runs", "1", "--sandbox", SANDBOX)
    spoiled = out / "private" / "predictions"

    def spoil() -> None:
        while not (out / "private" / "inputs").exists():
            time.sleep(0.001)
        spoiled.write_text("where the judge wants a folder")

    threading.Thread(target=spoil).start()
    zips = [judged.zips[0], submission(tmp_path / "other.zip", name="other", test="os.unlink(options.predictions)")]
    assert main(command(data, out, *zips, more=more)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "the judge itself failed on Ångström & sons" in message
    assert "FileExistsError" in message
    assert [run["submission"][:2] for run in journal_of(out)[1:]] == ["02"]  # the others are judged
    assert "Traceback" in (out / "private" / "judge-error.txt").read_text()
    spoiled.unlink()
    assert main(command(data, out, *zips, more=(*more, "--resume"))) == 0
    assert board_of(out)["by_name"]["Ångström & sons"]["accuracy"] > 0.9


def test_every_exit_status_has_words() -> None:
    for code in range(-64, 256):
        words = Outcome("exited", code, 1.0, None, 0, 0, "").in_words()
        assert (f"exit code {code}" in words) == (code > 0)
        assert ("died of" in words) == (code < 0)
    assert "(" not in Outcome("exited", 255, 1.0, None, 0, 0, "").in_words()


def test_progress_is_reported_with_the_time_left(judged: SimpleNamespace) -> None:
    assert re.search(r"run 3 of 4: Ångström & sons, its run 2; about \d+ s left", judged.done.stderr)


def test_text_of_strangers_is_escaped_everywhere(judged: SimpleNamespace) -> None:
    page = (judged.out / "index.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|&quot;&amp;&#x27;=" in page
    markdown = (judged.out / "leaderboard.md").read_text()
    assert "<script>" not in markdown
    assert "\\|" in markdown
    with open(judged.out / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["team"] for row in rows] == ["Ångström & sons", HOSTILE, "no licence"]
    assert rows[1]["authors"] == "'=1+1"  # which a spreadsheet shows, and does not compute


def test_what_may_be_published_names_no_label_and_no_test_log(judged: SimpleNamespace) -> None:
    published = {path.relative_to(judged.out).parts[0] for path in judged.out.rglob("*")}
    assert published == {
        "descriptions", "index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md", "logs", "private",
    }  # fmt: skip
    for entry in judged.board["entries"]:
        assert (judged.out / entry["description"]).read_text() == "# Means\n"
        assert entry["description"].endswith(".txt")  # which a browser shows as it is
        for run in entry["runs"]:
            assert "images_seen: 80" in (judged.out / run["log"]).read_text()


def test_a_finished_judging_is_resumed_without_running_anything(judged: SimpleNamespace, data: SimpleNamespace) -> None:
    before = (judged.out / "private" / "journal.jsonl").read_bytes()
    shutil.rmtree(judged.out / "private" / "submissions")  # as if it was killed before it had kept them
    done = judge(data, judged.out, *judged.zips, more=(*judged.more, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs were judged before" in done.stderr
    assert (judged.out / "private" / "journal.jsonl").read_bytes() == before


def test_a_board_is_not_judged_over_nor_resumed_with_other_rules(
    judged: SimpleNamespace, data: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(zips: list[Path], *more: str) -> str:
        capsys.readouterr()
        assert main(command(data, judged.out, *zips, more=(*judged.more, *more))) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "--resume" in refused(judged.zips)
    assert f"disk is {65 << 20}, and was {64 << 20} when" in refused(judged.zips, "--resume", "--disk", "65M")
    assert "submissions is not what it was" in refused(judged.zips[:2], "--resume")


def test_a_board_is_scored_again_with_corrected_labels(
    judged: SimpleNamespace, data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = (judged.out / "private" / "journal.jsonl").read_bytes()
    with np.load(data.test) as stored:
        images, labels = stored["images"], stored["labels"]
    np.savez(tmp_path / "corrected.npz", images=images, labels=(labels + 1) % 4)
    corrected = SimpleNamespace(**{**vars(data), "test": tmp_path / "corrected.npz"})
    capsys.readouterr()
    assert main(command(corrected, judged.out, *judged.zips, more=(*judged.more, "--resume"))) == 0
    assert "labels of the test images are not those when the board was begun" in capsys.readouterr().err
    assert main(["board", "--out", str(judged.out), "--test", str(tmp_path / "corrected.npz")]) == 0
    assert board_of(judged.out)["by_name"]["Ångström & sons"]["accuracy"] < 0.1
    assert main(["board", "--out", str(judged.out), "--test", str(data.test)]) == 0
    assert board_of(judged.out) == judged.board
    assert (judged.out / "private" / "journal.jsonl").read_bytes() == journal
    np.savez(tmp_path / "other.npz", images=images[::-1], labels=labels)
    capsys.readouterr()
    assert main(["board", "--out", str(judged.out), "--test", str(tmp_path / "other.npz")]) == 2
    assert "not the images" in capsys.readouterr().err


def test_a_killed_judge_is_resumed_and_repeats_and_loses_nothing(
    data: SimpleNamespace, tmp_path: Path, steady_machine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "board"
    zips = [submission(tmp_path / "a.zip"), submission(tmp_path / "b.zip", training="time.sleep(1.5)")]
    more = ("--runs", "2", "--sandbox", SANDBOX)
    words = [sys.executable, "-m", "speedtrain", *command(data, out, *zips, more=more)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = out / "private" / "journal.jsonl"
    end = time.monotonic() + 120
    inside = Path(f"/proc/{process.pid}/root{out}")  # as the judge sees it: it may have mounts of its own
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2 or not list(inside.rglob("training/weights")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # in the middle of the second run
    process.wait()
    before = journal.read_bytes()
    assert before.count(b"\n") == 2
    with open(journal, "ab") as file:
        file.write(b'{"submission": "02-b", "run": 1, "predic')  # and the disk got a part of a line
    assert main(command(data, out, *zips, more=(*more, "--resume"))) == 0
    assert "1 of 4 runs were judged before" in capsys.readouterr().err
    assert journal.read_bytes().startswith(before)
    runs = journal_of(out)[1:]
    assert [(run["submission"], run["run"]) for run in runs] == [("01-a", 1), ("02-b", 1), ("01-a", 2), ("02-b", 2)]
    assert all(entry["complete"] and entry["accuracy"] > 0.9 for entry in board_of(out)["entries"])


@needs_bwrap
@pytest.mark.parametrize(
    ("script", "log"), [("training.py", "logs/02-b/run-1.txt"), ("test.py", "private/test-logs/02-b-run-1.txt")]
)
def test_a_machine_that_does_not_start_a_submission_stops_the_judge_and_charges_nobody(
    script: str,
    log: str,
    data: SimpleNamespace,
    tmp_path: Path,
    steady_machine: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bwrap that works for the first submission, and fails before a script of the second begins."""
    broken, count = tmp_path / "broken", tmp_path / "count"
    broken.touch()
    (tmp_path / "tools").mkdir()
    bwrap = tmp_path / "tools" / "bwrap"
    bwrap.write_text(
        f"""#!/bin/sh
case "$*" in *" /submission/{script} "*)
    echo run >> {count}
    if [ -e {broken} ] && [ "$(wc -l < {count})" -ge 2 ]; then echo "bwrap: no more namespaces" >&2; exit 1; fi
esac
exec {shutil.which("bwrap")} "$@"
"""
    )
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bwrap.parent}:{os.environ['PATH']}")
    zips = [submission(tmp_path / f"{name}.zip") for name in "ab"]
    words = command(data, tmp_path / "board", *zips, more=("--runs", "1"))
    assert main(words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"did not start {script} in its sandbox (bwrap: no more namespaces)" in message
    assert "judge --resume" in message
    assert [run["submission"] for run in journal_of(tmp_path / "board")[1:]] == ["01-a"]
    assert not (tmp_path / "board" / log).exists()
    broken.unlink()
    assert main([*words, "--resume"]) == 0
    entries = board_of(tmp_path / "board")["by_name"]
    assert all(entry["complete"] and entry["accuracy"] > 0.9 for entry in (entries["a"], entries["b"]))
    assert (tmp_path / "board" / log).exists()


@pytest.mark.parametrize(
    ("speeds", "waited", "drifted", "after"),
    [
        ([90.0, 90.0, 100.0, 100.0], True, False, False),  # it has recovered by the third look
        ([90.0, 90.0, 90.0, 90.0, 100.0], True, True, False),
        ([100.0, 50.0], False, False, True),  # what a submission may have done earns it no second run
    ],
)
def test_a_run_begins_when_the_machine_has_recovered(
    speeds: list[float],
    waited: bool,
    drifted: bool,
    after: bool,
    data: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    following = iter([100.0] * machine_speed.NUM_PROBES + speeds)  # GFLOP/s
    monkeypatch.setattr(machine_speed, "measure", lambda cpus: next(following))
    monkeypatch.setattr(machine_speed, "PAUSE", 0.2)
    monkeypatch.setattr(machine_speed, "RECOVERY_SECONDS", 0.5)
    more = ("--runs", "1", "--sandbox", SANDBOX, "--drift", "0.05")
    assert main(command(data, tmp_path / "board", submission(tmp_path / "a.zip"), more=more)) == 0
    (run,) = journal_of(tmp_path / "board")[1:]
    assert next(following, None) is None
    assert (run["waited"] > 0.1, run["drifted"], run["drifted_after"]) == (waited, drifted, after)
    (run,) = board_of(tmp_path / "board")["by_name"]["a"]["runs"]
    assert (run["drifted"], run["drifted_after"], run["attempts"]) == (drifted, after, 1)
    page = (tmp_path / "board" / "index.html").read_text()
    assert ("begun on a machine of another speed" in page) == drifted
    assert ("the machine had another speed at its end" in page) == after


BAD = {
    "--budget 0": "--budget must be a positive number",
    "--budget inf": "--budget must be a positive number",
    "--runs 1.5": "--runs must be a positive whole number",
    "--memory lots": "--memory must be a size",
    "--memory 900T": "--memory 900 TiB",
    "--disk 900T": "--disk",
    f"--memory 1M --sandbox {SANDBOX}": "Python does not start within the limits",
    "--cpus 4096": "--cpus 4096: this machine gives",
    "--sandbox docker": "--sandbox must be bwrap or none",
    "--train missing.npz": "missing.npz: no such file",
    f"--resume --sandbox {SANDBOX}": "nothing was judged",
}


@pytest.mark.parametrize("arguments", list(BAD))
def test_bad_input_gets_one_clear_line(
    arguments: str, data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zip_ = str(submission(tmp_path / "a.zip"))
    words = ["judge", zip_, "--train", str(data.train), "--test", str(data.test), "--out", str(tmp_path / "board")]
    assert main([*words, *arguments.split()]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    assert BAD[arguments] in message
    assert not (tmp_path / "board").exists()


def test_without_bubblewrap_the_judge_refuses_and_says_what_to_do(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("taskset", "prlimit", "setpriv"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setenv("PATH", str(tools))
    words = ["judge", str(submission(tmp_path / "a.zip")), "--train", str(data.train), "--test", str(data.test)]
    assert main([*words, "--out", str(tmp_path / "board")]) == 2
    message = capsys.readouterr().err
    assert "bubblewrap (bwrap) is not installed" in message
    assert "--sandbox none" in message


@pytest.mark.skipif(SANDBOX == "none", reason="bubblewrap cannot make a sandbox here")
def test_images_that_submissions_could_read_are_refused(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(data.folder))  # as if the images lay in the virtual environment
    words = ["judge", str(submission(tmp_path / "a.zip")), "--train", str(data.train), "--test", str(data.test)]
    assert main([*words, "--out", str(tmp_path / "board")]) == 2
    assert "submissions can read all of" in capsys.readouterr().err


def test_packages_are_tried_in_the_sandbox_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lies in a folder of its own, as with `pip install --user`; another is not there at all."""
    package = tmp_path / "own" / "of_a_user"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import json")
    for path in (package.parent, package):
        path.chmod(0o755)
    (package / "__init__.py").chmod(0o644)
    monkeypatch.setattr(sandbox, "PACKAGES", ("numpy", "of_a_user"))
    monkeypatch.setattr(sandbox_check, "PACKAGES", ("numpy", "of_a_user"))
    sandbox.package_folders.cache_clear()
    with pytest.raises(UserError, match=r"cannot import them all in their sandbox .*No module named 'of_a_user'"):
        sandbox_check.check_packages(SANDBOX)
    monkeypatch.syspath_prepend(str(package.parent))
    sandbox.package_folders.cache_clear()
    try:
        sandbox_check.check_packages(SANDBOX)
    finally:
        sandbox.package_folders.cache_clear()


def test_without_a_sandbox_it_warns_and_still_keeps_the_time(
    data: SimpleNamespace, tmp_path: Path, steady_machine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = submission(tmp_path / "endless.zip", training="time.sleep(600)")
    more = ("--runs", "1", "--sandbox", "none", "--budget", "2")
    assert main(command(data, tmp_path / "board", endless, more=more)) == 0
    assert "warning: --sandbox none" in capsys.readouterr().err
    (run,) = board_of(tmp_path / "board")["by_name"]["endless"]["runs"]
    assert 2 <= run["training_seconds"] < 8
    assert run["accuracy"] > 0.9
    assert "Judged without a sandbox" in (tmp_path / "board" / "index.html").read_text()
