"""One run from the outside: check everything, start the clock and the worker, score what it saved."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from speedtrain import __version__
from speedtrain.config import Config, resolve
from speedtrain.data import Data, Images, image_names, load_data, load_images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic, write_npz
from speedtrain.machine import available_cores, processor_name
from speedtrain.model.predict import load_classifier, predict
from speedtrain.model.weights import load_facts, load_weights
from speedtrain.run.progress import Display
from speedtrain.run.report import write_report
from speedtrain.training.lightning_module import build_training
from speedtrain.training.planner import BATCH_SIZE
from speedtrain.training.scaling_law import CONFIDENT, RESNET9, RESNET9_RANGE
from speedtrain.training.worker import MALLOC
from timing import ExitStatus, Guarded
from tricks import TrickError

SCHEMA = 1
GRACE = 20.0
"""Seconds an interrupted run may take to finish its step and save."""

ANNEALED = 0.8
"""Progress by which a learning rate has come down."""

Result = dict[str, Any]


def train(
    budget: float | None = None,
    data: str | Path | tuple[np.ndarray, np.ndarray] | None = None,
    test: str | Path | tuple[np.ndarray, np.ndarray] | None = None,
    *,
    recipe: str | Path = "auto",
    tricks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    with_tricks: Sequence[str] = (),
    without: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    quiet: bool = True,
    **options: Any,
) -> Result:
    """Trains a classifier inside a wall-clock budget and scores it: what `python -m speedtrain` does.

    Args:
        budget: seconds, from the start of the training process.
        data: auto, cifar10, digits, a path, or (images uint8 [N, H, W, C], labels int [N]); default: the recipe's,
            or auto.
        test: test images, likewise; default: the data set's own test split, or a holdout.
        recipe: name, or path of a YAML file.
        tricks: exactly these tricks, by name, or name → hyperparameters.
        with_tricks, without: tricks to add to the recipe's, and to take out.
        settings: dotted hyperparameter → value, as in `{"sam.rho": 0.1, "lr": 0.2}`.
        out: run directory, new or empty; default: a new one in `runs/`.
        quiet: show no progress; what a person must know is still said, on standard error.
        options: other keys of `Config`: per_class, seed, device, threads, model, …

    Returns:
        What `result.json` holds, and `out`, the run directory. A run that failed has the `status` `failed`, an
        `error` and None for `accuracy`.

    Raises:
        UserError: bad input, before the clock starts.
    """
    config = resolve(
        recipe=recipe,
        tricks=tricks,
        with_tricks=with_tricks,
        without=without,
        settings=settings,
        budget=budget,
        data=_named(data),
        test=_named(test),
        **options,
    )
    begun = time.monotonic()
    loaded = load_configured(config, data, test)
    off_clock = {"data": time.monotonic() - begun}
    told = {**options, **(settings or {})}
    return execute(config, loaded, out, Display(quiet), off_clock=off_clock, notes=_idle(config, told))


def execute(
    config: Config,
    data: Data,
    out: str | Path | None,
    display: Display,
    *,
    off_clock: dict[str, float],
    notes: Sequence[str] = (),
    replay: tuple[Path, int] | None = None,
) -> Result:
    """Checks, trains and scores one configuration; see `train`.

    Args:
        notes: what else a person should know.
        out: run directory, as for `train`.
        replay: a `clock.csv` to follow instead of the clock, and how many steps of it.
    """
    begun = time.monotonic()
    notes = [*data.notes, *notes, *resolve_machine(config)]
    check_network(config, data.train)
    run = new_run_directory(out)
    for note in notes:
        display.warn(note)
    _write_config(run, config)
    off_clock["check"] = time.monotonic() - begun

    with _Signals() as signals:
        worker = _Worker(config, data.train, run, display, replay)
        exit_status = worker.work(signals)
        begun = time.monotonic()
        worker.catch_up()
        with _may_fail(display):
            _write_config(run, config)  # settled; while training the disk may have been full
        result = _describe(config, data, worker, exit_status, notes)
        if signals.received is not None:
            result["signal"] = signals.received
        trained = (run / "weights.safetensors").exists()
        images = labels = probabilities = None
        if trained:
            display.say("scoring …")
            images, labels = data.test.images, data.test.labels
            probabilities = _score(result, config, data, run)
            with _may_fail(display):
                arrays = {"probabilities": probabilities, "predicted": probabilities.argmax(1)}
                write_npz(run / "predictions.npz", classes=np.array(data.train.classes), **arrays)
            if result["status"] == "finished" and result["saved_at"]["progress"] < ANNEALED and replay is None:
                line = f"warning: only {result['steps']} steps fit into the budget, too few for the schedule to end"
                result["events"].append(line)
                display.warn(line)
        elif result["status"] != "interrupted":
            result["status"] = "failed"
            result["error"] = (
                worker.failure(exit_status)
                or (worker.unsaved and f"nothing of the training could be saved: {worker.unsaved}")
                or _too_small(config, data.train, display, signals)
            )
            if signals.received is not None:
                result |= {"status": "interrupted", "signal": signals.received, "error": "nothing was trained"}
        if result["status"] == "failed" and "error" not in result:
            result["error"] = worker.failure(exit_status)
        off_clock["score"] = time.monotonic() - begun
        result["off_clock"] = {name: round(seconds, 3) for name, seconds in off_clock.items()}
        with _may_fail(display):
            write_atomic(run / "result.json", json.dumps(result, indent=2, ensure_ascii=False).encode())
        with _may_fail(display):
            write_report(
                run, result, images=images, labels=labels, probabilities=probabilities, classes=data.train.classes
            )
        for left in run.glob(".weights.safetensors.*"):  # of a save that a kill cut short
            left.unlink()
    display.result(result, run)
    return {**result, "out": str(run)}


def replay(source: Path, out: str | Path | None = None, *, quiet: bool = True) -> Result:
    """Trains again by a run's record of the clock, and compares the weights.

    Args:
        source: a run directory.
        out, quiet: as for `train`.

    Returns:
        The new run's result, and `identical_weights`.

    Raises:
        UserError: not a run directory, its data has changed, or it was given as arrays.
    """
    config, facts = read_run(source)
    begun = time.monotonic()
    data = load_configured(config)
    if data.train.sha256() != facts["data_sha256"]:
        raise UserError(f"{source}: the training images in {config.data} are not those of the run any more")
    display = Display(quiet)
    record = source.absolute() / "clock.csv"
    if not record.is_file():
        raise UserError(f"{source}: no record of the clock (clock.csv) to train by")
    off_clock = {"data": time.monotonic() - begun}
    result = execute(config, data, out, display, off_clock=off_clock, replay=(record, facts["step"]))
    path = Path(result["out"]) / "weights.safetensors"
    saved = load_weights(source / "weights.safetensors")[0]
    again = load_weights(path)[0] if path.exists() else {}
    same = saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)
    return {**result, "identical_weights": same}


def plan(
    budget: float | None = None,
    data: str | Path | None = None,
    test: str | Path | None = None,
    **told: Any,
) -> tuple[Config, dict[str, Any], list[str]]:
    """What `train` with the same arguments would do on this machine, measured but not trained.

    Returns:
        The configuration; the plan as `result.json` would hold it, with `expected` as there; and what a person should
        know.

    Raises:
        UserError: as `train`, or the network is too large for this machine.
    """
    config = resolve(budget=budget, data=_named(data), test=_named(test), **told)
    loaded = load_configured(config)
    notes = [*loaded.notes, *_idle(config, {**told, **(told.get("settings") or {})}), *resolve_machine(config)]
    check_network(config, loaded.train)
    chosen = measure_plan(config, loaded.train)
    return config, {**chosen, "expected": expected(config, chosen, loaded.train, len(loaded.test.images))}, notes


def measure_plan(config: Config, train: Images) -> dict[str, Any]:
    """What the planner makes of a configuration, whose device and threads it settles, on this machine.

    A process like the one that trains makes the plan, on a clock that counts from its start too, and ends.

    Raises:
        UserError: a training step fails.
    """
    resolve_machine(config)
    worker, _, words = _aside(config, train, _Signals(), plan_only=True)
    if not worker.planned:
        raise UserError(f"a training step fails here: {words or 'planning does not end'}"[:300])
    return worker.plan


def environment() -> dict[str, str]:
    """This process's, in which `speedtrain` is found as it was here."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def worker_environment(config: Config) -> dict[str, str]:
    """That of a process that trains, with so many threads."""
    return {
        **environment(),
        "OMP_NUM_THREADS": str(config.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS repeats its results bit for bit only with this
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MALLOC),
    }


def predict_run(source: Path, images: Path, out: Path) -> np.ndarray:
    """Predicts images with a run's weights, that of a killed run included.

    Writes `probabilities` float32 [N, K], `predicted` int64 [N], `classes`, the names of the K classes, and, where
    the images come from files, `files`, their N names.

    Args:
        images: an `.npz`, a folder, or an image file.
        out: an `.npz`; what was there before is replaced.

    Raises:
        UserError: not a run directory, no images there, or `out` cannot be written.
    """
    config, _ = read_run(source)
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: predictions are written as .npz; name it so")
    # how it was trained need not be how it predicts: in full precision, on what this machine has
    config.device, config.precision, config.threads = "auto", "fp32", None
    resolve_machine(config)
    torch.set_num_threads(config.threads or 1)
    classifier, classes = load_classifier(config, source / "weights.safetensors")
    probabilities = predict(classifier, config, load_images(images)[0], torch.device(config.device))
    arrays = {"probabilities": probabilities, "predicted": probabilities.argmax(1), "classes": np.array(classes)}
    if files := image_names(images):
        arrays["files"] = np.array(files)
    try:
        write_npz(out, **arrays)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return probabilities


def read_run(source: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration of a run that has saved something, were it killed, front and all, right after; and the facts
    stored with its weights.

    Raises:
        UserError: it is not a run directory, or holds no weights of a run.
    """
    for name in ("config.yaml", "weights.safetensors"):
        if not (source / name).is_file():
            raise UserError(f"{source}: not a run directory with something saved in it (there is no {name})")
    facts: dict[str, Any] = load_facts(source / "weights.safetensors")
    if not {"step", "classes", "data_sha256"} <= facts.keys():
        raise UserError(f"{source / 'weights.safetensors'}: not the weights of a run")
    return resolve(recipe=source / "config.yaml"), facts


def check_network(config: Config, train: Images) -> None:
    """Takes a few steps with a small version of the network and its tricks, so that what cannot work is said now.

    Raises:
        UserError: a trick cannot act on this model, or the model not on these images.
    """
    num_classes, side = len(train.classes), train.images.shape[1]
    device = torch.device(config.device)
    images = torch.tensor(train.images[:64], device=device)
    labels = torch.tensor(train.labels[:64], device=device)
    batch_size = min(8, config.batch_size) if isinstance(config.batch_size, int) else 8
    try:
        with torch.random.fork_rng():
            training = build_training(config, images, labels, num_classes, width=8, precision="fp32")
            training.differentiate = torch.Tensor.backward
            optimizer = training.configure_optimizers()
            indices = torch.arange(batch_size, device=device) % len(images)
            for training.progress in (0.0, 0.5, 1.0):
                side = training.make_batch(indices).images.shape[-1]
                training.step(indices, optimizer)
    except TrickError as error:
        raise UserError(str(error)) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        smaller = "" if side == train.images.shape[1] else ", which a trick makes of them,"
        raise UserError(f"{config.model} does not work on {side}×{side} images{smaller} ({why})") from None


def _idle(config: Config, told: Mapping[str, Any]) -> list[str]:
    """Warnings of what was told and changes nothing."""
    given = {key for key, value in told.items() if value is not None}
    idle = []
    if config.model != "resnet9":
        idle += [f"{key} has no effect on {config.model}" for key in ("width", "head_scale") if key in given]
    if not {"auto", "cifar10"} & {config.data, config.test} and "data_root" in given:
        idle += [f"--data-root has no effect on --data {config.data}"]
    return [f"warning: {line}" for line in idle]


def resolve_machine(config: Config) -> list[str]:
    """Decides device and threads, in `config`; returns what a person should know."""
    notes = []
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA GPU here; use --device cpu, or auto")
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cpu" and config.precision == "fp16":
        raise UserError("precision fp16 is for GPUs; on a CPU use bf16 or fp32")
    config.threads = config.threads or available_cores()
    if config.threads > available_cores():
        notes.append(
            f"warning: {config.threads} threads asked for on {available_cores()} cores: no more than that will be used"
        )
        config.threads = available_cores()
    return notes


def load_configured(config: Config, data: Any = None, test: Any = None) -> Data:
    """Loads the images, given ones or those that the configuration names; leaves in it what still holds when
    its config.yaml is used later and from another folder."""
    for key in ("data", "test", "data_root"):
        setattr(config, key, _absolute(getattr(config, key)))
    given, given_test = _given(data), _given(test)
    for kind, name in (("--data", config.data if given is None else ""), ("--test", config.test)):
        if name == ARRAYS and (kind == "--data" or given_test is None):
            raise UserError(f"{kind}: the run's images came from Python, not from a file; give their path")
    loaded = load_data(
        config.data if given is None else given,
        config.test if given_test is None else given_test,
        per_class=config.per_class,
        data_root=config.data_root,
    )
    if config.data == "auto":
        config.data = loaded.train.name
    config.data_root = _absolute(loaded.root)
    return loaded


ARRAYS = "arrays"


def _given(source: Any) -> Any:
    """Images handed over in memory; None where they are named."""
    return None if source is None or isinstance(source, str | Path) else source


def _named(source: Any) -> str | None:
    """How a configuration calls a source of images."""
    return ARRAYS if _given(source) is not None else source if source is None else str(source)


def _absolute(path: str | None) -> str | None:
    return path if path in (None, "auto", "cifar10", "digits", ARRAYS) else str(Path(str(path)).absolute())


def new_run_directory(out: str | Path | None) -> Path:
    """The run directory, made if need be.

    Raises:
        UserError: it exists and is not empty, or cannot be written.
    """
    if out == "":
        raise UserError("--out is empty; name a folder")
    run = Path(out) if out is not None else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    number = 1
    try:
        while True:
            try:
                run.mkdir(parents=True, exist_ok=out is not None)
                break
            except FileExistsError:
                if out is not None:
                    raise
                number += 1
                run = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}"
        if any(run.iterdir()):
            raise UserError(f"--out {run}: exists and is not empty; name a new folder")
        write_atomic(run / ".writable", b"")
        (run / ".writable").unlink()
    except OSError as error:
        raise UserError(f"--out {run}: cannot be written ({error.strerror})") from None
    return run.absolute()


def _write_config(run: Path, config: Config) -> None:
    write_atomic(run / "config.yaml", config.as_yaml().encode())


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP (a closed terminal) while a run is on: the first ends it early, the second kills."""

    def __init__(self) -> None:
        self.job: Guarded | None = None
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup's
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGHUP:  # a terminal that closes may send several, itself and by its shell
                return
            raise KeyboardInterrupt(number)
        self.received = number
        if self.job is not None:
            self.job.interrupt()


class _Worker:
    """The process that trains, and what it has told so far."""

    def __init__(
        self, config: Config, train: Images, run: Path, display: Display, replay: tuple[Path, int] | None
    ) -> None:
        self.config, self.train, self.run, self.display, self.replay = config, train, run, display, replay
        keys = ("model", "width", "batch_size", "precision")
        self.plan: dict[str, Any] = {key: getattr(config, key) for key in keys}
        self.planned = False
        self.last: dict[str, Any] = {}
        self.done: dict[str, Any] | None = None
        self.said: list[str] = []
        self.unsaved: str | None = None

    def work(self, signals: _Signals, *, max_steps: int | None = None, plan_only: bool = False) -> ExitStatus:
        """Lets the worker do its job until it ends or is ended.

        Args:
            max_steps: end after so many steps, whatever the clock says.
            plan_only: only plan.
        """
        replay, steps = self.replay or (None, 0)
        seconds = self.config.budget if replay is None else math.inf
        if max_steps is not None or plan_only:
            seconds = max(120.0, 10 * seconds)
        with (
            tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder,
            open(self.run / "log.txt", "ab") as log,
        ):
            job = Path(folder)
            np.save(job / "images.npy", self.train.images)
            np.save(job / "labels.npy", self.train.labels)
            told = {
                "config": dataclasses.asdict(self.config),
                "classes": self.train.classes,
                "about": {"data_sha256": self.train.sha256()},
                "run": str(self.run),
                "replay": replay and str(replay),
                "replay_steps": steps,
                "max_steps": max_steps,
                "plan_only": plan_only,
            }
            (job / "job.json").write_text(json.dumps(told), encoding="utf-8")
            # -P: a file called timing.py in the folder a person happens to be in is not ours
            command = [sys.executable, "-P", "-m", "speedtrain.training.worker", str(job)]
            with (
                Guarded(
                    command, seconds, grace=GRACE, env=worker_environment(self.config), output=log, on_event=self._hear
                ) as guarded,
                self.display.running(self._expected(), guarded.started, self.replay and self.replay[1]),
            ):
                signals.job = guarded
                if signals.received is not None:  # it came before there was a job to interrupt
                    guarded.interrupt()
                try:
                    return guarded.wait()
                finally:
                    signals.job = None

    def _expected(self) -> float:
        """Seconds that it will take: the budget, or where none binds what the run that is replayed took."""
        if self.replay is None:
            return self.config.budget
        phases: Any = load_facts(self.replay[0].with_name("weights.safetensors")).get("phases", {})
        return sum(phases.values())

    def catch_up(self) -> None:
        """Takes from the weights what was not heard: events are lost while this process is stopped."""
        with contextlib.suppress(UserError):
            facts: dict[str, Any] = load_facts(self.run / "weights.safetensors")
            if facts["images_seen"] > self.last.get("images_seen", 0):
                self.last = facts

    def last_words(self, exit_status: ExitStatus) -> str | None:
        """Where the worker died of an error of its own, which: the signal, or the last line of the log."""
        if exit_status.reason != "exited" or exit_status.returncode == 0:
            return None
        if exit_status.returncode < 0:
            return f"the training process was killed by {signal.Signals(-exit_status.returncode).name}"
        lines = (self.run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "the training process failed"

    def failure(self, exit_status: ExitStatus) -> str | None:
        """Its last words, and where to read more if they are of its log."""
        words = self.last_words(exit_status)
        return f"{words} (see {self.run / 'log.txt'})" if words and exit_status.returncode > 0 else words

    def _hear(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "plan":
                self.plan, self.planned = event["plan"], True
                for key in ("width", "batch_size", "precision"):
                    if self.plan[key] is not None:
                        setattr(self.config, key, self.plan[key])
                with _may_fail(self.display):
                    _write_config(self.run, self.config)
                for reason in self.plan["reasons"]:
                    self.display.say(reason)
            case "phase":
                self.last = event
            case "step":
                self.last = event
                self.display.step(event)
            case "done":
                self.done = event
            case "unsaved":
                self.unsaved = event["error"]
            case "say":
                self.said.append(event["text"])
                self.display.warn(event["text"])


def _aside(
    config: Config, train: Images, signals: _Signals, *, max_steps: int | None = None, plan_only: bool = False
) -> tuple[_Worker, ExitStatus, str | None]:
    """A worker that does a part of a run, quietly and in a folder that does not stay: how it ended, and its last words.

    Args:
        max_steps, plan_only: as of `_Worker.work`.
    """
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder:
        worker = _Worker(dataclasses.replace(config), train, Path(folder), Display(quiet=True), None)
        exit_status = worker.work(signals, max_steps=max_steps, plan_only=plan_only)
        return worker, exit_status, worker.last_words(exit_status)  # the log goes with the folder


def _describe(config: Config, data: Data, worker: _Worker, exit_status: ExitStatus, notes: list[str]) -> Result:
    """Everything of `result.json` but the score."""
    return {
        "schema": SCHEMA,
        "status": _status(exit_status, worker),
        "budget_seconds": config.budget,
        "wall_seconds": round(exit_status.wall_seconds, 3),
        "accuracy": None,
        "accuracy_on": "holdout" if data.test_is_holdout else "test",
        "num_test_images": len(data.test.images),
        "data": {
            "name": data.train.name,
            "num_train": len(data.train.images),
            "num_classes": len(data.train.classes),
            "classes": data.train.classes,
            "sha256": data.train.sha256(),
            "notes": list(data.notes),
        },
        "test_data": {"name": data.test.name, "sha256": data.test.sha256()},
        "tricks": config.tricks,
        "plan": worker.plan,
        "expected": expected(config, worker.plan, data.train, len(data.test.images)),
        "phases": _phases(worker, exit_status),
        "steps": worker.last.get("step", 0),
        "epochs": round(worker.last.get("images_seen", 0) / len(data.train.images), 3),
        "images_seen": worker.last.get("images_seen", 0),
        "images_per_second": _rate(worker),
        "seed": config.seed,
        "device": _device_name(config),
        "threads": config.threads,
        "threads_used": worker.last.get("threads", 0.0),
        "repairs": worker.last.get("repairs", 0),
        "versions": {
            "python": platform.python_version(),
            "speedtrain": __version__,
            **{name: metadata.version(name) for name in ("torch", "lightning", "timm", "numpy")},
        },
        **({"replay_of": str(worker.replay[0].parent)} if worker.replay else {}),
        "command": " ".join(map(shlex.quote, sys.orig_argv)),
        "events": [*notes, *worker.said],
    }


FITTED_AT = ("tricks", "lr", "momentum", "nesterov", "weight_decay", "schedule", "head_scale")
"""Keys of the configuration that were the default's in all runs behind the planner's law."""


def expected(config: Config, plan: Mapping[str, Any], train: Images, num_test_images: int) -> dict[str, float] | None:
    """The accuracy that a plan promises on photographs as hard as CIFAR-10's, with the interval in which about 95 % of
    runs lie that are scored on so many test images. None where the law behind it knows nothing: of other recipes than
    the default, of other networks, and of other batches, numbers of classes, of images and of epochs than near
    those of the runs that it was fitted to. A plan that had nothing to decide promises nothing either.

    The interval is that of two normal spreads: of the law, by runs left out of its fit, and of the test sample.
    """
    auto = resolve(recipe="auto", budget=config.budget)
    hope: float | None = plan.get("accuracy")
    same = all(getattr(config, key) == getattr(auto, key) for key in FITTED_AT)
    if hope is None or not same or plan["batch_size"] != BATCH_SIZE:
        return None
    if not RESNET9_RANGE.holds(plan["width"], plan["epochs"], len(train.images), len(train.classes)):
        return None
    reach = CONFIDENT * math.hypot(RESNET9.deviation, math.sqrt(hope * (1 - hope) / num_test_images))
    return {"accuracy": hope, "low": max(0.0, hope - reach), "high": min(1.0, hope + reach)}


def _status(exit_status: ExitStatus, worker: _Worker) -> str:
    if exit_status.reason in ("interrupted", "abandoned") or (worker.done or {}).get("stopped"):
        return "interrupted"
    if exit_status.reason == "deadline" or exit_status.returncode == -signal.SIGKILL:
        return "killed"
    if exit_status.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):  # it came before training began, or after
        return "interrupted"
    return "finished" if exit_status.returncode == 0 else "failed"


def _phases(worker: _Worker, exit_status: ExitStatus) -> dict[str, float]:
    """Where the wall time went. What the worker could not tell any more is its leaving, or was lost to a kill."""
    told = (worker.done or worker.last).get("phases", {})
    rest = exit_status.wall_seconds - sum(told.values())
    phases = {**told, "exit" if worker.done else "untold": rest}
    return {name: round(seconds, 3) for name, seconds in phases.items()}


def _rate(worker: _Worker) -> float:
    seconds = worker.last.get("phases", {}).get("train", 0.0)
    return round(worker.last["images_seen"] / seconds, 1) if seconds else 0.0


def _device_name(config: Config) -> str:
    if config.device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({processor_name()})"


def _score(result: Result, config: Config, data: Data, run: Path) -> np.ndarray:
    """Class probabilities float32 [N, K] of the test images, by the saved weights; fills in the accuracy."""
    from scipy import stats  # half a second, which bad input need not wait for

    torch.set_num_threads(config.threads or 1)
    weights = run / "weights.safetensors"
    classifier, _ = load_classifier(config, weights)
    probabilities = predict(classifier, config, data.test.images, torch.device(config.device))
    predicted = probabilities.argmax(1)
    correct = int((predicted == data.test.labels).sum())
    result["accuracy"] = correct / len(predicted)
    # Wilson's is sound near 0 and 1 too, unlike ± 1.96 standard errors
    interval = stats.binomtest(correct, len(predicted)).proportion_ci(method="wilson")
    result["accuracy_interval"] = float(interval.low), float(interval.high)
    facts = load_facts(weights)
    result["saved_at"] = {key: facts[key] for key in ("step", "progress", "images_seen")}
    return probabilities


@contextlib.contextmanager
def _may_fail(display: Display) -> Iterator[None]:
    """A file that cannot be written, on a full disk say, is said and does not cost the rest."""
    try:
        yield
    except OSError as error:
        display.warn(f"could not write {error.filename or 'a file of the run'} ({error.strerror})")


def _too_small(config: Config, train: Images, display: Display, signals: _Signals) -> str:
    """Why nothing was trained; finds out how long a single step takes here by letting one happen."""
    display.say("the budget ended before the first step was saved; measuring what would be enough …")
    probe, exit_status, words = _aside(config, train, signals, max_steps=1)
    if probe.done is None or probe.done["step"] == 0:
        limit = f"a budget of {config.budget:g} s is too small to take a single step here; "
        return words or f"{limit}{exit_status.wall_seconds:.0f} s were not enough either"
    enough = math.ceil(1.3 * exit_status.wall_seconds + 0.5)
    if enough <= config.budget:
        return (
            f"the budget of {config.budget:g} s ended before the first step was saved, which a second try did in "
            f"{exit_status.wall_seconds:.1f} s: something else keeps this machine busy"
        )
    return (
        f"a budget of {config.budget:g} s is too small to take a single step here; about {enough} s is the smallest, "
        "as busy as this machine is now"
    )
