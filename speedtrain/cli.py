"""The command line. Nothing heavy is imported before it is known to be needed."""

import os
import re
import signal
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from speedtrain import __version__
from speedtrain.ablation import commands as ablation
from speedtrain.ablation import options as ablation_options
from speedtrain.checked_types import nearest
from speedtrain.config import DATA_SETS
from speedtrain.errors import UserError
from speedtrain.export.commands import add_export_options, export_command
from speedtrain.judge import commands as judging
from speedtrain.run import commands as running
from speedtrain.run.commands import print_line
from speedtrain.suspects.commands import REFUSED, add_suspects_options, suspects_command
from speedtrain.tracks.commands import add_corrupt_options, corrupt_command
from speedtrain.training.imports import import_lightning

VERBS = {
    "train": "train inside a wall-clock budget (the default)",
    "tricks": "list every trick: what it does, stage, defaults, paper",
    "plan": "show what a run would do on this machine, and why, without training",
    "predict": "predict images with a run's weights",
    "export": "write a run's model for other programs: ONNX, torch.export, or a web page",
    "replay": "train again by a run's log of the clock, to the same weights",
    "ablate": "measure what each trick is worth, with paired seeds and intervals",
    "tune": "search hyperparameters on a holdout, and confirm the winner on fresh seeds",
    "curve": "measure accuracy against budget, recipes side by side",
    "bench": "measure this machine, and what each trick and the harness cost on it",
    "suspects": "list the labels that look wrong, by networks trained on the other images",
    "corrupt": "make a labelled set harder, for research or a contest: long-tailed, or with wrong labels",
    "package": "make a submission from a recipe or a run: one zip that trains and predicts on another machine",
    **judging.VERBS,
}


class _Help(DefaultHelpFormatter):
    """Leaves defaults to the help texts: they can say more than a value, such as `the data set's own`."""

    def _get_help_string(self, action: Action) -> str:
        return action.help or ""


class _Parser(ArgumentParser):
    """Reports an error in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        verb = ""

        def as_typed(found: re.Match[str]) -> str:  # jsonargparse calls the options of a verb verb.option
            nonlocal verb
            verb = f"{found[1]} "
            return judging.POSITIONAL.get(found[0], f"--{found[2].replace('_', '-')}")

        words = re.sub(rf"\b({'|'.join(VERBS)})\.(\w+)", as_typed, message)
        raise UserError(f"{' '.join(words.split())}; see python -m speedtrain {verb}--help")


def build_parser() -> ArgumentParser:
    """The parser of all verbs."""
    parser = _Parser(prog="python -m speedtrain", description="Train an image classifier inside a wall-clock budget.")
    parser.epilog = "python -m speedtrain --budget 60 is short for train --budget 60."
    verbs = parser.add_subcommands(required=True, dest="verb")
    parsers = {verb: _Parser(description=help[0].upper() + help[1:] + ".") for verb, help in VERBS.items()}
    for verb in ("train", "plan", "ablate", "tune", "curve", "bench", "suspects"):
        hidden = dict.fromkeys(REFUSED, SUPPRESS) if verb == "suspects" else {}
        _add_run_options(parsers[verb], hidden | (ablation_options.OWN_HELP if verb == "ablate" else {}))
    ablation_options.add_ablate_options(parsers["ablate"])
    ablation_options.add_tune_options(parsers["tune"])
    ablation_options.add_curve_options(parsers["curve"])
    bench = parsers["bench"].add_argument
    bench(
        "--budgets",
        metavar="a,b,c",
        default="60",
        help="seconds; one run of each shows the time per phase (default: 60)",
    )
    bench("--out", metavar="DIR", default="bench", help="directory for the results (default: bench/)")
    bench("--quiet", action="store_true", help="show no progress")
    train, predict, replay = parsers["train"], parsers["predict"], parsers["replay"]
    train.add_argument(
        "--snapshots",
        metavar="N",
        help="keep the weights of N instants, and score them after the run: accuracy against time (default: 0)",
    )
    train.add_argument("--log", metavar="tensorboard", help="write the run for TensorBoard as well (default: no)")
    train.add_argument("--out", metavar="DIR", help="run directory, new or empty (default: a new one in runs/)")
    train.add_argument("--quiet", action="store_true", help="show no progress")
    predict.add_argument("--run", metavar="DIR|FILE", required=True, help="run directory, or its weights.safetensors")
    predict.add_argument("--images", metavar="PATH", required=True, help=".npz, folder or image file")
    predict.add_argument("--each-class", action="store_true", help="a column per class in a .csv, with its probability")
    predict.add_argument("--exact", action="store_true", help="full precision, where another is faster (default: no)")
    predict.add_argument("--no-cache", action="store_true", help="decode every image file anew, and keep none")
    predict.add_argument(
        "--out", metavar="FILE", required=True, help=".npz or .csv for the predictions; an existing file is replaced"
    )
    replay.add_argument("--run", metavar="DIR", required=True, help="run directory to repeat")
    replay.add_argument("--out", metavar="DIR", help="run directory for the repetition (default: a new one in runs/)")
    replay.add_argument("--quiet", action="store_true", help="show no progress")
    add_export_options(parsers["export"])
    add_suspects_options(parsers["suspects"])
    add_corrupt_options(parsers["corrupt"])
    _add_package_options(parsers["package"])
    judging.add_options(parsers)
    for verb, help in VERBS.items():
        verbs.add_subcommand(verb, parsers[verb], help=help)
    return parser


def _add_run_options(parser: ArgumentParser, own_help: Mapping[str, str]) -> None:
    """Adds the options of every command that trains.

    Args:
        own_help: option → what --help says of it in this command, where that is not what it says in `train`.
    """

    def add(option: str, help: str, **details: Any) -> None:
        parser.add_argument(option, help=own_help.get(option, help), **details)

    add("--budget", metavar="SECONDS", help="wall-clock seconds, from the start of the training process")
    named = "|".join([*DATA_SETS, "torchvision:NAME", "PATH"])
    add("--data", metavar=named, help="training images; a PATH is an .npz, a folder or a .csv (default: auto)")
    add("--test", metavar="PATH", help="test images (default: the data set's own, or a stratified holdout)")
    add(
        "--columns",
        metavar="image=A,label=B,split=C,group=D",
        help="columns of a .csv; label=B+C are those of several people; images of one group are not held out without "
        "the others (default: columns called image or file, label, split, group)",
    )
    add("--with-validation", action="store_true", help="train on the data's validation images too, where test is apart")
    add(
        "--labels",
        metavar="separate|soft|majority|em|first|K",
        help="where several people labelled an image, train on all labels, on their shares, on the most frequent, on "
        "those of a model of the people, on the first, or on those of person K, from 1 (default: separate)",
    )
    add("--per-class", metavar="N|all", help="training images per class (default: 500 of CIFAR-10, else all)")
    add("--skip-unreadable", action="store_true", help="leave out image files that cannot be read")
    add("--no-cache", action="store_true", help="decode every image file anew, and keep none")
    add(
        "--side",
        metavar="N|auto",
        help="pixels a side of the images; auto: 32, 48 or 64, by their size and the budget (default: auto)",
    )
    add(
        "--data-root",
        metavar="DIR",
        help="where a named data set is, or is downloaded to (default: $SPEEDTRAIN_DATA, or data/)",
    )
    add(
        "--from",
        metavar="RUN|FILE",
        help="weights to start from: a run, its weights file, or a file of tensors for a timm model (default: random)",
    )
    add(
        "--recipe",
        metavar="NAME|PATH",
        help="recipe: auto, finetune, long_tail, paper, two, or a YAML file (default: auto; finetune with --from or "
        "pretrained=true)",
    )
    add("--tricks", metavar="a,b,c", action="append", help="exactly these tricks; `none` for no trick")
    add("--with", metavar="a", action="append", help="add these tricks to the recipe's")
    add("--without", metavar="b", action="append", help="remove these tricks; flip from predictions as well")
    add("--set", metavar="KEY=VALUE", action="append", help="any hyperparameter, dotted: sam.rho=0.1, lr=0.2")
    add("--model", metavar="resnet9|timm:NAME", help="network (default: resnet9)")
    add("--seed", metavar="N", help="seed of initialisation, order and augmentation (default: 0)")
    add("--device", metavar="auto|cpu|cuda|cuda:N", help="where to train (default: auto, a GPU that can be used)")
    add("--threads", metavar="N", help="at most so many CPU threads (default: all cores)")


def _add_package_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="ZIP", required=True, help="file to write")
    add("--recipe", metavar="NAME|PATH", help="recipe: auto, long_tail, paper, two, or a YAML file (default: auto)")
    add("--run", metavar="DIR", help="take the configuration of this run instead of a recipe")
    add("--set", metavar="KEY=VALUE", action="append", help="any hyperparameter, dotted: sam.rho=0.1, lr=0.2")
    add("--name", metavar="TEAM", help="name on the board (default: speedtrain and the recipe's name)")
    add("--authors", metavar="NAMES", default="", help="names of the authors")
    add("--submission-version", metavar="TEXT", default="1", help="version of the submission (default: 1)")
    add(
        "--description",
        metavar="FILE",
        help="text at the top of the description; the rest is generated from the recipe",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 failed, 2 bad input, 130 or 143 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"speedtrain {__version__}")
        return 0
    try:
        if sys.platform == "win32" and not {"-h", "--help"} & set(arguments):
            raise UserError("speedtrain runs on Linux and macOS; on Windows, run it in WSL")
        if arguments and arguments[0] not in VERBS and not arguments[0].startswith("-"):
            raise UserError(f"no command {arguments[0]!r}{nearest(arguments[0], VERBS)}")
        for before, word in zip(["", *arguments], arguments, strict=False):
            if word == "" or (word.startswith("--") and word.endswith("=")):  # of "$UNSET": not the current folder
                named = word or before
                name = named.rstrip("=") if named.startswith("--") else "an argument"
                raise UserError(f"{name} is empty; give a name or a path")
        implied = arguments[:1] not in (["-h"], ["--help"]) and arguments[:1] not in [[verb] for verb in VERBS]
        if implied:
            arguments.insert(0, "train")
        try:
            options = build_parser().parse_args(arguments)
        except UserError as error:
            behind = re.search(r"unrecognized arguments: (\S+)", str(error), re.IGNORECASE)
            if implied and behind and behind[1] in VERBS:
                raise UserError(f"the command comes first: python -m speedtrain {behind[1]} [options]") from None
            raise
        if options[options.verb].get("no_cache"):
            from speedtrain.data.cache import VARIABLE

            os.environ[VARIABLE] = "off"  # of the processes that this one starts as well
        if options.verb in _TRAINING:
            import_lightning()
        return _COMMANDS[options.verb](options[options.verb])
    except UserError as error:
        print(f"speedtrain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print_line("speedtrain: interrupted", sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    except BrokenPipeError:  # the reader of a pipe, as in `… | head`, has gone
        return 128 + signal.SIGPIPE
    except OSError as error:  # the disk may have filled up after the checks
        print_line(f"speedtrain: {error}", sys.stderr)
        return 1


def _run_options(options: Namespace) -> dict[str, Any]:
    """The options that `train` and `plan` share, as arguments of `speedtrain.train`."""
    return {
        "budget": _number(options.budget),
        "data": options.data,
        "test": options.test,
        "recipe": options.recipe,
        "tricks": None if options.tricks is None else [t for t in _names(options.tricks) if t != "none"],
        "with_tricks": _names(options["with"]),
        "without": _names(options.without),
        "settings": dict(map(_setting, options.set or [])),
        **{key: _number(options[key]) for key in ("per_class", "side", "labels", "seed", "threads")},
        **{key: options[key] for key in ("data_root", "model", "device")},
        "start_from": options["from"],
        "columns": None if options.columns is None else dict(map(_column, _names([options.columns]))),
        "skip_unreadable": options.skip_unreadable or None,
        "with_validation": options.with_validation or None,
    }


def _names(lists: Sequence[str] | None) -> list[str]:
    return [name.strip() for names in lists or [] for name in names.split(",") if name.strip()]


def _number(text: str | None) -> int | float | str | None:
    """A number where the text is one; else the text, which the checks then refuse by name."""
    kinds: tuple[Callable[[str], int | float], ...] = (int, float)
    for kind in kinds:
        with suppress(ValueError, TypeError):
            return kind(text)  # type: ignore[arg-type]
    return text


def _value(text: str) -> Any:
    """The value of a text in a recipe, by YAML's rules."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _column(text: str) -> tuple[str, str]:
    role, equals, column = text.partition("=")
    if not equals or not column:
        raise UserError(f"--columns {text}: must be ROLE=COLUMN, as in --columns image=path,label=breed")
    return role.strip(), column


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: must be KEY=VALUE, as in --set sam.rho=0.1")
    return key.strip(), _value(value)


def _train(options: Namespace) -> int:
    return running.train_command(options, {**_run_options(options), "snapshots": _number(options.snapshots)})


def _plan(options: Namespace) -> int:
    return running.plan_command(options, _run_options(options))


def _suspects(options: Namespace) -> int:
    return suspects_command(options, _run_options(options))


def _ablate(options: Namespace) -> int:
    return ablation.ablate_command(options, _run_options(options))


def _tune(options: Namespace) -> int:
    return ablation.tune_command(options, _run_options(options))


def _curve(options: Namespace) -> int:
    return ablation.curve_command(options, _run_options(options))


def _bench(options: Namespace) -> int:
    from speedtrain.bench.bench import bench

    arguments = _run_options(options)
    if arguments.pop("budget") is not None:
        raise UserError("bench takes --budgets, as in --budgets 60,600")
    budgets = ablation_options.parse_budgets(options.budgets)
    bench(budgets, **arguments, out=options.out, quiet=options.quiet)
    print_line(Path(options.out, "bench.md").read_text(encoding="utf-8").rstrip())
    return 0


def _package(options: Namespace) -> int:
    from speedtrain.submission.package import package

    out = Path(options.out)
    if options.recipe and options.run:
        raise UserError("--recipe and --run: a submission is made from one of the two")
    manifest = package(
        out,
        recipe=options.recipe or "auto",
        run=options.run and Path(options.run),
        settings=dict(map(_setting, options.set or [])),
        name=options.name,
        authors=options.authors,
        version=options.submission_version,
        description=options.description and Path(options.description),
    )
    print(f"{out}: {len(manifest['files'])} files, {out.stat().st_size >> 10} KiB")
    return 0


def _tricks(options: Namespace) -> int:
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from tricks import TRICKS

    table = Table("trick", "stage", "what it does", "defaults", "paper", show_lines=True)
    trick: Any
    for name, trick in TRICKS.items():
        summary = (trick.__doc__ or "").strip().partition("\n\n")[0]
        defaults = ", ".join(f"{entry.name}={entry.default}" for entry in fields(trick))
        text = " ".join(summary.split()) + (f"\n\nMay interact with: {trick.interacts}" if trick.interacts else "")
        table.add_row(name, ", ".join(trick.stages()), text, defaults or "–", trick.paper or "–")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    return 0


_TRAINING = ("train", "replay", "predict", "export", "plan", "ablate", "tune", "curve", "bench", "suspects")
"""Commands that need Lightning. They import it without the packages that it would import and nothing uses."""

_COMMANDS = {
    "train": _train,
    "replay": running.replay_command,
    "predict": running.predict_command,
    "export": export_command,
    "plan": _plan,
    "tricks": _tricks,
    "ablate": _ablate,
    "tune": _tune,
    "curve": _curve,
    "bench": _bench,
    "suspects": _suspects,
    "corrupt": corrupt_command,
    "package": _package,
    **judging.COMMANDS,
}
