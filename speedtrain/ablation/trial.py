"""Trials on disk and in processes: each one is a real run of the main job, and is trained once."""

import fcntl
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from speedtrain.ablation.design import Design
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.machine import core_numbers
from speedtrain.run.run import environment, measure_plan
from timing import Guarded

SCHEMA = 1
GRACE = 1.0
"""Seconds from the end of a sweep to that of its trials: they are trained anew in any case."""

Row = dict[str, Any]
"""A trial's result: variant, seed, status, accuracy, images_per_second, epochs, width, seconds, threads, error, run."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        folder: where it lives; `run/` in it is the run's own directory, and `done.json` says that it is over.
        config: all it is told, seed and paths of the images included.
    """

    variant: str
    folder: Path
    config: Config

    def done(self) -> Row | None:
        """The result where the trial is over; a trial without one has not been, or was cut short."""
        try:
            return json.loads((self.folder / "done.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def finish(self, row: Row) -> Row:
        """Makes the result last. From here on the trial is never run again."""
        write_atomic(self.folder / "done.json", json.dumps(row, indent=2, ensure_ascii=False).encode())
        return row


def make_trials(design: Design, seeds: Sequence[int], out: Path, subsets: bool = False) -> list[Trial]:
    """Every variant with every seed. Seed by seed: an unfinished sweep already compares all variants, and what
    changes slowly on the machine falls on all of them alike. `subsets`: each seed has training images of its own."""
    trials = []
    for seed in seeds:
        for number, (name, config) in enumerate(design.variants.items()):
            short = re.sub(r"[^\w.=+-]+", "-", name)[:60]
            train = f"train-{seed}.npz" if subsets else "train.npz"
            images, test = (str(out / "data" / file) for file in (train, "test.npz"))
            told = replace(config, seed=seed, per_class="all", data_root=None, data=images, test=test)
            trials.append(Trial(name, out / "trials" / f"{number:03}-{short}" / f"seed-{seed}", told))
    return trials


def run_trial(
    trial: Trial, cores: Sequence[int] | None = None, on_start: Callable[[Guarded], None] | None = None
) -> Row:
    """Trains one trial from the start, whatever an earlier attempt left behind.

    Args:
        cores: the CPU cores that it gets; default: all.
        on_start: given the process, so that it can be ended early.

    Returns:
        Its result, not yet made to last; `status` is `interrupted` where it was ended early.
    """
    shutil.rmtree(trial.folder, ignore_errors=True)
    trial.folder.mkdir(parents=True)
    recipe, run = trial.folder / "recipe.yaml", trial.folder / "run"
    recipe.write_text(trial.config.as_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "speedtrain", "train", "--recipe", str(recipe), "--out", str(run), "--quiet"]
    # the run keeps its own budget; this limit is only for one that hangs before or after it
    limit = 2 * trial.config.budget + 900
    log_path = trial.folder / "log.txt"
    with (
        open(log_path, "wb") as log,
        Guarded(command, limit, grace=GRACE, env=environment(), output=log) as job,
    ):
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(job.pid, cores)  # all that it starts inherits them
        if on_start is not None:
            on_start(job)
        ended = job.wait()
    row = failed_row(trial, None)
    if (run / "result.json").exists():
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        row |= {key: result.get(key) for key in ("status", "accuracy", "images_per_second", "epochs", "error")}
        row["seconds"], row["width"] = result.get("wall_seconds"), result["plan"]["width"]
    elif ended.reason in ("interrupted", "abandoned"):
        row["status"] = "interrupted"
    if row["accuracy"] is None and not row["error"]:
        said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        row["error"] = said[-1] if said else f"the run ended ({ended.reason}, exit status {ended.returncode})"
    return row


def failed_row(trial: Trial, error: str | None) -> Row:
    """The result of a trial of which nothing is known but why."""
    row: Row = {"variant": trial.variant, "seed": trial.config.seed, "status": "failed", "accuracy": None}
    row |= {
        "images_per_second": None,
        "epochs": None,
        "width": None,
        "seconds": None,
        "threads": trial.config.threads,
        "error": error,
    }
    return {**row, "run": str(Path(*trial.folder.parts[-3:], "run"))}


class Engine(Protocol):
    """Where trials run.

    Attributes:
        at_once: trials at a time.
        threads: of each trial.
        where: in words.
    """

    at_once: int
    threads: int
    where: str

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """What the planner makes of a configuration where the trials run."""
        ...

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials and makes each result last; yields them as they come."""
        ...


class Local:
    """This machine, its cores shared out to `workers` trials at a time.

    Raises:
        UserError: more workers than cores, more threads than a share has, or several workers and one GPU.
    """

    def __init__(self, config: Config, workers: int = 1) -> None:
        self._shares = split_cores(workers)
        if config.device == "cuda" or (config.device != "cpu" and workers > 1):
            import torch

            if config.device == "cuda" and not torch.cuda.is_available():
                raise UserError("--device cuda: torch sees no CUDA GPU here; use --device cpu, or auto")
            if workers > 1 and torch.cuda.is_available():
                raise UserError("--workers shares out CPU cores, not the GPU; use --device cpu, or one worker")
        self.at_once = workers
        self.threads = config.threads or len(self._shares[0])
        if workers > 1 and self.threads > len(self._shares[0]):
            raise UserError(f"--threads {self.threads}: {workers} workers get {len(self._shares[0])} cores each")
        self.where = "one at a time" if workers == 1 else f"{workers} at a time on shares of the cores"

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        """What the planner makes of a configuration on this machine."""
        return measure_plan(config, train)

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        """Runs trials, one on each share of the cores at a time; yields results as they come.

        Raises:
            UserError: a trial was ended early by someone else's signal.
        """
        yield from _run_local(trials, self._shares)


def _run_local(trials: Sequence[Trial], cores: Sequence[Sequence[int]]) -> Generator[Row, None, None]:
    free = list(cores)
    live: set[Guarded] = set()
    stopping = threading.Event()

    def work(trial: Trial) -> tuple[Trial, Row] | None:
        if stopping.is_set():
            return None
        share = free.pop()
        jobs: list[Guarded] = []

        def started(job: Guarded) -> None:
            jobs.append(job)
            live.add(job)
            if stopping.is_set():
                job.interrupt()

        try:
            return trial, run_trial(trial, share, started)
        finally:
            live.difference_update(jobs)
            free.append(share)

    with ThreadPoolExecutor(len(cores)) as pool:
        waiting = [pool.submit(work, trial) for trial in trials]
        try:
            for future in as_completed(waiting):
                ended = future.result()
                if ended is None:
                    continue
                trial, row = ended
                if row["status"] == "interrupted":
                    raise UserError(f"{trial.variant}, seed {trial.config.seed}: interrupted; go on with --resume")
                yield trial.finish(row)
        finally:
            stopping.set()
            for job in list(live):
                job.interrupt()


def split_cores(workers: int) -> list[list[int]]:
    """This process's cores in `workers` equal shares.

    Raises:
        UserError: there are fewer cores than workers.
    """
    cores = core_numbers()
    if not 1 <= workers <= len(cores):
        raise UserError(f"--workers {workers}: this machine has {len(cores)} cores to share out")
    each = len(cores) // workers
    return [cores[number * each : (number + 1) * each] for number in range(workers)]


@contextmanager
def sole_owner(out: Path) -> Iterator[None]:
    """Holds `out` for this process; the hold ends with the process, however that ends.

    Raises:
        UserError: another sweep holds it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 (held open until the end)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out {out}: another sweep is running there") from None
        yield


def settle(out: Path, told: Mapping[str, Any], resume: bool) -> None:
    """Writes down what the sweep is, or makes sure that it is still the same.

    Args:
        told: JSON values, by name: all that makes a trial what it is.

    Raises:
        UserError: there is a sweep and it is not to be resumed, or it is another one.
    """
    path = out / "sweep.json"
    content = json.loads(json.dumps({"schema": SCHEMA, **told}))
    if not path.exists():
        if any(entry.name != ".lock" for entry in out.iterdir()):
            raise UserError(f"--out {out}: exists and is not empty; name a new folder")
        write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False).encode())
        return
    if not resume:
        raise UserError(f"--out {out}: there is a sweep already; go on with --resume, or name a new folder")
    before = json.loads(path.read_text(encoding="utf-8"))
    for key in content:
        if content[key] != before.get(key):
            raise UserError(f"--resume: {key} is not what it was when {out} was begun; name a new folder")
