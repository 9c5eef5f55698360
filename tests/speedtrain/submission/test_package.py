"""A packaged submission, run as an organiser would: elsewhere, with little installed, and judged."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from speedtrain.cli import main
from speedtrain.data import load_data
from speedtrain.model.weights import load_facts

SMALL = ["--set", "width=8", "--set", "precision=fp32", "--set", "batch_size=64"]
NOT_THERE = ("jsonargparse", "rich", "matplotlib", "mpl_toolkits", "sklearn", "scikit_learn", "scipy", "speedtrain")
"""What an organiser need not have installed."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "submission.zip"
    assert main(["package", "--out", str(path), *SMALL, "--name", "Team A", "--authors", "Ada"]) == 0
    return path


def test_the_same_inputs_give_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "speedtrain", "package", "--out", "again.zip", *SMALL]
    subprocess.run([*command, "--name", "Team A", "--authors", "Ada"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_the_manifest_lists_every_file(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(content.pop("manifest.json"))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert {key: manifest[key] for key in ("name", "authors", "licence", "interface")} == {
        "name": "Team A", "authors": "Ada", "licence": "MIT", "interface": 1,
    }  # fmt: skip
    assert all(line.count("==") == 1 for line in content["requirements.txt"].decode().splitlines())
    description = content["DESCRIPTION.md"].decode()
    assert "By Ada." in description
    assert "arXiv 2004.01461" in description  # gradient centralization's paper, as it is in the recipe
    assert yaml.safe_load(content["recipe.yaml"])["width"] == 8


def test_the_default_takes_along_the_networks_that_it_may_train_in_place_of_one(tmp_path: Path) -> None:
    assert main(["package", "--out", str(tmp_path / "a.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        first, second = (yaml.safe_load(archive.read(f"members/{number}.yaml")) for number in (1, 2))
        description = archive.read("DESCRIPTION.md").decode()
    assert "momentum_sam" in first["tricks"]
    assert "mirror_equivariance" in second["tricks"]
    assert "each once or twice, if this is predicted to be better" in description
    only = "Only if width × epochs is predicted to be 6000 or more. Source: Müller"
    assert only in next(line for line in description.splitlines() if line.startswith("- **trivial_augment**"))
    assert "or after 150 epochs of 5,000 images (400 with trivial_augment)" in description
    for name in {*first["tricks"], *second["tricks"]}:
        assert f"- **{name}**" in description
    assert main(["package", "--out", str(tmp_path / "b.zip"), "--set", "or_members=null"]) == 0
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert not any(name.startswith("members/") for name in archive.namelist())


def test_a_network_that_has_a_trick_of_long_runs_anyway_is_described_so(tmp_path: Path) -> None:
    members = "members=[{with: trivial_augment, width: 24}, {width: 24}]"
    assert main(["package", "--out", str(tmp_path / "a.zip"), "--set", members]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        description = archive.read("DESCRIPTION.md").decode()
    assert "or after 150 or 400 epochs of 5,000 images\n" in description
    assert "- **trivial_augment**" in description
    assert "Only if" not in description


def test_nothing_of_the_entrants_disk_is_in_it(packed: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: /home/ada/secret.npz\ntest: /home/ada/test.npz\ndata_root: /home/ada\nwidth: 8\n")
    assert main(["package", "--out", str(tmp_path / "a.zip"), "--recipe", str(recipe)]) == 0
    content = (tmp_path / "a.zip").read_bytes()
    assert b"/home/ada" not in content
    assert str(Path.home()).encode() not in packed.read_bytes()


def test_it_trains_and_predicts_with_little_installed_from_a_read_only_folder(packed: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(source)
    for path in [*source.rglob("*"), source]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    data = load_data("digits")
    large, large_test = (images.repeat(2, 1).repeat(2, 2) for images in (data.train.images, data.test.images))  # 64
    np.savez(tmp_path / "train.npz", images=large, labels=data.train.labels)
    np.savez(tmp_path / "images.npz", images=large_test)
    np.savez(tmp_path / "test.npz", images=large_test, labels=data.test.labels)
    little = tmp_path / "little"  # what is installed here, without what need not be there
    little.mkdir()
    for path in Path(np.__file__).parents[1].iterdir():
        if path.name.split("-")[0].partition(".")[0] not in NOT_THERE and path.suffix != ".pth":
            (little / path.name).symlink_to(path)
    settings = {"PYTHONPATH": str(little), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **settings}
    absent = "import importlib.util as u; print([name for name in {NOT_THERE} if u.find_spec(name)])"
    command = [sys.executable, "-S", "-c", absent.replace("{NOT_THERE}", repr(NOT_THERE))]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == "[]\n"

    def on_two_cores() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", str(source / script), *arguments, "--net_sav", "weights"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=on_two_cores
        )

    def output_of(process: subprocess.Popen[str]) -> str:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        return output

    output = output_of(start("training.py", "--data", "train.npz", "--budget", "14"))
    assert int(output.split("images_seen: ")[1]) > len(data.train.images)
    side = load_facts(tmp_path / "weights")["images"]["side"]
    assert side == 32, "as in a run: 28 core-seconds are short for 1,437 images of 64 pixels"
    unlabelled = start("test.py", "--data", "images.npz", "--predictions", "out.npy")
    labelled = start("test.py", "--data", "test.npz", "--predictions", "out2.npy")  # at the same time: imports are slow
    output_of(unlabelled)
    predicted = np.load(tmp_path / "out.npy")
    assert predicted.dtype == np.int64
    accuracy = (predicted == data.test.labels).mean()
    assert accuracy > 0.5
    assert f"accuracy: {accuracy:.4f}" in output_of(labelled)


def test_verify_finds_the_example_of_a_plain_script_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parents[3] / "examples" / "plain_submission"
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        for path in sorted(example.iterdir()):
            archive.write(path, path.name)
    assert main(["verify", str(tmp_path / "plain.zip"), "--budget", "20", "--memory", "2G"]) == 0, capsys.readouterr()
    output = capsys.readouterr().out
    assert "BROKEN" not in output
    assert "every rule is kept" in output


def test_verify_lists_what_is_broken(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(packed) as before, zipfile.ZipFile(tmp_path / "a.zip", "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
        after.writestr("weights.pt", b"x")
    assert main(["verify", str(tmp_path / "a.zip")]) == 1
    output = capsys.readouterr().out
    assert "BROKEN  no weights and no data: weights.pt" in output
    assert "BROKEN  files as in the manifest" in output
    assert "kept    a declared licence" in output


BAD = {
    "--recipe outo": "did you mean 'auto'",
    "--run nowhere": "not a run directory",
    "--set sam.rho=1": "--with sam",
    "--description missing.md": "cannot be read",
    "--out nowhere/a.zip": "cannot be written",
}


@pytest.mark.parametrize("arguments", list(BAD))
def test_bad_input_gets_one_clear_line(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["package", "--out", "a.zip", *arguments.split()]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert BAD[arguments] in output
    assert list(tmp_path.iterdir()) == []
