"""`bench`: measures this machine in a process like the one that trains, then trains for real, and writes the report."""

import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speedtrain import __version__
from speedtrain.bench.report import write_report
from speedtrain.config import Config, resolve
from speedtrain.data.configured import load_configured
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.run.api import train
from speedtrain.run.checks_before_start import check_network, resolve_machine
from speedtrain.run.plan import measure_plan
from speedtrain.run.progress import Display
from speedtrain.run.run_directory import new_run_directory
from speedtrain.training.process import worker_environment
from timing import Guarded

SCHEMA = 1


def bench(
    budgets: Sequence[float] = (60.0,),
    data: str | Path | None = None,
    test: str | Path | None = None,
    *,
    out: str | Path = "bench",
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Measures this machine, the tricks and the harness: `python -m speedtrain bench`.

    On two cores the measurements take three to four minutes; the budgets add to that.

    Args:
        budgets: seconds. One run of each budget shows how much of it is spent on training. The plan for the first
            budget sets the width, batch size and precision of all measurements. Default: 60.
        data: training images by name or path, as for `train`.
        test: test images by name or path, as for `train`.
        out: directory, new or empty. Default: `bench`.
        quiet: show no progress. Default: yes.
        options: as for `train`: recipe, settings, device, threads, …

    Returns:
        The content of `bench.json`: `plan`, `products` (billions of operations per second), `convolutions` (rate for
        each stage and width, and its share of the rate of a matrix product), `step` (which share of a step each kind of
        operation takes), `tricks` (percent that each adds to a step), `overhead` (percent that the harness adds to a
        step of a bare loop), `predictions` (images per second for each batch size), and `budgets` (seconds and shares
        of each phase).

    Raises:
        UserError: bad input, or a measurement or a run failed.
    """
    if not budgets:
        raise UserError("no budget; say which, as in --budgets 60,600")
    # one network is measured, and what a whole budget goes into
    options["settings"] = {"or_members": None, "max_epochs": None, **(options.get("settings") or {})}
    configs = [resolve(budget=budget, data=data, test=test, **options) for budget in dict.fromkeys(budgets)]
    config = configs[0]
    if config.members:
        raise UserError("bench measures one network, and the recipe names several members: add --set members=[]")
    loaded = load_configured(config, progress=Display(quiet).reading)
    resolve_machine(config)
    check_network(config, loaded.train)
    folder = new_run_directory(out)
    write_atomic(folder / "config.yaml", config.as_yaml().encode())

    def show(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    show("planning …")
    plan = measure_plan(config, loaded.train)
    command = " ".join(map(shlex.quote, sys.orig_argv))
    result: dict[str, Any] = {"schema": SCHEMA, "data": config.data, "command": command, "version": __version__}
    result |= {"plan": plan, **_measure(config, plan, folder, show), "budgets": []}
    for each in configs:
        show(f"a run of {each.budget:g} s …")
        run_directory = folder / f"run-{each.budget:g}"
        run = train(budget=each.budget, data=data, test=test, out=run_directory, quiet=True, **options)
        result["budgets"].append(_summary(run, each.budget))
    write_report(folder, result)
    return result


def _measure(config: Config, plan: Mapping[str, Any], folder: Path, show: Callable[[str], None]) -> dict[str, Any]:
    """Runs `speedtrain.bench.measure` in a process of its own, with the environment of a process that trains.

    Args:
        config: the configuration, its device and threads resolved; already written to `folder`.
        plan: what the planner chose.
        folder: for the files that the two processes exchange; they are deleted.
        show: called with each line of progress.

    Returns:
        What the process measured.

    Raises:
        UserError: the process failed.
    """
    plan_file, measured_file, log_file = (folder / name for name in ("plan.json", "measured.json", "log.txt"))
    write_atomic(plan_file, json.dumps(plan).encode())
    command = [sys.executable, "-P", "-m", "speedtrain.bench.measure"]
    command += [str(folder / "config.yaml"), str(plan_file), str(measured_file)]

    def on_event(event: Mapping[str, Any]) -> None:
        if event["event"] == "message":
            show(event["text"])

    environment = worker_environment(config)
    with (
        open(log_file, "wb") as log,
        Guarded(command, math.inf, env=environment, output=log, on_event=on_event) as process,
    ):
        exit_status = process.wait()
    if exit_status.returncode or not measured_file.exists():
        lines = log_file.read_text("utf-8", errors="replace").strip().splitlines()
        raise UserError(f"a measurement fails here: {(lines or [f'exit code {exit_status.returncode}'])[-1][:300]}")
    measured: dict[str, Any] = json.loads(measured_file.read_text("utf-8"))
    for path in (plan_file, measured_file, log_file):
        path.unlink()
    return measured


def _summary(run: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """What the report shows of a real run.

    Raises:
        UserError: the run failed.
        KeyboardInterrupt: a person ended it.
    """
    if run["status"] == "interrupted":
        raise KeyboardInterrupt(run["signal"])
    if run["status"] == "failed":
        raise UserError(f"a run of {budget:g} s fails here: {run['error']}")
    facts = {key: run[key] for key in ("budget_seconds", "wall_seconds", "accuracy", "status", "epochs", "device")}
    facts |= {"width": run["plan"]["width"], "seconds": run["phases"]}
    return {**facts, "train_share": round(run["phases"].get("train", 0.0) / budget, 4)}
