"""Markdown: tables, and a stranger's text made harmless."""

import html
import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str] | None = None) -> list[str]:
    """The lines of a table.

    Args:
        head: a name for each column.
        rows: cells, as many in each row as in `head`.
        align: `left` or `right` for each column; default: the first left, the others right, as numbers stand.
    """
    align = align or ["left"] + ["right"] * (len(head) - 1)
    rule = ["---:" if side == "right" else "---" for side in align]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in (head, rule, *rows)]


def _cell(text: str) -> str:
    """Text without a bare pipe or an end of a line, which would end the cell; an escaped pipe stays as it is."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\\|", " ".join(text.splitlines()))


def escape(text: str) -> str:
    """Text in which nothing is Markdown or HTML."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~>:-])", r"\\\1", text)
    return html.escape(escaped, quote=False)
