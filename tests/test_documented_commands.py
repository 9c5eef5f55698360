"""Every command of README and docs, typed as it stands: page by page, from an empty folder, by relative paths.

The folder holds what the pages call the reader's own: images and submissions. Only budgets, numbers of runs and limits
are made small (`SMALL`, `UNSAID`). The trials of sweeps are copies of one real run; `tests/speedtrain/ablation` trains
them. Commands for other machines (Ray, SLURM, Kubernetes) and commands inside a sentence are parsed, not run.

One file because extraction, substitutions and the check of each page are read together.
"""

import contextlib
import csv
import io
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import warm
import yaml
from documentation import arguments_of, blocks, commands, lines, words_of
from readers_files import write_files

from speedtrain.cli import VERBS, build_parser, main
from speedtrain.config import resolve
from speedtrain.judge import machine_speed, sandbox_check
from speedtrain.judge.sandbox_check import works
from speedtrain.machine import available_cores
from timing import Guarded
from tricks import TRICKS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

SMALL = {
    "--budget": "4", "--budgets": "3,4", "--seeds": "1", "--trials": "2", "--confirm": "1", "--runs": "1",
    "--memory": "3G", "--disk": "300M", "--cpus": str(available_cores()), "--workers": str(min(2, available_cores())),
}  # fmt: skip
"""Options whose value is made small wherever it stands."""

SMALL_KEYS = {"budget": "budget: 4", "test_budget": "test_budget: 40", "runs": "runs: 1"}
"""Keys of a competition's file whose value is made small."""

UNSAID = {
    "ablate": ["--seeds=1"], "curve": ["--seeds=1"], "tune": ["--trials=2", "--confirm=1"],
    "judge": ["--test-budget=40", "--drift=1000", *([] if works() else ["--sandbox=none"])],
    "suspects": ["--folds=2"],
    "competition": [] if works() else ["--sandbox=none"], "verify": ["--test-budget=40"],
    "package": ["--set=width=8", "--set=batch_size=64", "--set=precision=fp32"],
}  # fmt: skip
"""What a command would do at length if nothing is said."""

LIGHT = ["--set=width=8", "--set=batch_size=64", "--set=precision=fp32"]
"""Sizes for a recipe that takes half a minute for its first step on two cores, for one of two networks, for `bench`,
and for sweeps, whose trials are copies."""

ON_ONE_CORE = ("train", "plan", "suspects", "ablate", "curve", "tune", "bench")

COLD = 20
"""Seconds of a budget that includes three or more of imports: a submission starts in a sandbox."""

RUNTIME = os.environ.get("ONNXRUNTIME_WEB")
"""Folder of the npm package onnxruntime-web."""

ELSEWHERE = ("#SBATCH", "kubectl", "--engine ray")
"""Words of blocks that need other machines."""


def shorten(arguments: list[str]) -> list[str]:
    """The same, with small budgets and numbers."""
    verb, *rest = arguments
    cold = verb == "verify" or (verb == "judge" and "submission.zip" in rest)
    small = {**SMALL, "--budget": str(COLD)} if cold else SMALL
    if verb == "bench":  # a whole run for each
        small = {**small, "--budgets": "3"}
    if verb == "suspects" or "two" in rest:  # a training for each of its two parts; two networks
        small = {**SMALL, "--budget": str(2 * int(SMALL["--budget"]))}
    for place, word in enumerate(rest[:-1]):
        if word in small:
            rest[place + 1] = small[word]
        elif word == "--set":
            rest[place + 1] = re.sub(r"^width=\d+$", "width=8", rest[place + 1])
    unsaid = [option for option in UNSAID.get(verb, []) if option.partition("=")[0] not in rest]
    if "--competition" in rest:  # its file has the limits
        unsaid = [option for option in unsaid if "sandbox" in option]
    if verb in ON_ONE_CORE and not {"two", "--threads", "--workers"} & {*rest}:
        unsaid += ["--threads=1"]  # the other core is for the tests beside
    sweep = verb in ("ablate", "bench", "curve", "tune") and not any("width" in word for word in rest)
    if sweep or (verb == "train" and {"paper", "two"} & {*rest}):
        unsaid += LIGHT
    if verb == "train" and "--model" in rest:
        unsaid += ["--set=batch_size=8", "--set=precision=fp32"]  # a large network, nothing left to plan
    return [verb, *rest, *unsaid]


TYPED = {
    page: [c for block in blocks(page) if not any(e in block for e in ELSEWHERE) for c in commands(block)]
    for page in PAGES
}
RUN = [page for page in PAGES if TYPED[page]]
assert RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_stands_where_it_is_not_found(page: Path) -> None:
    for block in blocks(page):
        if "─" in block or any(word in block for word in ELSEWHERE):  # a drawing
            continue
        named = len(re.findall(r"^[^#\n]*?-m speedtrain", "\n".join(lines(block)), re.MULTILINE))
        assert named == sum("-m speedtrain" in command for command in commands(block)), block
    for command in TYPED[page]:
        assert "…" not in command, f"{page.name}: cannot be typed: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_and_for_other_machines_are_parsed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`(python -m speedtrain[^`]*)`", text)]
    far = [block for block in blocks(page) if any(word in block for word in ELSEWHERE)]
    inline += [match for block in far for line in lines(block) for match in re.findall(r"python -m speedtrain.*", line)]
    for command in inline:
        if "…" in command or "--help" in command:
            continue
        build_parser().parse_args(arguments_of(words_of(command)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for the reader's own files; the current one, with no way to the network."""

    def refuse(*_: object) -> NoReturn:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("SPEEDTRAIN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_files()
    for page in PAGES:  # a recipe that a page shows, and names in its first line
        for name, text in re.findall(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            Path(name).write_text(re.sub(r"(?m)^(\w+): \d+$", lambda found: SMALL_KEYS.get(found[1], found[0]), text))
    if RUNTIME is not None:
        Path("node_modules").mkdir()
        Path("node_modules/onnxruntime-web").symlink_to(RUNTIME)
    return tmp_path


@pytest.fixture(scope="module")
def trained(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, of which the trials of sweeps are copies."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with warm.processes(warm_python):
        pinned = ["--set=width=8", "--set=batch_size=64", "--set=precision=fp32"]
        assert main(["--budget", "6", "--data", "digits", *pinned, "--quiet", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def typed() -> dict[str, Path]:
    """Commands that were typed before, as they were shortened, without `--out` → the folder that they left."""
    return {}


@pytest.fixture
def short_processes(warm_processes: None, warm_python: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that train start warm, trials are copies, the measurements of `bench` and the judge are few."""
    start = Guarded.__init__

    def start_shortened(self: Guarded, command: list[str], *rest: object, **options: object) -> None:
        start(self, shortened(command, trained, warm_python), *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Guarded, "__init__", start_shortened)
    monkeypatch.setattr(machine_speed, "measure", lambda cpus: 1.0)
    monkeypatch.setattr(sandbox_check, "PACKAGES", ("numpy",))


def shortened(command: list[str], trained: Path, address: str) -> list[str]:
    if command[1:4] == ["-m", "speedtrain", "train"]:
        copy = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"
        return [sys.executable, "-I", "-S", "-c", copy, str(trained), command[command.index("--out") + 1]]
    if "speedtrain.bench.measure" in command:
        few = Path(warm.__file__).with_name("few_measurements.py")
        return warm.through(address, str(few), *command[command.index("-m") + 2 :])
    return command


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_every_command_can_be_typed(
    page: Path, folder: Path, short_processes: None, typed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in TYPED[page]:
        words = words_of(command)
        if words[0] == "python" and words[1].startswith("scripts/"):
            run_script(words[1:], monkeypatch)
            continue
        if "html" in words and RUNTIME is None:  # the page says that npm brings what it needs
            continue
        arguments = shorten(arguments_of(words))
        options = build_parser().parse_args(arguments)[arguments[0]]
        same = shlex.join([word for word in arguments if word not in ("--out", options.get("out"))])
        if arguments[0] in ("plan", "tricks", "verify", "train", "suspects") and same in typed:
            if "--out" in arguments:  # the same but for its budget, and for the folder, which others may read
                shutil.copytree(typed[same], options.out)
            continue
        before = set((folder / "runs").glob("*"))
        code, printed, errors = type_in(arguments)
        new = [path for path in (folder / "runs").glob("*") if path not in before]
        left = Path(options.get("out") or (new[0] if new else "nothing"))
        if arguments[0] in ("train", "suspects") and had_too_little_time(code, left):
            shutil.rmtree(left, ignore_errors=True)  # the machine is busy: once more, with more seconds
            options.budget = str(10 * float(options.budget))
            arguments[arguments.index("--budget") + 1] = options.budget
            code, printed, errors = type_in(arguments)
            new = [path for path in (folder / "runs").glob("*") if path not in before]
        told = f"{page.name}: {command}\n→ {shlex.join(arguments)}\n{printed}\n{errors}"
        assert code == 0, told
        assert "Traceback" not in told, told
        CHECKS[arguments[0]](options, new, printed)
        typed[same] = folder / (options.get("out") or (new[0] if new else ""))
    assert {path.name for path in folder.iterdir() if path.name.startswith("speedtrain-")} == set()


def type_in(arguments: list[str]) -> tuple[int, str, str]:
    """Runs a command; returns its exit code, what it printed, and its messages."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        code = main(arguments)
    return code, printed.getvalue(), errors.getvalue()


def had_too_little_time(code: int, left: Path) -> bool:
    """Whether a training was killed, or ended before its first step; by its exit code, or by the run that it left."""
    file = left / "result.json"
    return code != 0 or (file.exists() and json.loads(file.read_text())["status"] == "killed")


def run_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts and the results they read lie in the repository, which the reader has: copies, since they write there."""
    for name in ("scripts", "results"):
        if not Path(name).exists():
            shutil.copytree(ROOT / name, name)
    monkeypatch.setattr(sys, "argv", words)
    with contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(words[0], run_name="__main__")


def check_run(run: Path) -> dict:
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert 0 <= result["accuracy"] <= 1  # of twelve photographs after a few steps
    assert result["steps"] > 0
    for name in (
        "config.yaml",
        "weights.safetensors",
        "predictions.npz",
        "predictions.csv",
        "report.html",
        "model_card.md",
        "curve.png",
        *(["members/1/clock.csv", "members/2/clock.csv"] if "members" in result else ["clock.csv"]),
    ):
        assert (run / name).stat().st_size > 0
    return result


def check_train(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    (run,) = [Path(options.out)] if options.out else new
    result = check_run(run)
    assert result["wall_seconds"] <= float(options.budget) + 0.5
    assert all(name in result["tricks"] for name in options["with"] or [])
    assert not any(name in result["tricks"] for name in options.without or [])
    if options.test:
        assert result["num_test_images"] == 100
        assert result["accuracy_on"] == "test"


def check_replay(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    (run,) = [Path(options.out)] if options.out else new
    check_run(run)
    assert "bit for bit the same" in printed


def check_predict(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    if options.out.endswith(".csv"):
        with open(options.out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == ["500.png", "501.png", "502.png"]
        assert all(0 < float(row["probability"]) <= 1 for row in rows)
        return
    with np.load(options.out) as stored:
        assert len(stored["predicted"]) == len(stored["files"]) == 3
        np.testing.assert_allclose(stored["probabilities"].sum(1), 1, atol=1e-4)


def check_export(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    suffix = {"onnx": "onnx", "torch": "pt2", "html": "html"}[options.format]
    assert Path(options.out or Path(options.run, f"model.{suffix}")).stat().st_size > 10_000
    assert "the same classes as the model" in printed


def check_plan(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    assert re.search(r"width +\d+", printed)
    assert "images_per_second" in printed


def check_tricks(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    assert all(name in printed for name in TRICKS)


def check_ablate(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    if options.dry_run:
        assert re.search(r"\d", printed)
        return
    check_sweep(Path(options.out), "ablation")
    with open(Path(options.out, "ablation.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 2
    assert all(float(row["accuracy"]) > 0 and not row["error"] for row in rows)


def check_curve(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    check_sweep(Path(options.out), "curve")
    with open(Path(options.out, "curve.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(options.budgets.split(",")) * len((options.recipes or "auto").split(","))


def check_tune(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    out = Path(options.out)
    with open(out / "tune.csv", newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["complete"] * int(options.trials)
    winner = resolve(recipe=out / "winner.yaml", budget=60)  # a recipe that trains
    assert set(resolve(recipe=options.recipe, budget=60).tricks) <= set(winner.tricks)
    check_sweep(out / "confirm", "ablation")
    assert "winner.yaml" in printed


def check_sweep(out: Path, name: str) -> None:
    for suffix in ("csv", "json", "md", "png", "html"):
        assert (out / f"{name}.{suffix}").stat().st_size > 0
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def check_bench(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    out = Path(options.out)
    measured = json.loads((out / "bench.json").read_text())
    assert [row["budget_seconds"] for row in measured["budgets"]] == [float(b) for b in options.budgets.split(",")]
    assert all(0 < row["train_share"] < 1 for row in measured["budgets"])
    assert (out / "bench.md").read_text().strip() in printed
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")


def check_suspects(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    with open(Path(options.out, "suspects.csv"), newline="") as file:
        found = len(list(csv.DictReader(file)))
    assert f"{found} of " in printed
    assert Path(options.out, "suspects.html").read_text().count("<figure>") == min(found, 100)


def check_corrupt(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    with np.load(options.out) as track, np.load(Path(options.out).with_suffix(".truth.npz")) as truth:
        wrong = int((truth["labels"] != track["labels"].T).sum())
        of = f" of {track['labels'].size}" if track["labels"].ndim > 1 else ""
    assert f"{wrong}{of} wrong labels" in printed


def check_package(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    with zipfile.ZipFile(options.out) as archive:
        assert {"training.py", "test.py", "manifest.json", "recipe.yaml"} <= set(archive.namelist())
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["licence"]
    if options.name:
        assert manifest["name"] == options.name


def check_verify(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    assert "BROKEN" not in printed
    assert printed.rstrip().endswith("every rule is kept")


def check_competition(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    if options.action == "new":
        assert yaml.safe_load(Path(options.path, "competition.yaml").read_text())["data"]
    elif options.action == "check":
        assert "price: 40 entrants" in printed
    else:
        with zipfile.ZipFile(options.out) as kit:
            assert {"RULES.html", "competition.yaml", "data/train.npz"} <= set(kit.namelist())


def check_board(options: SimpleNamespace, new: list[Path], printed: str) -> None:
    """Every entrant is honest, and has learned something."""
    out = Path(options.out)
    entries = json.loads((out / "leaderboard.json").read_text())["entries"]
    assert entries
    for entry in entries:
        assert not entry["refused"]
        assert entry["accuracy"] > 0.15, entry
        assert not any(run["failed"] for run in entry["runs"]), entry
    for suffix in ("csv", "md"):
        assert all(entry["name"] in (out / f"leaderboard.{suffix}").read_text() for entry in entries)
    assert str(out / "index.html") in printed


CHECKS: dict[str, Callable[[SimpleNamespace, list[Path], str], None]] = {
    "train": check_train,
    "replay": check_replay,
    "predict": check_predict,
    "export": check_export,
    "plan": check_plan,
    "tricks": check_tricks,
    "ablate": check_ablate,
    "curve": check_curve,
    "tune": check_tune,
    "bench": check_bench,
    "corrupt": check_corrupt,
    "suspects": check_suspects,
    "package": check_package,
    "verify": check_verify,
    "judge": check_board,
    "board": check_board,
    "competition": check_competition,
}
"""What each command must leave behind."""


def test_every_verb_is_documented_and_checked() -> None:
    shown = {
        arguments_of(shlex.split(command, comments=True))[0]
        for page in RUN
        for command in TYPED[page]
        if "scripts/" not in command
    }
    assert shown == set(VERBS) == set(CHECKS)
