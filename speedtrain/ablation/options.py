"""The command-line options of `ablate`, `tune` and `curve`, and the values in their texts. Light to import."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from speedtrain.ablation.design_kinds import KINDS
from speedtrain.ablation.metric import METRICS
from speedtrain.errors import UserError

OWN_HELP = {
    "--tricks": "tricks to vary, the others stay on; `none` to compare only what --vary names (default: all of the "
    "recipe)"
}
"""What --help of `ablate` says of an option that it understands in its own way."""


def add_ablate_options(parser: ArgumentParser) -> None:
    """Adds the options of `ablate` that `train` does not have."""
    add = parser.add_argument
    kinds = "; ".join(f"{name}: {kind.description}" for name, kind in KINDS.items())
    add("--seeds", metavar="N", default="5", help="seeds, the same for every variant (default: 5)")
    add("--design", metavar="|".join(KINDS), default="drop-one", help=f"what to train; {kinds} (default: drop-one)")
    add("--vary", metavar="KEY=a,b,c", action="append", help="values of a hyperparameter, crossed with the design")
    add("--subset", metavar="N", help="training images per class, drawn anew for each seed (default: all)")
    metrics = "score to compare by; balanced_accuracy: every class counts the same (default: accuracy)"
    add("--metric", metavar="|".join(METRICS), default="accuracy", help=metrics)
    add("--dry-run", action="store_true", help="print the trials and their total time, and train nothing")
    add("--yes", action="store_true", help="accept a design of very many trials")
    _add_sweep_options(parser, "ablation")


def add_tune_options(parser: ArgumentParser) -> None:
    """Adds the options of `tune` that `train` does not have."""
    add = parser.add_argument
    values = "values to search: LOW..HIGH, log:LOW..HIGH or a,b,c"
    add("--search", metavar="KEY=WHERE", action="append", help=values)
    add("--trials", metavar="N", default="40", help="settings to try (default: 40)")
    add("--seeds", metavar="N", default="1", help="runs per setting (default: 1)")
    add("--confirm", metavar="N", default="5", help="fresh seeds to confirm the winner with (default: 5)")
    metrics = "score to search and to confirm by; balanced_accuracy: every class counts the same (default: accuracy)"
    add("--metric", metavar="|".join(METRICS), default="accuracy", help=metrics)
    _add_sweep_options(parser, "tuning")


def add_curve_options(parser: ArgumentParser) -> None:
    """Adds the options of `curve` that `train` does not have."""
    add = parser.add_argument
    add("--budgets", metavar="a,b,c", required=True, help="seconds")
    add("--recipes", metavar="a,b", help="recipes to compare (default: the one of --recipe)")
    add("--seeds", metavar="N", default="3", help="seeds, the same for every recipe and budget (default: 3)")
    _add_sweep_options(parser, "curve")


def _add_sweep_options(parser: ArgumentParser, out: str) -> None:
    """Adds the options of every command that runs many trials."""
    add = parser.add_argument
    add("--engine", metavar="local|ray", default="local", help="where trials run (default: local)")
    add("--workers", metavar="N", default="1", help="trials at a time here; they divide the cores (default: 1)")
    add("--address", metavar="ADDRESS", help="of the Ray cluster (default: $RAY_ADDRESS, or a new one of this machine)")
    add("--out", metavar="DIR", default=out, help=f"directory for all files (default: {out}/)")
    add("--resume", action="store_true", help="go on with what is in --out")
    add("--quiet", action="store_true", help="show no progress")


def sweep_arguments(options: Namespace) -> dict[str, Any]:
    """The options of `_add_sweep_options`, and `--seeds`, as arguments."""
    arguments = {key: options[key] for key in ("engine", "address", "out", "resume", "quiet")}
    return {**arguments, **{key: whole_number(f"--{key}", options[key]) for key in ("seeds", "workers")}}


def parse_search(texts: Sequence[str]) -> dict[str, str]:
    """`key=where` → where by key.

    Raises:
        UserError: a text of another form.
    """
    search: dict[str, str] = {}
    for text in texts:
        key, equals, where = text.partition("=")
        if not equals or not key or not where:
            raise UserError(f"--search {text}: must be KEY=WHERE, as in --search sam.rho=log:0.01..0.5")
        if key.strip() in search:
            raise UserError(f"--search {key.strip()}: given twice")
        search[key.strip()] = where.strip()
    return search


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`key=a,b,c` → values by key, each by YAML's rules. Commas inside brackets do not separate.

    Raises:
        UserError: a text of another form, or a key that occurs twice.
    """
    varied: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        parsed = _values(values)
        if not equals or not key or not parsed:
            raise UserError(f"--vary {text}: must be KEY=a,b,c, as in --vary sam.rho=0.02,0.05")
        if key.strip() in varied:
            raise UserError(f"--vary {key.strip()}: given twice")
        if twice := _given_twice(parsed):
            raise UserError(f"--vary {text}: {twice[0]} is given twice")
        varied[key.strip()] = parsed
    return varied


def parse_budgets(text: str) -> list[Any]:
    """`15,30` → the budgets. `resolve` checks them later.

    Raises:
        UserError: no budget.
    """
    budgets = _values(text)
    if not budgets:
        raise UserError(f"--budgets {text}: must be seconds, as in --budgets 15,30,60")
    if twice := _given_twice(budgets):
        raise UserError(f"--budgets {text}: {twice[0]} is given twice")
    return budgets


def _given_twice(values: Sequence[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value in values[:place]]


def whole_number(option: str, text: str) -> int:
    """The number of an option.

    Raises:
        UserError: it is not a whole number from 1.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{option} must be a whole number from 1, got {text!r}")
    return number


def _values(text: str) -> list[Any]:
    """`a,b,c` → values, each by YAML's rules; none where the text breaks them."""
    import yaml

    try:
        return list(yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError:
        return []
