"""The commands `train`, `replay`, `predict` and `plan`: from options of the command line to a call and its exit code.

Light to import: each command imports what it needs when it runs.
"""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from jsonargparse import Namespace

from speedtrain.member_configs import in_words


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Prints, without an error where the terminal has been closed."""
    with suppress(OSError):
        print(line, file=stream, flush=True)


def train_command(options: Namespace, run_arguments: dict[str, Any]) -> int:
    """Trains; `run_arguments` are the options of the run, as arguments of `speedtrain.train`."""
    from speedtrain.run.api import train

    result = train(**run_arguments, logger=options.log, out=options.out, quiet=options.quiet)
    if options.quiet and result["accuracy"] is not None:
        print_line(f"accuracy {result['accuracy']:.2%} in {result['out']}")
    return _exit_code(result)


def replay_command(options: Namespace) -> int:
    """Trains again by a run's log; the exit code is 1 where the weights differ."""
    from speedtrain.run.api import replay

    result = replay(Path(options.run), options.out, quiet=options.quiet)
    same = result["identical_weights"]
    print_line(f"the weights are {'bit for bit the same' if same else 'NOT the same'} as in {options.run}")
    return _exit_code(result) or (0 if same else 1)


def _exit_code(result: dict[str, Any]) -> int:
    if result["status"] == "interrupted":
        return 128 + result.get("signal", signal.SIGTERM)
    return 0 if result["accuracy"] is not None and result["status"] != "failed" else 1


def predict_command(options: Namespace) -> int:
    """Predicts; the exit code is 1 where a file cannot be read."""
    from speedtrain.model.predict_command import predict_to_file
    from speedtrain.run.progress import Display

    predictions = predict_to_file(
        Path(options.run),
        Path(options.images),
        Path(options.out),
        exact=options.exact,
        each_class=options.each_class,
        progress=Display().counting("predicting"),
    )
    problems = predictions.problems
    for place, why in problems.items():
        what = f"not predicted, cannot be read as an image ({' '.join(why.split())})"
        print_line(f"{predictions.files[place]}: {what}", sys.stderr)
    print(f"{len(predictions) - len(problems)} predictions in {options.out}")
    return 1 if problems else 0


def _print_plan(chosen: dict[str, Any]) -> None:
    """What was decided for one network, and what was measured for it."""
    for key in ("model", "side", "width", "batch_size", "precision", "resolutions", "ranks"):
        if chosen[key] is not None:
            print(f"  {key:18} {chosen[key]}")
    if chosen["added"]:
        print(f"  {'added':18} {', '.join(chosen['added'])}")
    print(f"  {'images_per_second':18} {chosen['images_per_second']:.0f}  (about {chosen['epochs']:.1f} epochs)")
    _print_measured(chosen)


def _print_measured(chosen: dict[str, Any]) -> None:
    """The reasons of a plan, and the networks that were measured for it."""
    print("because")
    for reason in chosen["reasons"] or ["the recipe pins everything"]:
        print(f"  {reason}")
    print("measured (width, precision, images/s, epochs, predicted accuracy)")
    for row in chosen["alternatives"]:
        name = "as built" if row["width"] is None else str(row["width"])
        accuracy = "" if row["accuracy"] is None else f"  {row['accuracy']:8.1%}"
        print(f"  {name:>8}  {row['precision']}  {row['images_per_second']:8.0f}  {row['epochs']:8.1f}{accuracy}")


def plan_command(options: Namespace, run_arguments: dict[str, Any]) -> int:
    """Shows the plan; `run_arguments` as for `train_command`."""
    from speedtrain.run.plan import plan

    config, chosen, notes = plan(**run_arguments)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"on {config.device} with {config.threads} threads, in {config.budget:g} s:")
    print(f"  {'tricks':18} {', '.join(config.tricks) or 'none'}")
    members = chosen.get("members")
    if members and chosen["reasons"]:
        print("one network alone was measured, and several are taken")
        _print_measured(chosen)
    for number, each in enumerate(members or [chosen], 1):
        if members:
            print(f"network {number} of {len(members)}, {in_words(config.members[number - 1])}")
        _print_plan(each)
    if expected := chosen["expected"]:
        interval = f"{expected['low']:.1%} to {expected['high']:.1%}"
        print(f"expected on images like CIFAR-10's: {expected['accuracy']:.1%} ({interval})")
    elif chosen["accuracy"] is not None:
        print("the predictions are for CIFAR-10 and the default recipe; this run may reach more or less")
    return 0
