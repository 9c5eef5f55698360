"""The commands for contests: `verify`, `judge`, `board` and `competition`.

All paths become absolute here, since programs that run in other folders read them.
"""

import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from speedtrain.checked_types import nearest
from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.data import Data
    from speedtrain.data.photograph import Fit
    from speedtrain.judge.competition import Competition
    from speedtrain.judge.judging import Engine
    from speedtrain.judge.settings import Kind, Settings

VERBS = {
    "verify": "run a submission as a judge will, and list every rule as kept or broken",
    "judge": "run submissions in turn, each in a sandbox, and rank them",
    "board": "score a judged board again from its stored predictions, and write it again",
    "competition": "write, check and hand out the file that holds a competition",
}

ACTIONS = {
    "new": "write a commented competition.yaml into a folder",
    "check": "read the file and its images, try the sandbox, measure this machine, and tell the price",
    "kit": "make the zip for entrants: rules, public images, an example",
}


def add_options(parsers: Mapping[str, ArgumentParser]) -> None:
    """Adds the options of these commands.

    Args:
        parsers: command → its parser.
    """
    verify, judge, board, competition = (parsers[verb] for verb in VERBS)
    verify.add_argument("submission", metavar="ZIP", help="the submission")
    verify.add_argument("--budget", metavar="SECONDS", help="time for training (default: 60, or the competition's)")
    verify.add_argument(
        "--data", metavar="digits|cifar10|PATH", help="labelled images to train and test on (default: digits)"
    )
    judge.add_argument("submissions", metavar="ZIP|DIR", nargs="*", help="the submissions, or folders of them")
    judge.add_argument("--train", metavar="PATH", help="training images, with labels")
    judge.add_argument("--test", metavar="PATH", help="test images; no submission sees their labels")
    judge.add_argument("--out", metavar="BOARD", required=True, help="folder of the board, new or empty")
    judge.add_argument("--budget", metavar="SECONDS", help="time for each training (default: 600)")
    judge.add_argument("--runs", metavar="N", help="runs of each submission (default: 5)")
    judge.add_argument("--resume", action="store_true", help="continue a judging that was interrupted")
    judge.add_argument(
        "--add", metavar="ZIP", action="append", help="a late submission, which joins a board that was judged before"
    )
    judge.add_argument(
        "--drift",
        metavar="PART",
        help="wait before a run while the machine's speed differs by more than this part from the speed at the "
        "beginning (default: 0.15)",
    )
    judge.add_argument(
        "--engine",
        metavar="local|ray",
        default="local",
        help="this machine, or a Ray cluster (default: local)",
    )
    judge.add_argument("--address", metavar="HOST:PORT", help="of the cluster (default: $RAY_ADDRESS, or a new one)")
    for parser in (verify, judge):
        add = parser.add_argument
        add(
            "--competition",
            metavar="FILE",
            help="the competition's file, in place of options for images and limits",
        )
        add(
            "--test-budget",
            metavar="SECONDS",
            help="time for predicting (default: 20, and 1 per 100 images)",
        )
        add("--memory", metavar="SIZE", help="memory for all processes (default: 12G, at most 3/4 of the machine)")
        add("--disk", metavar="SIZE", help="disk space for all that is written (default: 2G)")
        add("--cpus", metavar="N", help="number of cores (default: all)")
        add("--processes", metavar="N", help="number of processes and threads (default: 1024)")
    confine = "confine by bubblewrap, or not at all (default: bwrap"
    judge.add_argument("--sandbox", metavar="bwrap|none", default="bwrap", help=f"{confine})")
    verify.add_argument("--sandbox", metavar="bwrap|none", help=f"{confine} where it works)")
    board.add_argument("--out", metavar="BOARD", required=True, help="folder of the board")
    board.add_argument("--test", metavar="PATH", help="test images; only their labels may have changed")
    board.add_argument("--competition", metavar="FILE", help="the competition's file, in place of --test")
    board.add_argument("--withdraw", metavar="N", help="take this submission out of the ranking; it stays listed")
    board.add_argument("--reason", metavar="TEXT", help="why it is withdrawn, for the board")
    actions = "; ".join(f"{name}: {meaning}" for name, meaning in ACTIONS.items())
    competition.add_argument("action", metavar="|".join(ACTIONS), help=actions)
    competition.add_argument("path", metavar="DIR|FILE", help="new: a folder; check and kit: the file")
    competition.add_argument("--entrants", metavar="N", help="submissions to expect, for the price (default: 10)")
    competition.add_argument("--out", metavar="ZIP", help="kit: the zip to write (default: kit.zip beside the file)")
    competition.add_argument("--sandbox", metavar="bwrap|none", default="bwrap", help=f"check: {confine})")


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


def _settings(options: Namespace, sandbox: "Kind", data: "Data", *, budget: str, runs: int, drift: float) -> "Settings":
    """The settings that options give, with the defaults."""
    from speedtrain.judge.settings import Settings, bytes_of, default_memory, default_test_budget
    from speedtrain.machine import available_cores

    return Settings(
        budget=_number("--budget", options.budget or budget),
        test_budget=_number("--test-budget", options.test_budget or str(default_test_budget(len(data.test.labels)))),
        runs=runs,
        memory=bytes_of("--memory", options.memory) if options.memory else default_memory(),
        disk=bytes_of("--disk", options.disk or "2G"),
        processes=int(_number("--processes", options.processes or "1024", whole=True)),
        cpus=int(_number("--cpus", options.cpus, whole=True)) if options.cpus else available_cores(),
        sandbox=sandbox,
        drift=drift,
    )


def _sandbox(name: str) -> "Kind":
    if name == "bwrap":
        return "bwrap"
    if name == "none":
        return "none"
    raise UserError(f"--sandbox must be bwrap or none, got {name!r}")


def _refuse(options: Namespace, names: tuple[str, ...], why: str) -> None:
    """Raises UserError where one of these options was given."""
    for name in names:
        if options.get(name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: {why}")


POSITIONAL = {"competition.action": "|".join(ACTIONS), "competition.path": "DIR|FILE"}
"""Arguments without a name → how --help shows them."""
IN_THE_FILE = ("train", "test", "data", "runs", "drift", "test_budget", "memory", "disk", "cpus", "processes")
"""Options that a competition's file takes the place of."""


def _report(line: str) -> None:
    print(_printable(line), file=sys.stderr, flush=True)


def _printable(line: str) -> str:
    """A line without control characters: a stranger's name could drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in line)


def _path(text: str) -> Path:
    """An absolute path."""
    return Path(text).absolute()


def _read(file: str, sandbox: "Kind") -> "Competition":
    from speedtrain.judge.competition import read_competition

    return read_competition(_path(file), sandbox)


# ---- judge ----


def _judge(options: Namespace) -> int:
    from speedtrain.judge.board import write_board
    from speedtrain.judge.judging import judge

    sandbox = _sandbox(options.sandbox)
    out = _path(options.out)
    given = [*options.submissions, *(options.add or [])]
    if options.add and options.submissions:
        raise UserError("--add: give late submissions by --add alone, without the others")
    name = ""
    fit: Fit = "crop"
    if options.competition is not None:
        from speedtrain.judge.competition_check import load_competition

        _refuse(options, ("budget", *IN_THE_FILE), f"{options.competition} says it; change it there")
        competition, regimes = load_competition(_path(options.competition), sandbox, _report)
        settings, name, fit, secret = competition.settings, competition.name, competition.fit, competition.secret
    else:
        settings, regimes, secret = _by_options(options, sandbox)
    judge(
        _archives(given),
        regimes,
        out,
        settings,
        secret=secret,
        name=name,
        fit=fit,
        resume=options.resume,
        late=bool(options.add),
        engine=_engine(options),
        address=options.address,
        report=_report,
    )
    _print_board(write_board(out, {name: data.test.labels for name, data in regimes.items()}))
    print(f"the board is {out / 'index.html'}; publish all of {out} but its folder private/")
    return 0


def _engine(options: Namespace) -> "Engine":
    if options.engine not in ("local", "ray"):
        raise UserError(f"--engine {options.engine}: no such engine{nearest(options.engine, ('local', 'ray'))}")
    if options.engine == "local" and options.address is not None:
        raise UserError("--address is of a Ray cluster; say --engine ray too")
    return "ray" if options.engine == "ray" else "local"


def _by_options(options: Namespace, sandbox: "Kind") -> tuple["Settings", dict[str, "Data"], dict[str, Path]]:
    """What is judged, and how, by options in place of a competition's file."""
    from speedtrain.data import load_data
    from speedtrain.judge.competition_check import refuse_several_labels

    for name in ("train", "test"):
        if options[name] is None:
            raise UserError(f"--{name} is missing: name the images, or give --competition FILE")
    runs = int(_number("--runs", options.runs or "5", whole=True))
    drift = _number("--drift", options.drift or "0.15")
    train, test = _path(options.train), _path(options.test)
    data = load_data(train, test, per_class="all")
    refuse_several_labels(data)
    settings = _settings(options, sandbox, data, budget="600", runs=runs, drift=drift)
    return settings, {"": data}, {"--train": train, "--test": test}


def _archives(given: list[str]) -> list[Path]:
    """The zips that were named, those of folders in the order of their names."""
    found: list[Path] = []
    for path in map(_path, given):
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() == ".zip")
            if not inside:
                raise UserError(f"{path}: holds no .zip")
            found += inside
        else:
            found.append(path)
    return found


def _print_board(board: Mapping[str, Any]) -> None:
    from speedtrain.judge.verdict import score_in_words, summarize

    kind = board["score"]["kind"]
    for name, part in board.get("regimes", {"": board}).items():
        if name:
            print(f"{name}:")
        for entry in part["entries"]:
            low, high = entry["interval"]
            figures = f"{entry['accuracy']:7.2%}  ({low:.2%} to {high:.2%})"
            if kind != "accuracy":
                figures = f"{score_in_words(entry['score'], kind):>9}  {figures}"
            print(_printable(f"{entry['rank'] or '–':>3}  {figures}  {entry['name']}: {summarize(entry)}"))
    if "regimes" in board:
        print("all training sets, by points:")
        for entry in board["entries"]:
            print(_printable(f"{entry['rank'] or '–':>3}  {entry['points']:7}  {entry['name']}"))


# ---- verify, board, competition ----


def _verify(options: Namespace) -> int:
    from speedtrain.judge.sandbox_check import works
    from speedtrain.judge.verify import verify

    sandbox = _sandbox(options.sandbox) if options.sandbox else "bwrap" if works() else "none"
    if options.competition is not None:
        settings, regimes = _rehearsed(options, sandbox)
    else:
        from speedtrain.data import load_data
        from speedtrain.judge.competition_check import refuse_several_labels

        data = load_data(options.data or "digits")  # a name, or a path that only this process reads
        refuse_several_labels(data)
        settings = _settings(options, sandbox, data, budget="60", runs=1, drift=math.inf)
        regimes = {"": data}
    rehearsal = verify(_path(options.submission), regimes, settings, _report)
    rules = rehearsal.rules
    for line in rehearsal.lines if settings.score.kind != "accuracy" else []:
        print(line)
    for rule in rules:
        detail = f": {rule.detail}" if rule.detail else ""
        print(_printable(f"{'kept  ' if rule.kept else 'BROKEN'}  {rule.name}{detail}"))
    broken = sum(not rule.kept for rule in rules)
    print(f"{broken} of {len(rules)} rules broken" if broken else "every rule is kept")
    return 1 if broken else 0


def _rehearsed(options: Namespace, sandbox: "Kind") -> tuple["Settings", dict[str, "Data"]]:
    """A competition's settings and public images, for an entrant."""
    from dataclasses import replace

    from speedtrain.data import load_data
    from speedtrain.judge.competition_check import load_regime, refuse_several_labels, with_test_budget
    from speedtrain.machine import available_cores, total_memory

    _refuse(options, IN_THE_FILE, f"{options.competition} says it; leave it out")
    competition = _read(options.competition, sandbox)
    regimes = {}
    for regime in competition.regimes:
        if regime.public_test is not None:
            regimes[regime.name] = load_regime(competition, regime, regime.public_test)
        else:
            side, fit = competition.side, competition.fit
            regimes[regime.name] = load_data(regime.train, per_class="all", side=side, fit=fit)
            refuse_several_labels(regimes[regime.name])
            _report(f"{regime.train.name}: no public test images; a fifth of the training images takes their place")
    settings = replace(with_test_budget(competition, regimes).settings, drift=math.inf)
    if options.budget:
        settings = replace(settings, budget=_number("--budget", options.budget))
    less = replace(
        settings, cpus=min(settings.cpus, available_cores()), memory=min(settings.memory, total_memory() // 4 * 3)
    )
    if less != settings:
        _report(
            "note: this machine has fewer cores or less memory than the competition gives; it is rehearsed with less"
        )
    return less, regimes


def _board(options: Namespace) -> int:
    from speedtrain.judge.board import write_board
    from speedtrain.judge.contest_rules import read_labels
    from speedtrain.judge.late_entries import withdraw

    out = _path(options.out)
    if (options.test is None) == (options.competition is None):
        raise UserError("give the test images: --test PATH, or --competition FILE")
    if options.competition is not None:
        competition = _read(options.competition, "bwrap")
        tests = {each.name: each.secret_test for each in competition.regimes if each.secret_test is not None}
        labels = read_labels(out, tests)
    else:
        labels = read_labels(out, {"": _path(options.test)})
    if options.withdraw is not None:
        withdraw(out, options.withdraw, options.reason or "")
    elif options.reason is not None:
        raise UserError("--reason belongs to --withdraw N")
    write_board(out, labels)
    print(f"the board is {out / 'index.html'}")
    return 0


def _competition(options: Namespace) -> int:
    if options.action not in ACTIONS:
        raise UserError(f"competition {options.action}: no such action{nearest(options.action, ACTIONS)}")
    path = _path(options.path)
    if options.action == "new":
        from speedtrain.judge.competition_template import write_template

        check = f"python -m speedtrain competition check {shlex.quote(str(path))}"
        print(f"{write_template(path)}: name your images in it, then: {check}")
        return 0
    from speedtrain.judge.competition_check import check_competition, load_competition

    entrants = int(_number("--entrants", options.entrants or "10", whole=True))
    competition, regimes = load_competition(path, _sandbox(options.sandbox), _report)
    if options.action == "check":
        check_competition(competition, regimes, path.parent, entrants, print)
        print("the competition is sound")
        return 0
    from speedtrain.judge.entrant_kit import write_kit

    out = _path(options.out) if options.out else (path if path.is_dir() else path.parent) / "kit.zip"
    write_kit(competition, regimes, out)
    print(f"{out}: for entrants; it holds nothing of the secret test images")
    return 0


COMMANDS = {"verify": _verify, "judge": _judge, "board": _board, "competition": _competition}
