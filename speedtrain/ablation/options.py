"""The command lines of `ablate`, `tune` and `curve`. Light: what is heavy is imported once it is known to be needed."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from speedtrain.errors import UserError


def add_ablate_options(parser: ArgumentParser) -> None:
    """Adds what `ablate` takes beside the options of a run."""
    add = parser.add_argument
    add("--seeds", metavar="N", default="5", help="how many for every variant, the same ones (default: 5)")
    add("--design", metavar="drop-one|add-one|all-subsets|pairs", default="drop-one", help="default: drop-one")
    add("--vary", metavar="KEY=a,b,c", action="append", help="any hyperparameter, crossed with the design")
    add("--subset", metavar="N", help="draw N training images a class anew for each seed")
    add("--dry-run", action="store_true", help="print the trials and how long they will take")
    add("--yes", action="store_true", help="really run a design of very many trials")
    _add_sweep_options(parser, "ablation")


def add_tune_options(parser: ArgumentParser) -> None:
    """Adds what `tune` takes beside the options of a run."""
    add = parser.add_argument
    where = "where to look: LOW..HIGH, log:LOW..HIGH or a,b,c"
    add("--search", metavar="KEY=WHERE", action="append", help=where)
    add("--trials", metavar="N", default="40", help="settings to try (default: 40)")
    add("--seeds", metavar="N", default="1", help="runs a setting (default: 1)")
    add("--confirm", metavar="N", default="5", help="fresh seeds to confirm the winner with (default: 5)")
    _add_sweep_options(parser, "tuning")


def add_curve_options(parser: ArgumentParser) -> None:
    """Adds what `curve` takes beside the options of a run."""
    add = parser.add_argument
    add("--budgets", metavar="a,b,c", required=True, help="seconds")
    add("--recipes", metavar="a,b", help="recipes side by side (default: the one of --recipe)")
    add("--seeds", metavar="N", default="3", help="for every recipe and budget, the same ones (default: 3)")
    _add_sweep_options(parser, "curve")


def _add_sweep_options(parser: ArgumentParser, out: str) -> None:
    """Adds what all that run many trials take: where, and how to go on."""
    add = parser.add_argument
    add("--engine", metavar="local|ray", default="local", help="where trials run (default: local)")
    add("--workers", metavar="N", default="1", help="trials at a time here; they share out the cores (default: 1)")
    add("--address", metavar="ADDRESS", help="of the Ray cluster (default: $RAY_ADDRESS, or one of this machine)")
    add("--out", metavar="DIR", default=out, help=f"directory for all that comes out (default: {out}/)")
    add("--resume", action="store_true", help="go on with what was begun in --out")
    add("--quiet", action="store_true", help="show no progress")


def _sweep_options(options: Namespace) -> dict[str, Any]:
    """What `_add_sweep_options` added, and `--seeds`, as arguments."""
    told = {key: options[key] for key in ("engine", "address", "out", "resume", "quiet")}
    return {**told, **{key: _whole(f"--{key}", options[key]) for key in ("seeds", "workers")}}


def curve_command(options: Namespace, told: dict[str, Any]) -> int:
    """Runs `curve`; `told` is what it shares with `train`. Returns the exit code: 1 if no trial was scored."""
    from pathlib import Path

    from speedtrain.ablation.curve import curve

    if told.pop("budget") is not None:
        raise UserError("curve takes --budgets, as in --budgets 15,30,60")
    recipe = told.pop("recipe")
    recipes = [name.strip() for name in (options.recipes or recipe).split(",") if name.strip()]
    budgets = parse_budgets(options.budgets)
    table = curve(budgets, **told, recipes=recipes, **_sweep_options(options))
    print(Path(options.out, "curve.md").read_text(encoding="utf-8"), end="")
    return 0 if table["seeds"].any() else 1


def tune_command(options: Namespace, told: dict[str, Any]) -> int:
    """Runs `tune`; `told` is what it shares with `train`. Returns the exit code."""
    from speedtrain.ablation.tune import print_winner, tune

    search: dict[str, str] = {}
    for text in options.search or []:
        key, equals, where = text.partition("=")
        if not equals or not key or not where:
            raise UserError(f"--search {text}: must be KEY=WHERE, as in --search sam.rho=log:0.01..0.5")
        search[key.strip()] = where.strip()
    trials, confirm = _whole("--trials", options.trials), _whole("--confirm", options.confirm)
    print_winner(tune(**told, search=search, trials=trials, confirm=confirm, **_sweep_options(options)))
    return 0


def ablate_command(options: Namespace, told: dict[str, Any]) -> int:
    """Runs `ablate`; `told` is what it shares with `train`. Returns the exit code: 1 if no trial was scored."""
    from speedtrain.ablation.sweep import ablate, print_answers

    table = ablate(
        **told,
        design=options.design,
        vary=parse_vary(options.vary or []),
        subset=None if options.subset is None else _whole("--subset", options.subset),
        yes=options.yes,
        dry_run=options.dry_run,
        **_sweep_options(options),
    )
    if options.dry_run:
        return 0
    print_answers(table)
    return 0 if table["accuracy"].notna().any() else 1


def parse_vary(given: Sequence[str]) -> dict[str, list[Any]]:
    """`key=a,b,c` → values, each by YAML's rules. Commas inside brackets do not separate."""
    varied: dict[str, list[Any]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        parsed = _values(values)
        if not equals or not key or not parsed:
            raise UserError(f"--vary {text}: must be KEY=a,b,c, as in --vary sam.rho=0.02,0.05")
        if key.strip() in varied:
            raise UserError(f"--vary {key.strip()}: given twice")
        varied[key.strip()] = parsed
    return varied


def parse_budgets(text: str) -> list[Any]:
    """`15,30` → the budgets, which `resolve` checks."""
    budgets = _values(text)
    if not budgets:
        raise UserError(f"--budgets {text}: must be seconds, as in --budgets 15,30,60")
    return budgets


def _values(text: str) -> list[Any]:
    """`a,b,c` → values, each by YAML's rules; none where they are broken."""
    import yaml

    try:
        return list(yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError:
        return []


def _whole(option: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{option} must be a whole number from 1, got {text!r}")
    return number
