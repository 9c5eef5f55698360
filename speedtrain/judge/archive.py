"""Reads a stranger's zip without trusting it, and checks the rules that need no run."""

import ast
import hashlib
import json
import re
import stat
import sys
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from speedtrain.errors import UserError
from speedtrain.submission.package import INTERFACE

MOST_FILES = 1000
MOST_BYTES = 16 << 20
LARGEST_FILE = 1 << 20
LARGE_CONSTANT = 2000
"""A constant in the source with at least so many characters is shown to the human judge."""

WEIGHTS_SUFFIX = re.compile(
    r"\.(bin|ckpt|gguf|h5|hdf5|joblib|keras|msgpack|np[yz]|onnx|pb|pickle|pkl|pt|pth|safetensors|tflite|parquet"
    r"|tar|tgz|gz|bz2|xz|zst|7z|zip|whl|png|jpe?g|webp|so|pyd|dll)(\.[^.]*)?$",
    re.IGNORECASE,
)
WEIGHTS_BEGINNING = re.compile(
    rb"PK\x03\x04|\x93NUMPY|\x89HDF|\x80[\x02-\x05]|\x1f\x8b|BZh|\xfd7zXZ|\x7fELF|\x89PNG|\xff\xd8\xff|GGUF"
)
STARTS_FROM_WEIGHTS = re.compile(
    rb"^(?:pretrained: *(?:true|yes|on)\b|start_from: *(?!null\b|~)[^\s#]).*", re.MULTILINE | re.IGNORECASE
)
"""A line of a recipe by which training would start from given weights. Matched as text: YAML from a stranger can
unfold to any size."""


@dataclass(frozen=True)
class Rule:
    """One rule, and whether the submission keeps it.

    Attributes:
        name: what the rule asks for.
        kept: whether the submission keeps it.
        detail: what was found; empty if there is nothing to say.
    """

    name: str
    kept: bool
    detail: str = ""


@dataclass(frozen=True)
class Submission:
    """The content of a zip. All text in it is untrusted.

    Attributes:
        sha256: hash of the zip, in hex.
        name, authors, version, licence, description: from its manifest and description, cut to size.
        files: path → content; empty if the zip is not safe to unpack.
        rules: the rules that need no run.
        notes: lines for a human judge.
    """

    sha256: str
    name: str
    authors: str
    version: str
    licence: str
    description: str
    files: dict[str, bytes]
    rules: tuple[Rule, ...]
    notes: tuple[str, ...]

    @property
    def refused(self) -> str | None:
        """Why it is not run; None if it is run."""
        return "; ".join(f"{rule.name}: {rule.detail}" for rule in self.rules if not rule.kept) or None

    def unpack(self, folder: Path) -> None:
        """Writes its files to a new folder. All users can read them, whatever this process's umask is."""
        folder.mkdir()
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


class _Unsafe(Exception):
    """The archive must not be unpacked."""


def read_submission(path: Path) -> Submission:
    """Reads and checks a submission.

    Args:
        path: the zip.

    Returns:
        The submission. Problems of its content are broken rules, and raise nothing.

    Raises:
        UserError: the file is missing, cannot be read or is too large.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size >> 20} MiB; a submission has {MOST_BYTES >> 20} at most")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    files: dict[str, bytes] = {}
    problem = ""
    try:
        files = _read_zip(path)
    except _Unsafe as error:
        problem = str(error)
    except Exception as error:  # zipfile, zlib and lzma raise many kinds of errors for a damaged file
        problem = f"not a whole zip ({_cut(error, 100)})"
    if problem:
        rules = [Rule("a whole and safe zip", False, problem)]
        return Submission(sha256, _cut(path.stem, 80), "", "", "", "", {}, tuple(rules), ())
    manifest, manifest_problem = _read_manifest(files)
    rules = [Rule("a whole and safe zip", True), *_check(files, manifest, manifest_problem)]
    texts = {key: _cut(manifest.get(key) or "", 200) for key in ("name", "authors", "version", "licence")}
    return Submission(
        sha256,
        texts["name"][:80] or _cut(path.stem, 80),
        texts["authors"],
        texts["version"],
        texts["licence"],
        files.get("DESCRIPTION.md", b"")[:20_000].decode(errors="replace"),
        files,
        tuple(rules),
        tuple(_notes(files)),
    )


def _cut(value: object, length: int) -> str:
    """One line of printable text from whatever a stranger wrote."""
    text = value if isinstance(value, str) else str(value)[: 4 * length]
    line = " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text[: 4 * length]).split())
    return line[:length]


def _read_zip(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    folded: set[str] = set()
    total = 0
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_FILES:
            raise _Unsafe(f"{len(entries)} files; {MOST_FILES} at most")
        for entry in entries:
            name = _cut(entry.filename, 80)
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Unsafe(f"{name} is a {'symbolic link' if stat.S_ISLNK(mode) else 'special file'}")
            if entry.flag_bits & 1:
                raise _Unsafe(f"{name} is encrypted")
            parts = PurePosixPath(entry.orig_filename).parts
            odd = any(unicodedata.category(c)[0] == "C" or c in '\\:*?"<>|' for c in entry.orig_filename)
            if not parts or odd or ".." in parts or parts[0] == "/" or any(len(part) > 200 for part in parts):
                raise _Unsafe(f"the path {name!r} leads out of the folder, or is not portable")
            if len(parts) > 20:
                raise _Unsafe(f"{name}: more than 20 folders deep")
            if entry.is_dir():
                continue
            key = str(PurePosixPath(*parts))
            if key.casefold() in folded:
                raise _Unsafe(f"{name} is in it twice")
            folded.add(key.casefold())
            # the declared size may be a lie, so never unpack more than is allowed
            with archive.open(entry) as file:
                content = file.read(MOST_BYTES - total + 1)
            total += len(content)
            if total > MOST_BYTES:
                raise _Unsafe(f"unpacks to more than {MOST_BYTES >> 20} MiB")
            files[key] = content
    for name in files:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            raise _Unsafe(f"{_cut(name, 80)} lies in a folder that is also a file")
    return files


def _read_manifest(files: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    """The manifest, and what is wrong with it (empty if nothing is)."""
    if "manifest.json" not in files:
        return {}, "there is no manifest.json"
    try:
        manifest = json.loads(files["manifest.json"])
    except (ValueError, RecursionError) as error:
        return {}, f"manifest.json is not JSON ({_cut(error, 100)})"
    if not isinstance(manifest, dict):
        return {}, "manifest.json is not an object"
    if manifest.get("interface") != INTERFACE:
        return manifest, f'manifest.json must contain "interface": {INTERFACE}'
    if not isinstance(manifest.get("name"), str) or not _cut(manifest["name"], 80):
        return manifest, "manifest.json gives no name"
    return manifest, ""


def _check(files: dict[str, bytes], manifest: dict[str, Any], manifest_problem: str) -> Iterator[Rule]:
    missing = [name for name in ("training.py", "test.py") if name not in files]
    yield Rule("training.py and test.py", not missing, f"{' and '.join(missing)} not at its root" if missing else "")
    yield Rule("a manifest", not manifest_problem, manifest_problem)
    hashes = manifest.get("files", {})
    if isinstance(hashes, dict):
        wrong = [
            name
            for name, expected in hashes.items()
            if name not in files or hashlib.sha256(files[name]).hexdigest() != expected
        ]
        if hashes:
            wrong += sorted(set(files) - set(hashes) - {"manifest.json"})
        detail = f"{_cut(wrong[0], 80)} is not the file of the manifest ({len(wrong)} such files)" if wrong else ""
    else:
        wrong, detail = ["files"], '"files" must map paths to SHA-256'
    yield Rule("files as in the manifest", not wrong, detail)
    licence = manifest.get("licence") or manifest.get("license")
    declared = isinstance(licence, str) and bool(_cut(licence, 80))
    yield Rule("a declared licence", declared, "" if declared else "none")
    carried = [_cut(name, 80) for name, content in sorted(files.items()) if _may_hold_weights(name, content)]
    detail = f"{carried[0]} could hold some ({len(carried)} such files)" if carried else ""
    yield Rule("no weights and no data", not carried, detail)
    given = STARTS_FROM_WEIGHTS.search(files.get("recipe.yaml", b""))
    detail = f"recipe.yaml starts from given weights ({_cut(given[0].decode(errors='replace'), 80)})" if given else ""
    yield Rule("no pretrained weights", not given, detail)


def _may_hold_weights(name: str, content: bytes) -> bool:
    return len(content) > LARGEST_FILE or bool(WEIGHTS_SUFFIX.search(name) or WEIGHTS_BEGINNING.match(content))


def _notes(files: dict[str, bytes]) -> Iterator[str]:
    """Lines for a human judge: what is imported, and where the source holds large constants or asks for weights."""
    imported: set[str] = set()
    own = {PurePosixPath(name).parts[0].removesuffix(".py") for name in files}
    for name, content in sorted(files.items()):
        if not name.endswith(".py"):
            if b"\0" in content:
                yield f"{_cut(name, 80)}: a binary file of {len(content)} bytes"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(content)
            nodes = list(ast.walk(tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            yield f"{_cut(name, 80)}: not readable as Python {sys.version_info.major}.{sys.version_info.minor}"
            continue
        last = -1
        for node in nodes:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.keyword):
                if node.arg == "pretrained" and getattr(node.value, "value", None) is True:
                    yield f"{_cut(name, 80)}, line {node.lineno}: asks for pretrained weights (pretrained=True)"
            elif isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set):
                size = _size(node)
                if size >= LARGE_CONSTANT and node.lineno > last:  # an outer node comes before the nodes inside it
                    last = node.end_lineno or node.lineno
                    if not _is_docstring(node, content):
                        yield f"{_cut(name, 80)}, line {node.lineno}: a constant of {size} characters"
    strange = sorted(imported - own - sys.stdlib_module_names)
    standard = sorted(imported & {"socket", "urllib", "http", "ctypes", "subprocess", "pickle", "marshal", "base64"})
    yield f"imports beyond the standard library: {', '.join(map(_short, strange)) or 'none'}"
    if standard:
        yield f"imports worth a look: {', '.join(standard)}"


def _short(name: str) -> str:
    return _cut(name, 40)


def _size(node: ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set) -> int:
    """About how many characters of source a node takes up."""
    if isinstance(node, ast.Constant):
        return len(node.value) if isinstance(node.value, str | bytes) else 0
    lines = (node.end_lineno or node.lineno) - node.lineno
    return 80 * lines if lines else (node.end_col_offset or 0) - node.col_offset


def _is_docstring(node: ast.AST, content: bytes) -> bool:
    """Whether it is prose: its words are short, unlike encoded data."""
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    words = node.value.split()
    return bool(words) and max(map(len, words)) < 100
