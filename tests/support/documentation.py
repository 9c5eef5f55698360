"""The commands that README and docs show: found in the fenced blocks of a page, and split as a shell would."""

import glob
import re
import shlex
import string
from pathlib import Path

from speedtrain.cli import VERBS


def blocks(page: Path) -> list[str]:
    """The fenced blocks that are typed into a shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in ("", "bash", "sh", "console")]


def lines(block: str) -> list[str]:
    """What is typed, continued lines joined. Where there are prompts, the other lines are what is printed."""
    joined = block.replace("\\\n", " ").splitlines()
    prompted = [line[2:] for line in joined if line.startswith("$ ")]
    return prompted or joined


def commands(block: str) -> list[str]:
    """Commands of ours, variables of the shell filled in."""
    variables: dict[str, str] = {}
    found = []
    for line in lines(block):
        if assigned := re.fullmatch(r"([A-Z_]+)=(.*)", line):
            (variables[assigned[1]],) = shlex.split(fill(assigned[2], variables)) or [""]
            continue
        for part in line.split("&&"):
            part = part.strip()
            if re.match(r"(python -m speedtrain|speedtrain|python scripts/\S+)(\s|$)", part):
                found.append(fill(part, variables))
    return found


def fill(text: str, variables: dict[str, str]) -> str:
    return string.Template(text).safe_substitute(variables)


def words_of(command: str) -> list[str]:
    """Words as a shell splits them, patterns filled in from the current folder."""
    words: list[str] = []
    for word in shlex.split(command, comments=True):
        words += sorted(glob.glob(word)) or [word] if "*" in word else [word]
    return words


def arguments_of(words: list[str]) -> list[str]:
    """What follows `python -m speedtrain` or `speedtrain`, the verb said."""
    arguments = words[3:] if words[0] == "python" else words[1:]
    return arguments if arguments and arguments[0] in VERBS else ["train", *arguments]
