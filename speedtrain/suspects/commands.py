"""The command `suspects`: its options, and from them to a call and its exit code. Light to import."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from speedtrain.errors import UserError

SHOWN = 10
REFUSED = ("--test", "--per-class")
"""Options of `train` that `find_suspects` refuses, and says why."""


def add_suspects_options(parser: ArgumentParser) -> None:
    """Adds the options of `suspects` that `train` does not have."""
    add = parser.add_argument
    add(
        "--folds",
        metavar="N",
        default="3",
        help="parts; each is judged by a network trained on the others (default: 3)",
    )
    add("--out", metavar="DIR", default="suspects", help="folder to write, new (default: suspects/)")
    add("--quiet", action="store_true", help="show no progress")


def suspects_command(options: Namespace, arguments: Mapping[str, Any]) -> int:
    """Finds suspect labels, and prints the first of them.

    Args:
        arguments: as `speedtrain.train` takes them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from speedtrain.suspects.find import find_suspects

    try:
        folds = int(options.folds)
    except ValueError:
        raise UserError(f"--folds must be a whole number, got {options.folds!r}") from None
    found = find_suspects(out=options.out, folds=folds, quiet=options.quiet, **arguments)
    judged = int(found.judged.sum())
    table = Table("image", "given", "suggested", "score")
    for row in found.rows()[:SHOWN]:
        table.add_row(Text(str(row["image"])), Text(row["given"]), Text(row["suggested"]), f"{row['score']:.3f}")
    if len(found.places):
        Console(highlight=False, markup=False).print(table)
    share = len(found.places) / max(1, judged)
    print(
        f"{len(found.places)} of {judged} labels look wrong ({share:.1%}); all in {found.out}, begin with suspects.html"
    )
    return 0
