"""The front of `bench`: measures in a process like the one that trains, runs real budgets, writes what came out."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speedtrain import __version__
from speedtrain.bench.report import write_report
from speedtrain.config import resolve
from speedtrain.data.configured import load_configured
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.run.api import train
from speedtrain.run.checks import check_network, resolve_machine
from speedtrain.run.directory import new_run_directory
from speedtrain.run.launcher import worker_environment
from speedtrain.run.plan import measure_plan
from timing import Guarded

SCHEMA = 1


def bench(
    budgets: Sequence[float] = (60.0,),
    data: str | Path | None = None,
    test: str | Path | None = None,
    *,
    out: str | Path = "bench",
    quiet: bool = True,
    **told: Any,
) -> dict[str, Any]:
    """Measures this machine, the tricks and the harness on it: `python -m speedtrain bench`.

    Takes three to four minutes on two cores, and the budgets on top.

    Args:
        budgets: seconds; one run of each, for the share that is spent training. The first one's plan says with
            which width, batch size and precision tricks and harness are measured.
        data, test: as for `train`, but by name or path.
        out: directory, new or empty.
        quiet: show no progress.
        told: as for `train`: recipe, settings, device, threads, …

    Returns:
        What `bench.json` holds: `plan`, `products` (billions of operations a second), `convolutions` (rate of each
        stage and width, and its share of the product's), `tricks` (percent that each adds to a step), `overhead`
        (percent that the harness adds to a bare loop's step), and `budgets` (seconds and shares of each phase).

    Raises:
        UserError: bad input, or a measurement failed.
    """
    if not budgets:
        raise UserError("no budget; say which, as in --budgets 60,600")
    configs = [resolve(budget=budget, data=data, test=test, **told) for budget in dict.fromkeys(budgets)]
    loaded = load_configured(configs[0])
    resolve_machine(configs[0])
    check_network(configs[0], loaded.train)
    folder = new_run_directory(out)
    write_atomic(folder / "config.yaml", configs[0].as_yaml().encode())
    if not quiet:
        print("planning …", flush=True)
    plan = measure_plan(configs[0], loaded.train)
    planned, measured = folder / "plan.json", folder / "measured.json"
    write_atomic(planned, json.dumps(plan).encode())
    command = [sys.executable, "-P", "-m", "speedtrain.bench.measure", str(folder / "config.yaml")]

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "message" and not quiet:
            print(event["text"], flush=True)

    told_file = folder / "log.txt"
    with (
        open(told_file, "wb") as log,
        Guarded(
            [*command, str(planned), str(measured)],
            math.inf,
            env=worker_environment(configs[0]),
            output=log,
            on_event=hear,
        ) as job,
    ):
        exit_status = job.wait()
    if exit_status.returncode or not measured.exists():
        lines = told_file.read_text("utf-8", errors="replace").strip().splitlines()
        raise UserError(f"a measurement fails here: {(lines or [f'exit code {exit_status.returncode}'])[-1][:300]}")
    told_file.unlink()
    told_by = {"data": configs[0].data, "command": " ".join(map(shlex.quote, sys.orig_argv)), "version": __version__}
    result: dict[str, Any] = {"schema": SCHEMA, **told_by, "plan": plan, **json.loads(measured.read_text("utf-8"))}
    measured.unlink()
    planned.unlink()
    result["budgets"] = []
    for config in configs:
        if not quiet:
            print(f"a run of {config.budget:g} s …", flush=True)
        name = folder / f"run-{config.budget:g}"
        run = train(budget=config.budget, data=data, test=test, out=name, quiet=True, **told)
        if run["status"] == "interrupted":
            raise KeyboardInterrupt(run["signal"])
        if run["status"] == "failed":
            raise UserError(f"a run of {config.budget:g} s fails here: {run['error']}")
        phases = run["phases"]
        facts = {key: run[key] for key in ("budget_seconds", "wall_seconds", "accuracy", "status", "epochs")}
        facts |= {"device": run["device"], "width": run["plan"]["width"], "seconds": phases}
        result["budgets"].append({**facts, "train_share": round(phases.get("train", 0.0) / config.budget, 4)})
    write_report(folder, result)
    return result
