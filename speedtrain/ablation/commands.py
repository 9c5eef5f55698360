"""The commands `ablate`, `tune` and `curve`: from the options of a command line to a call, and its exit code.

Light to import: each command imports what it needs when it runs.
"""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from speedtrain.ablation.options import parse_budgets, parse_search, parse_vary, sweep_arguments, whole_number
from speedtrain.errors import UserError


def ablate_command(options: Namespace, run_arguments: dict[str, Any]) -> int:
    """Runs `ablate`.

    Args:
        options: the options of the command line.
        run_arguments: the options that `ablate` shares with `train`, as arguments.

    Returns:
        The exit code: 1 where no trial was scored.
    """
    from speedtrain.ablation.ablate import ablate, print_answers

    table = ablate(
        **run_arguments,
        design=options.design,
        vary=parse_vary(options.vary or []),
        subset=None if options.subset is None else whole_number("--subset", options.subset),
        metric=options.metric,
        yes=options.yes,
        dry_run=options.dry_run,
        **sweep_arguments(options),
    )
    if options.dry_run:
        return 0
    print_answers(table)
    return 0 if table["accuracy"].notna().any() else 1


def tune_command(options: Namespace, run_arguments: dict[str, Any]) -> int:
    """Runs `tune`.

    Args:
        options: the options of the command line.
        run_arguments: the options that `tune` shares with `train`, as arguments.

    Returns:
        The exit code.
    """
    from speedtrain.ablation.tune import tune
    from speedtrain.ablation.tune_report import print_winner

    table = tune(
        **run_arguments,
        search=parse_search(options.search or []),
        trials=whole_number("--trials", options.trials),
        confirm=whole_number("--confirm", options.confirm),
        metric=options.metric,
        **sweep_arguments(options),
    )
    print_winner(table)
    return 0


def curve_command(options: Namespace, run_arguments: dict[str, Any]) -> int:
    """Runs `curve`.

    Args:
        options: the options of the command line.
        run_arguments: the options that `curve` shares with `train`, as arguments.

    Returns:
        The exit code: 1 where no trial was scored.
    """
    from speedtrain.ablation.curve import curve

    if run_arguments.pop("budget") is not None:
        raise UserError("curve takes --budgets, as in --budgets 15,30,60")
    named = run_arguments.pop("recipe")
    recipes = [name.strip() for name in (options.recipes or named or "").split(",") if name.strip()]
    table = curve(parse_budgets(options.budgets), **run_arguments, recipes=recipes or None, **sweep_arguments(options))
    print(Path(options.out, "curve.md").read_text(encoding="utf-8"), end="")
    return 0 if table["seeds"].any() else 1
