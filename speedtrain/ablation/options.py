"""The command line of `ablate`. Light: what is heavy is imported once it is known to be needed."""

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
    add("--workers", metavar="N", default="1", help="trials at a time; they share out the cores (default: 1)")
    add("--out", metavar="DIR", default="ablation", help="directory of the sweep (default: ablation/)")
    add("--resume", action="store_true", help="go on with the sweep in --out")
    add("--dry-run", action="store_true", help="print the trials and how long they will take")
    add("--yes", action="store_true", help="really run a design of very many trials")
    add("--quiet", action="store_true", help="show no progress")


def ablate_command(options: Namespace, told: dict[str, Any]) -> int:
    """Runs `ablate`; `told` is what it shares with `train`. Returns the exit code: 1 if no trial was scored."""
    from speedtrain.ablation.sweep import ablate, print_answers

    table = ablate(
        **told,
        design=options.design,
        vary=parse_vary(options.vary or []),
        seeds=_whole("--seeds", options.seeds),
        subset=None if options.subset is None else _whole("--subset", options.subset),
        workers=_whole("--workers", options.workers),
        **{key: options[key] for key in ("out", "resume", "yes", "dry_run", "quiet")},
    )
    if options.dry_run:
        return 0
    print_answers(table)
    return 0 if table["accuracy"].notna().any() else 1


def parse_vary(given: Sequence[str]) -> dict[str, list[Any]]:
    """`key=a,b,c` → values, each by YAML's rules. Commas inside brackets do not separate."""
    import yaml

    varied: dict[str, list[Any]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        try:
            parsed = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            parsed = None
        if not equals or not key or not parsed:
            raise UserError(f"--vary {text}: must be KEY=a,b,c, as in --vary sam.rho=0.02,0.05")
        if key.strip() in varied:
            raise UserError(f"--vary {key.strip()}: given twice")
        varied[key.strip()] = parsed
    return varied


def _whole(option: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{option} must be a whole number from 1, got {text!r}")
    return number
