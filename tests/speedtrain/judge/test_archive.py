"""Zips that no one should unpack, and rules that can be read off a zip."""

import base64
import json
import os
import resource
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from speedtrain.errors import UserError
from speedtrain.judge import source_inspection
from speedtrain.judge.archive import read_submission
from speedtrain.judge.settings import ZipRules

from .conftest import submission

ROOT = Path(__file__).parents[3]


def with_entry(tmp_path: Path, name: str, content: bytes = b"x", mode: int = 0) -> Path:
    path = submission(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, mode << 16
        archive.writestr(entry, content)
    return path


def test_an_honest_one_is_not_refused_and_unpacks_to_what_was_packed(tmp_path: Path) -> None:
    found = read_submission(submission(tmp_path / "a.zip", name="Team A"))
    assert found.refused is None
    assert found.name == "Team A"
    found.unpack(tmp_path / "unpacked")
    assert sorted(path.name for path in (tmp_path / "unpacked").iterdir()) == sorted(found.files)
    assert (tmp_path / "unpacked" / "training.py").read_bytes() == found.files["training.py"]


UNSAFE = {
    "../outside.py": "leads out",
    "a/../../outside.py": "leads out",
    "/etc/cron.d/job": "leads out",
    "..\\outside.py": "leads out",
    "C:/windows.py": "leads out",
    "new\nline.py": "leads out",
    "a/" * 30 + "b.py": "folders deep",
    "training.py": "in it twice",
    "Training.PY": "in it twice",
    "training.py/inside": "lies in a folder that is also a file",
}


@pytest.mark.parametrize("name", list(UNSAFE))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    found = read_submission(with_entry(tmp_path, name))
    assert UNSAFE[name] in (found.refused or "")
    assert found.files == {}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    found = read_submission(with_entry(tmp_path, "innocent", b"/etc/passwd", kind | 0o777))
    assert "innocent is a" in (found.refused or "")


def test_a_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    path = submission(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.py", bytes(10 << 20))
    assert path.stat().st_size < ZipRules().largest_zip
    assert "unpacks to more than" in (read_submission(path).refused or "")


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.py", bytes(64 << 20))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 64 << 20), struct.pack("<I", 10)))
    assert read_submission(path).refused


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    path = submission(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(2000):
            archive.writestr(f"{number}.py", "")
    assert "1000 at most" in (read_submission(path).refused or "")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "not a whole zip" in (read_submission(tmp_path / "a.zip").refused or "")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_before_it_can_be_bounded_is_refused(method: int, tmp_path: Path) -> None:
    path = submission(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("large.py", bytes(64 << 20))
    assert path.stat().st_size < ZipRules().largest_zip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "compressed in a way" in (read_submission(path).refused or "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_one_that_is_too_large_is_refused_and_not_read(tmp_path: Path) -> None:
    path = submission(tmp_path / "a.zip")
    with open(path, "ab") as file:
        file.truncate(ZipRules().largest_zip + (1 << 20))
    found = read_submission(path)
    assert "17 MiB; a submission has 16 MiB at most" in (found.refused or "")
    assert found.name == "a"


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    content = submission(tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: len(content) // 2])
    assert read_submission(tmp_path / "b.zip").refused


def test_a_zip_that_is_not_there_is_the_organisers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_submission(tmp_path / "missing.zip")


BAD_MANIFESTS = {
    "{": "not JSON",
    "[1]": "not an object",
    '{"name": "A", "licence": "MIT"}': '"interface": 1',
    '{"interface": 1, "licence": "MIT"}': "no name",
    '{"interface": 1, "name": "A"}': "a declared licence: none",
    '{"interface": 1, "name": "A", "licence": "MIT", "files": {"training.py": "00"}}': "not the file of the manifest",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("text", list(BAD_MANIFESTS), ids=range(len(BAD_MANIFESTS)))
def test_a_bad_manifest_is_refused(text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in {"training.py": "", "test.py": "", "manifest.json": text}.items():
            archive.writestr(name, content)
    assert BAD_MANIFESTS[text] in (read_submission(tmp_path / "a.zip").refused or "")


CARRIED = {
    "weights.pt": b"x",
    "net.safetensors.txt": b"x",
    "prior.txt": b"\x80\x04\x95" + bytes(100),
    "hidden.py": b"\x93NUMPY" + bytes(100),
    "large.py": b"#" * (2 << 20),
    "images.PNG": b"x",
}


@pytest.mark.parametrize("name", list(CARRIED))
def test_what_may_hold_weights_is_refused(name: str, tmp_path: Path) -> None:
    found = read_submission(with_entry(tmp_path, name, CARRIED[name]))
    assert "no weights and no data" in (found.refused or "")


def test_imports_and_large_constants_are_listed_for_a_human(tmp_path: Path) -> None:
    code = f"""
    import requests, base64
    from torchvision.models import resnet50
    weights = "{"QUJD" * 2000}"
    numbers = [{"1, " * 3000}]
    prose = "{"a word and another " * 300}"
    """
    notes = "\n".join(read_submission(submission(tmp_path / "a.zip", training=code)).notes)
    assert "requests" in notes
    assert "torchvision" in notes
    assert "base64" in notes
    assert notes.count("a constant of") == 2


def test_text_that_may_hold_weights_is_noted_and_source_and_prose_are_not(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).bytes(6000)
    path = submission(tmp_path / "a.zip", training=f'"""{base64.b64encode(weights).decode()}"""')
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", base64.b85encode(weights))
        archive.writestr("hex.md", weights.hex())
        archive.writestr("prose.md", (ROOT / "docs/timing.md").read_text())
        archive.writestr("source.py", (ROOT / "speedtrain/view/figures.py").read_text())
    notes = read_submission(path).notes
    noted = {note.partition(":")[0] for note in notes if "more than text does" in note}
    assert noted == {"training.py", "notes.txt", "hex.md"}
    assert "8 files of" in notes[0]
    assert "the largest is hex.md with" in notes[0]


def test_source_that_is_hard_to_parse_is_no_obstacle(tmp_path: Path) -> None:
    path = with_entry(tmp_path, "deep.py", b"(" * 50_000)
    assert any("deep.py: not readable" in note for note in read_submission(path).notes)


HARD_TO_PARSE = {
    "strings": b'x = f"' + b"{1}" * 330_000 + b'"\n',
    "lists": b"x = [" + b"[[[[]]]]," * 110_000 + b"]\n",
    "sums": b"x = " + b"1+" * 400_000 + b"1\n",
}


@pytest.mark.parametrize("kind", HARD_TO_PARSE)
def test_source_that_takes_the_parser_minutes_or_gigabytes_costs_the_judge_neither(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_inspection, "FILE_SECONDS", 1)
    path = submission(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b_hard.py", HARD_TO_PARSE[kind])
        archive.writestr("c_easy.py", "import requests")
    spent, before = os.times(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    notes = "\n".join(read_submission(path).notes)
    assert "requests" in notes  # of the file after it
    children = os.times().children_user - spent.children_user
    assert children < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB


def test_all_files_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_inspection, "FILE_SECONDS", 1)
    monkeypatch.setattr(source_inspection, "ALL_SECONDS", 3)
    files = {f"{number}.py": HARD_TO_PARSE["strings"] for number in range(8)}
    spent = os.times()
    found = source_inspection.inspect({**files, "z.py": b"import requests"})
    assert os.times().children_user - spent.children_user < 10
    assert all("not looked through" in found[name].problem for name in files)


def test_text_of_a_stranger_is_one_printable_line(tmp_path: Path) -> None:
    found = read_submission(submission(tmp_path / "a.zip", name="A\u202e\x1b[31m\n\nB" + "x" * 500))
    assert found.name.startswith("A [31m B")
    assert len(found.name) == 80
    assert json.dumps(found.name)


@pytest.mark.parametrize("name", ["\u3164", "\u2800\u2800", " \u115f\u1160 ", "\uffa0\u200b", "\u0301\u0301"])
def test_a_name_or_licence_that_nobody_can_see_is_none(name: str, tmp_path: Path) -> None:
    assert "gives no name" in (read_submission(submission(tmp_path / "a.zip", name=name)).refused or "")
    assert "a declared licence" in (read_submission(submission(tmp_path / "b.zip", licence=name)).refused or "")


def test_marks_do_not_run_over_rows_and_either_spelling_of_licence_counts(tmp_path: Path) -> None:
    found = read_submission(
        submission(tmp_path / "a.zip", name="Z" + "\u0351" * 60 + "algo", licence=None, license="BSD")
    )
    assert found.name == "Z\u0351\u0351algo"
    assert found.licence == "BSD"
    assert found.refused is None


@pytest.mark.parametrize(
    "line",
    [
        *["pretrained: true", "start_from: runs/a", "start_from:   'x'  # mine", "Pretrained: Yes", "start_from: ~/a"],
        *["start_from: null/x", "start_from : x", '"pretrained": true', "{lr: 1, pretrained: on}", "start_from:\tx"],
    ],
)
def test_a_recipe_that_starts_from_given_weights_is_refused(line: str, tmp_path: Path) -> None:
    found = read_submission(with_entry(tmp_path, "recipe.yaml", f"lr: 0.1\n{line}\n".encode()))
    assert "no pretrained weights" in (found.refused or "")


@pytest.mark.parametrize(
    "line",
    [
        *["pretrained: false", "start_from: null", "start_from: ~", "start_from:", "# pretrained: true"],
        *["start_from: null  # none", "{pretrained: false, start_from: null}", "pretrained: falsetrue"],
    ],
)
def test_a_recipe_that_starts_from_random_weights_is_not(line: str, tmp_path: Path) -> None:
    found = read_submission(with_entry(tmp_path, "recipe.yaml", f"lr: 0.1\n{line}\n".encode()))
    assert "pretrained" not in (found.refused or "")


def test_source_that_asks_for_pretrained_weights_is_noted(tmp_path: Path) -> None:
    source = b"import timm\nnetwork = timm.create_model('resnet18',\n    pretrained=True)\nother(pretrained=False)\n"
    notes = read_submission(with_entry(tmp_path, "net.py", source)).notes
    assert [note for note in notes if "pretrained" in note] == [
        "net.py, line 3: asks for pretrained weights (pretrained=True)"
    ]
