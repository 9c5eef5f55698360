"""Reads a stranger's zip without trusting it, and checks the rules that need no run."""

import hashlib
import io
import json
import os
import re
import stat
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from speedtrain.errors import UserError
from speedtrain.judge.settings import ZipRules, in_bytes
from speedtrain.judge.source_inspection import inspect
from speedtrain.submission.package import INTERFACE

MOST_FILES = 1000
LITTER = ("__MACOSX", ".DS_Store")
"""What macOS adds to a zip: it is left out."""
NOTED_BYTES, NOTED_SHARE = 2048, 0.55
"""Files of so many bytes that compress to more than this share are noted: Python and prose compress to a third or so,
base64 and base85 to more than 0.75."""
MOST_MARKS = 2  # combining ones, on a letter
BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs that show nothing: fillers of Hangul, and an empty pattern of Braille."""
WEIGHTS_SUFFIX = re.compile(
    r"\.(bin|ckpt|gguf|h5|hdf5|joblib|keras|msgpack|np[yz]|onnx|pb|pickle|pkl|pt|pth|safetensors|tflite|parquet"
    r"|tar|tgz|gz|bz2|xz|zst|7z|zip|whl|png|jpe?g|webp|so|pyd|dll)(\.[^.]*)?$",
    re.IGNORECASE,
)
WEIGHTS_BEGINNING = re.compile(
    rb"PK\x03\x04|\x93NUMPY|\x89HDF|\x80[\x02-\x05]|\x1f\x8b|BZh|\xfd7zXZ|\x7fELF|\x89PNG|\xff\xd8\xff|GGUF"
)
STARTS_FROM_WEIGHTS = re.compile(
    rb"""["']?pretrained["']?[ \t]*:[ \t]*["']?(?:true|yes|on)\b.*"""
    rb"""|["']?start_from["']?[ \t]*:[ \t]*(?!(?:null|~)[ \t]*(?:[#,}\r\n]|$))[^\s#,}].*""",
    re.MULTILINE | re.IGNORECASE,
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
        content: the zip; empty if it is too large.
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
    content: bytes = field(default=b"", repr=False)

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


def read_submission(path: Path, allowed: ZipRules | None = None, *, inspected: bool = True) -> Submission:
    """Reads and checks a submission.

    Args:
        path: the zip.
        allowed: what it may hold. Default: as `ZipRules` has it.
        inspected: whether its source is looked through for notes, which takes up to
            `source_inspection.ALL_SECONDS`. Default: yes.

    Returns:
        The submission. Problems of its content are broken rules, and raise nothing.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    allowed = allowed or ZipRules()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # of one that is too large the beginning is enough to know it again
            content = file.read(min(size, allowed.largest_zip))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        if size > allowed.largest_zip:
            raise _Unsafe(f"{in_bytes(size)}; a submission has {in_bytes(allowed.largest_zip)} at most")
        files, folder = _read_zip(content, allowed.largest_zip)
    except _Unsafe as error:
        return _refused(path, sha256, str(error))
    except Exception as error:  # zipfile and zlib raise many kinds of errors for a damaged file
        return _refused(path, sha256, f"not a whole zip ({_cut(error, 100)})")
    try:
        checked = _checked(path, sha256, files, allowed, inspected)
        note = [f"its files lie in a folder {_cut(folder, 80)}: this folder was taken as its root"] if folder else []
        return replace(checked, notes=(*note, *checked.notes), content=content)
    except Exception as error:  # what a stranger can think of must not end the reading of the others
        return _refused(path, sha256, f"its files cannot be checked ({type(error).__name__}: {_cut(error, 100)})")


def _refused(path: Path, sha256: str, problem: str) -> Submission:
    """A submission of which nothing is known but why it is not run."""
    return Submission(
        sha256, _cut(path.stem, 80), "", "", "", "", {}, (Rule("a whole and safe zip", False, problem),), ()
    )


def _checked(path: Path, sha256: str, files: dict[str, bytes], allowed: ZipRules, inspected: bool) -> Submission:
    """A submission by its files, with all rules looked at."""
    manifest, manifest_problem = _read_manifest(files)
    rules = [Rule("a whole and safe zip", True), *_check(files, manifest, manifest_problem, allowed)]
    given = {**manifest, "licence": _licence(manifest)}
    texts = {key: _cut(given.get(key) or "", 200) for key in ("name", "authors", "version", "licence")}
    return Submission(
        sha256,
        texts["name"][:80] or _cut(path.stem, 80),
        texts["authors"],
        texts["version"],
        texts["licence"],
        files.get("DESCRIPTION.md", b"")[:20_000].decode(errors="replace"),
        files,
        tuple(rules),
        tuple(_notes(files)) if inspected else (),
    )


def _cut(value: object, length: int) -> str:
    """One line of printable text from whatever a stranger wrote; empty if nothing of it can be seen.

    A letter keeps two marks: with dozens it would cover the lines above and below.
    """
    text = value if isinstance(value, str) else str(value)[: 4 * length]
    kept: list[str] = []
    marks = 0
    for c in text[: 4 * length]:
        marks = marks + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        if marks <= MOST_MARKS:
            kept.append(" " if unicodedata.category(c)[0] == "C" or c in BLANK else c)
    line = " ".join("".join(kept).split())[:length]
    return line if any(unicodedata.category(c)[0] in "LNPS" for c in line) else ""


def _licence(manifest: Mapping[str, Any]) -> Any:
    """The licence that a manifest declares, in either spelling."""
    return manifest.get("licence") or manifest.get("license")


def _read_zip(zipped: bytes, most: int) -> tuple[dict[str, bytes], str]:
    """Its files, without the litter of macOS; and the folder that holds all of them, empty if they lie at the root."""
    files: dict[str, bytes] = {}
    folded: set[str] = set()
    total = 0
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
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
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # the others unpack whole blocks, of any size, before a bound is looked at
                raise _Unsafe(
                    f"{name} is compressed in a way that is not accepted: use deflate, as zip does by default"
                )
            parts = PurePosixPath(entry.orig_filename).parts
            odd = any(unicodedata.category(c)[0] == "C" or c in '\\:*?"<>|' for c in entry.orig_filename)
            if not parts or odd or ".." in parts or parts[0] == "/" or any(len(part) > 200 for part in parts):
                raise _Unsafe(f"the path {name!r} leads out of the folder, or is not portable")
            if len(parts) > 20:
                raise _Unsafe(f"{name}: more than 20 folders deep")
            if entry.is_dir() or parts[0] in LITTER or parts[-1] in LITTER:
                continue
            key = str(PurePosixPath(*parts))
            if key.casefold() in folded:
                raise _Unsafe(f"{name} is in it twice")
            folded.add(key.casefold())
            # the declared size may be a lie, so never unpack more than is allowed
            with archive.open(entry) as file:
                content = file.read(most - total + 1)
            total += len(content)
            if total > most:
                raise _Unsafe(f"unpacks to more than {in_bytes(most)}")
            files[key] = content
    for name in files:
        if any(str(parent) in files for parent in PurePosixPath(name).parents):
            raise _Unsafe(f"{_cut(name, 80)} lies in a folder that is also a file")
    tops = {PurePosixPath(name).parts[0] for name in files}
    if len(tops) == 1 and files.keys().isdisjoint(tops):  # a folder was zipped, and not what is in it
        (folder,) = tops
        return {name.removeprefix(f"{folder}/"): content for name, content in files.items()}, folder
    return files, ""


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


def _check(
    files: dict[str, bytes], manifest: dict[str, Any], manifest_problem: str, allowed: ZipRules
) -> Iterator[Rule]:
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
    if allowed.licence:
        licence = _licence(manifest)
        declared = isinstance(licence, str) and bool(_cut(licence, 80))
        yield Rule("a declared licence", declared, "" if declared else "none")
    large = [name for name, content in sorted(files.items()) if len(content) > allowed.largest_file]
    if allowed.pretrained_weights:
        detail = f"{_cut(large[0], 80)} has {in_bytes(len(files[large[0]]))}" if large else ""
        yield Rule(f"no file over {in_bytes(allowed.largest_file)}", not large, detail)
        return
    carried = [name for name, content in sorted(files.items()) if name in large or _may_hold_weights(name, content)]
    detail = f"{_cut(carried[0], 80)} could hold some ({len(carried)} such files)" if carried else ""
    yield Rule("no weights and no data", not carried, detail)
    recipe = re.sub(rb"(?m)^[ \t]*#.*", b"", files.get("recipe.yaml", b""))
    given = STARTS_FROM_WEIGHTS.search(recipe)
    detail = f"recipe.yaml starts from given weights ({_cut(given[0].decode(errors='replace'), 80)})" if given else ""
    yield Rule("no pretrained weights", not given, detail)


def _may_hold_weights(name: str, content: bytes) -> bool:
    return bool(WEIGHTS_SUFFIX.search(name) or WEIGHTS_BEGINNING.match(content))


def _notes(files: dict[str, bytes]) -> Iterator[str]:
    """Lines for a human judge: what is imported, and where the source holds large constants or asks for weights."""
    own = {PurePosixPath(name).parts[0].removesuffix(".py") for name in files}
    sources = {name: content for name, content in sorted(files.items()) if name.endswith(".py")}
    try:
        found = inspect(sources)
    except Exception as error:  # a fault of this machine, such as no memory for the process: it is no entrant's
        yield f"the source was not looked through ({type(error).__name__})"
        return
    if not files:
        return
    whole = sum(map(len, files.values()))
    packed = {name: len(zlib.compress(content, 9)) for name, content in files.items()}
    compressed = f"{in_bytes(sum(packed.values()))} compressed"
    yield f"{len(files)} files of {in_bytes(whole)}, {compressed}; the largest is {_largest(packed)}"
    for name, content in sorted(files.items()):
        if len(content) >= NOTED_BYTES and packed[name] > NOTED_SHARE * len(content):
            size, compressed_size = in_bytes(len(content)), in_bytes(packed[name])
            yield f"{_cut(name, 80)}: {size} that compress to {compressed_size}: more than text does"
        if name not in sources:
            if b"\0" in content:
                yield f"{_cut(name, 80)}: a binary file of {len(content)} bytes"
        elif found[name].problem:
            yield f"{_cut(name, 80)}: {found[name].problem}"
        else:
            yield from (f"{_cut(name, 80)}, line {line}: {words}" for line, words in found[name].lines)
    imported = {module for findings in found.values() for module in findings.imported}
    strange = sorted(imported - own - sys.stdlib_module_names)
    standard = sorted(imported & {"socket", "urllib", "http", "ctypes", "subprocess", "pickle", "marshal", "base64"})
    yield f"imports beyond the standard library: {', '.join(map(_short, strange)) or 'none'}"
    if standard:
        yield f"imports worth a look: {', '.join(standard)}"


def _largest(packed: Mapping[str, int]) -> str:
    """The file with the most content, by its compressed size."""
    name = max(sorted(packed), key=lambda name: packed[name])
    return f"{_cut(name, 80)} with {in_bytes(packed[name])}"


def _short(name: str) -> str:
    return _cut(name, 40)
