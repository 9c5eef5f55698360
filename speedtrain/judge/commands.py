"""The commands for submissions: `verify`, `judge` and `board`.

All paths become absolute here, since programs that run in other folders read them.
"""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.data import Data
    from speedtrain.judge.settings import Settings

VERBS = {
    "verify": "run a submission as a judge will, and list every rule as kept or broken",
    "judge": "run submissions in turn, each in a sandbox, and rank them",
    "board": "score a judged board again from its stored predictions, and write it again",
}


def add_options(parsers: Mapping[str, ArgumentParser]) -> None:
    """Adds the options of these commands.

    Args:
        parsers: command → its parser.
    """
    verify, judge, board = (parsers[verb] for verb in ("verify", "judge", "board"))
    verify.add_argument("submission", metavar="ZIP", help="the submission")
    verify.add_argument("--budget", metavar="SECONDS", default="60", help="time for training (default: 60)")
    verify.add_argument(
        "--data", metavar="digits|cifar10|PATH", default="digits", help="labelled images to train and test on"
    )
    judge.add_argument("submissions", metavar="ZIP", nargs="+", help="the submissions")
    judge.add_argument("--train", metavar="PATH", required=True, help="training images, with labels")
    judge.add_argument("--test", metavar="PATH", required=True, help="test images; no submission sees their labels")
    judge.add_argument("--out", metavar="BOARD", required=True, help="folder of the board, new or empty")
    judge.add_argument("--budget", metavar="SECONDS", default="600", help="time for each training (default: 600)")
    judge.add_argument("--runs", metavar="N", default="5", help="runs of each submission (default: 5)")
    judge.add_argument("--resume", action="store_true", help="continue a judging that was interrupted")
    judge.add_argument(
        "--drift",
        metavar="PART",
        default="0.15",
        help="repeat a run when the machine's speed differs by more than this part from the speed at the beginning "
        "(default: 0.15)",
    )
    for parser in (verify, judge):
        add = parser.add_argument
        add("--test-budget", metavar="SECONDS", default="120", help="time for predicting (default: 120)")
        add("--memory", metavar="SIZE", help="memory for all processes (default: 12G, at most 3/4 of the machine)")
        add("--disk", metavar="SIZE", default="2G", help="disk space for all that is written (default: 2G)")
        add("--cpus", metavar="N", help="number of cores (default: all)")
        add("--processes", metavar="N", default="1024", help="number of processes and threads (default: 1024)")
    confine = "confine by bubblewrap, or not at all (default: bwrap"
    judge.add_argument("--sandbox", metavar="bwrap|none", default="bwrap", help=f"{confine})")
    verify.add_argument("--sandbox", metavar="bwrap|none", help=f"{confine} where it works)")
    board.add_argument("--out", metavar="BOARD", required=True, help="folder of the board")
    board.add_argument("--test", metavar="PATH", required=True, help="test images; only their labels may have changed")


def _number(option: str, text: str, whole: bool = False) -> float:
    """A positive number.

    Raises:
        UserError: it is not one.
    """
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{option} must be a positive {'whole ' if whole else ''}number, got {text!r}")
    return value


def _size(option: str, text: str) -> int:
    """Bytes from 500M, 2G, 1.5GiB, 4096."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    number = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else 0
    if number < 1 << 20:
        raise UserError(f"{option} must be a size of at least 1M, as in {option} 2G, got {text!r}")
    return int(number)


def _settings(options: Namespace, runs: int, drift: float, sandbox: str) -> "Settings":
    from speedtrain.judge.settings import Settings
    from speedtrain.machine import available_cores, total_memory

    if sandbox not in ("bwrap", "none"):
        raise UserError(f"--sandbox must be bwrap or none, got {sandbox!r}")
    return Settings(
        budget=_number("--budget", options.budget),
        test_budget=_number("--test-budget", options.test_budget),
        runs=runs,
        memory=_size("--memory", options.memory) if options.memory else min(12 << 30, total_memory() // 4 * 3),
        disk=_size("--disk", options.disk),
        processes=int(_number("--processes", options.processes, whole=True)),
        cpus=int(_number("--cpus", options.cpus, whole=True)) if options.cpus else available_cores(),
        sandbox="bwrap" if sandbox == "bwrap" else "none",
        drift=drift,
    )


def _report(line: str) -> None:
    print(_printable(line), file=sys.stderr, flush=True)


def _printable(line: str) -> str:
    """A line without control characters: a stranger's name could drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in line)


def _path(text: str) -> Path:
    """An absolute path."""
    return Path(text).absolute()


def _refuse_several_labels(data: "Data") -> None:
    for images in (data.train, data.test):
        if images.votes is not None:
            raise UserError(f"{images.name}: labels of several people; a contest needs one label an image")


def _judge(options: Namespace) -> int:
    from speedtrain.data import load_data
    from speedtrain.judge.board import write_board
    from speedtrain.judge.judging import judge
    from speedtrain.judge.verdict import summarize

    runs = int(_number("--runs", options.runs, whole=True))
    settings = _settings(options, runs, _number("--drift", options.drift), options.sandbox)
    train, test, out = map(_path, (options.train, options.test, options.out))
    data = load_data(train, test, per_class="all")
    _refuse_several_labels(data)
    archives = [_path(archive) for archive in options.submissions]
    secret = {"--train": train, "--test": test}
    judge(archives, data, out, settings, secret=secret, resume=options.resume, report=_report)
    for entry in write_board(out, data.test.labels)["entries"]:
        low, high = entry["interval"]
        line = f"{entry['rank'] or '–':>3}  {entry['accuracy']:7.2%}  ({low:.2%} to {high:.2%})  {entry['name']}"
        print(_printable(f"{line}: {summarize(entry)}"))
    print(f"the board is {out / 'index.html'}; publish all of {out} but its folder private/")
    return 0


def _verify(options: Namespace) -> int:
    from speedtrain.data import load_data
    from speedtrain.judge.sandbox_check import works
    from speedtrain.judge.verify import verify

    sandbox = options.sandbox
    if sandbox is None:
        sandbox = "bwrap" if works() else "none"
    settings = _settings(options, 1, math.inf, sandbox)
    data = load_data(options.data)  # a name, or a path that only this process reads
    _refuse_several_labels(data)
    rules = verify(_path(options.submission), data, settings, _report)
    for rule in rules:
        detail = f": {rule.detail}" if rule.detail else ""
        print(f"{'kept  ' if rule.kept else 'BROKEN'}  {rule.name}{detail}")
    broken = sum(not rule.kept for rule in rules)
    print(f"{broken} of {len(rules)} rules broken" if broken else "every rule is kept")
    return 1 if broken else 0


def _board(options: Namespace) -> int:
    from speedtrain.judge.board import write_board
    from speedtrain.judge.judging import test_labels

    out = _path(options.out)
    write_board(out, test_labels(out, _path(options.test)))
    print(f"the board is {out / 'index.html'}")
    return 0


COMMANDS = {"verify": _verify, "judge": _judge, "board": _board}
