"""Looks through a stranger's Python source for what a human judge should see.

A file of one megabyte can take Python's parser a minute and a gigabyte. So it is parsed in a process of its own, with
limits of time and memory; this file is also that process's program, and imports nothing but the standard library.
"""

import ast
import base64
import contextlib
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

FILE_SECONDS = 5
"""Processor seconds that one file may take. An honest megabyte takes some two."""
ALL_SECONDS = 20
"""Processor seconds that all files of a submission may take together."""
MEMORY = 1 << 30

MOST_LINES, MOST_IMPORTS = 20, 40
"""Of one file, as many are told."""

LARGE_CONSTANT = 2000
"""A constant in the source with at least so many characters is shown to the human judge."""


@dataclass(frozen=True)
class Findings:
    """What one file of source holds.

    Attributes:
        imported: the first parts of the names of imported modules.
        lines: what is worth a look: line number and words.
        problem: why the file was not looked through; empty if it was.
    """

    imported: list[str] = field(default_factory=list)
    lines: list[tuple[int, str]] = field(default_factory=list)
    problem: str = ""


def inspect(sources: Mapping[str, bytes]) -> dict[str, Findings]:
    """The findings in each file, by its name. Takes at most some `ALL_SECONDS`, whatever the files hold."""
    found: dict[str, Findings] = {}
    left = float(ALL_SECONDS)
    while (waiting := [name for name in sources if name not in found]) and left >= 1:
        seconds, given = (
            min(FILE_SECONDS, int(left)),
            {name: base64.b64encode(sources[name]).decode() for name in waiting},
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.run(
            [sys.executable, "-I", __file__, str(seconds)],
            input="".join(f"{json.dumps([name, content])}\n" for name, content in given.items()),
            capture_output=True,
            text=True,
            timeout=20 * ALL_SECONDS,  # of wall time: only a process that is stopped takes so long
            check=False,
            env={},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        left -= after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        for line in process.stdout.splitlines():
            with contextlib.suppress(ValueError):  # the last line may have been cut by its death
                name, findings = json.loads(line)
                lines = [(number, words) for number, words in findings["lines"]]
                found[name] = Findings(findings["imported"], lines, findings["problem"])
        hung = next((name for name in waiting if name not in found), None)
        if hung is not None:  # the process died of it
            found[hung] = Findings(problem=f"not looked through: parsing takes more than {seconds} s or 1 GiB")
    late = Findings(problem="not looked through: the other files took too long")
    return {name: found.get(name, late) for name in sources}


def findings_of(content: bytes) -> Findings:
    """The findings in one file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(content)))
    except MemoryError:
        return Findings(problem="not looked through: parsing takes more than 1 GiB")
    except (SyntaxError, ValueError, RecursionError):
        return Findings(problem=f"not readable as Python {sys.version_info.major}.{sys.version_info.minor}")
    imported: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            imported.add(node.module.partition(".")[0])
    lines = [*_large_constants(nodes), *_asks_for_weights(nodes)]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [(lines[MOST_LINES][0], f"and {len(lines) - MOST_LINES} more such lines from here on")]
    names = sorted(name[:80] for name in imported)
    return Findings(names[:MOST_IMPORTS], lines)


def _large_constants(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    last = -1
    for node in nodes:
        if isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set):
            size = _size(node)
            if size >= LARGE_CONSTANT and node.lineno > last:  # an outer node comes before the nodes inside it
                last = node.end_lineno or node.lineno
                if not _is_prose(node):
                    yield node.lineno, f"a constant of {size} characters"


def _asks_for_weights(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == "pretrained" and getattr(node.value, "value", None) is True:
            yield node.lineno, "asks for pretrained weights (pretrained=True)"


def _size(node: ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set) -> int:
    """About how many characters of source a node takes up."""
    if isinstance(node, ast.Constant):
        return len(node.value) if isinstance(node.value, str | bytes) else 0
    lines = (node.end_lineno or node.lineno) - node.lineno
    return 80 * lines if lines else (node.end_col_offset or 0) - node.col_offset


def _is_prose(node: ast.AST) -> bool:
    """Whether a constant is text of short words, such as a docstring, unlike encoded data."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    words = node.value.split()
    return bool(words) and max(map(len, words)) < 100


def main() -> None:
    """Reads files as JSON lines [name, base64] and answers each with a line [name, findings], within its limits."""
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        name, content = json.loads(line)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        most = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        findings = findings_of(base64.b64decode(content))
        print(json.dumps([name, asdict(findings)]), flush=True)


if __name__ == "__main__":
    main()
