"""The verbs of submissions: `verify`, `judge` and `board`."""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.judge.judging import Settings

VERBS = {
    "verify": "do with a submission what a judge will do, and list every rule as kept or broken",
    "judge": "run submissions in turn, each confined, and rank them",
    "board": "score a judged board again from its stored predictions, and write it again",
}


def add_options(parsers: Mapping[str, ArgumentParser]) -> None:
    """The options of these verbs."""
    verify, judge, board = (parsers[verb] for verb in ("verify", "judge", "board"))
    verify.add_argument("submission", metavar="ZIP", help="the submission")
    verify.add_argument("--budget", metavar="SECONDS", default="60", help="for training (default: 60)")
    verify.add_argument(
        "--data", metavar="digits|cifar10|PATH", default="digits", help="labelled images to train and test on"
    )
    judge.add_argument("submissions", metavar="ZIP", nargs="+", help="the submissions")
    judge.add_argument("--train", metavar="PATH", required=True, help="training images")
    judge.add_argument("--test", metavar="PATH", required=True, help="test images; their labels stay outside")
    judge.add_argument("--out", metavar="BOARD", required=True, help="folder of the board, new or empty")
    judge.add_argument("--budget", metavar="SECONDS", default="600", help="for each training (default: 600)")
    judge.add_argument("--runs", metavar="N", default="5", help="of each submission (default: 5)")
    judge.add_argument("--resume", action="store_true", help="go on where the same judging was interrupted")
    judge.add_argument(
        "--drift",
        metavar="PART",
        default="0.15",
        help="repeat a run when the machine's speed differs by more from that at the beginning (default: 0.15)",
    )
    for parser in (verify, judge):
        add = parser.add_argument
        add("--test-budget", metavar="SECONDS", default="120", help="for predicting (default: 120)")
        add("--memory", metavar="SIZE", help="of all processes (default: 12G, or three quarters of what is there)")
        add("--disk", metavar="SIZE", default="2G", help="for all that is written (default: 2G)")
        add("--cpus", metavar="N", help="cores (default: all)")
        add("--processes", metavar="N", default="1024", help="processes and threads (default: 1024)")
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
    from speedtrain.judge.judging import Settings
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


def _say(line: str) -> None:
    print("".join(c if c.isprintable() else " " for c in line), file=sys.stderr, flush=True)


def _judge(options: Namespace) -> int:
    from speedtrain.data import load_data
    from speedtrain.judge.board import summary, write_board
    from speedtrain.judge.judging import judge

    runs = int(_number("--runs", options.runs, whole=True))
    settings = _settings(options, runs, _number("--drift", options.drift), options.sandbox)
    data = load_data(options.train, options.test, per_class="all")
    out = Path(options.out)
    secret = {"--train": Path(options.train), "--test": Path(options.test)}
    archives = [Path(path) for path in options.submissions]
    judge(archives, data, out, settings, secret=secret, resume=options.resume, say=_say)
    for entry in write_board(out, data.test.labels)["entries"]:
        low, high = entry["interval"]
        line = f"{entry['rank'] or '–':>3}  {entry['accuracy']:7.2%}  ({low:.2%} to {high:.2%})  {entry['name']}"
        print("".join(c if c.isprintable() else " " for c in f"{line}: {summary(entry)}"))
    print(f"the board is {out / 'index.html'}; publish all of {out} but its folder private/")
    return 0


def _verify(options: Namespace) -> int:
    from speedtrain.data import load_data
    from speedtrain.judge.sandbox import works
    from speedtrain.judge.verify import verify

    sandbox = options.sandbox
    if sandbox is None:
        sandbox = "bwrap" if works() else "none"
    settings = _settings(options, 1, math.inf, sandbox)
    data = load_data(options.data)
    rules = verify(Path(options.submission), data, settings, _say)
    for rule in rules:
        detail = f": {rule.detail}" if rule.detail else ""
        print(f"{'kept  ' if rule.kept else 'BROKEN'}  {rule.name}{detail}")
    broken = sum(not rule.kept for rule in rules)
    print(f"{broken} of {len(rules)} rules broken" if broken else "every rule is kept")
    return 1 if broken else 0


def _board(options: Namespace) -> int:
    from speedtrain.judge.board import write_board
    from speedtrain.judge.judging import test_labels

    out = Path(options.out)
    write_board(out, test_labels(out, Path(options.test)))
    print(f"the board is {out / 'index.html'}")
    return 0


COMMANDS = {"verify": _verify, "judge": _judge, "board": _board}
