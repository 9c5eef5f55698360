"""The command as a person types it: bad input gets one line and exit code 2, before anything starts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from speedtrain.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    generator = np.random.default_rng(0)
    np.savez(
        path,
        images=generator.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
        labels=np.arange(40, dtype=np.int64) % 4,
    )
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on refusing the arguments: one line, exit code 2."""
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


BAD = {
    "--budget 0": "positive",
    "--budget -5": "positive",
    "--budget nan": "positive",
    "--budget .nan": "positive",
    "--budget inf": "positive",
    "--budget soon": "must be a number, got 'soon'",
    "": "--budget is missing",
    "--budget 9 --tricks sma": "did you mean 'sam'",
    "--budget 9 --with flop": "did you mean 'flip'",
    "--budget 9 --with sam --without sam": "only one of them",
    "--budget 9 --without sam": "that trick is not on; on are patch_whitening, celu",
    "--budget 9 --without flop": "did you mean 'flip'",
    "--budget 9 --set flip=3": "that is a trick; --with flip adds it",
    "--budget 9 --set sam.rho=0.1": "--with sam",
    "--budget 9 --with sam --set sam.roh=0.1": "did you mean 'rho'",
    "--budget 9 --with sam --set sam.rho=big": "sam.rho must be a number, got 'big'",
    "--budget 9 --with sam --set sam.rho=-1": "rho must be positive",
    "--budget 9 --with sam --set sam.rho=.nan": "rho must be positive",
    "--budget 9 --with sam --set sam.interval=1.5": "whole number",
    "--budget 9 --set flip.probability=2": "probability",
    "--budget 9 --set gradient_centralization.rho=1": "has no hyperparameter",
    "--budget 9 --set widht=8": "did you mean 'width'",
    "--budget 9 --set width=wide": "whole number or auto",
    "--budget 9 --set width=0": "positive",
    "--budget 9 --set width": "KEY=VALUE",
    "--budget 9 --set schedule=[[0,1]]": "schedule",
    "--budget 9 --set lr=-1": "positive",
    "--budget 9 --set lr=": "lr must be a number, got None",
    "--budget 9 --set width=": "whole number or auto",
    "--budget 9 --set precision=null": "precision must be",
    "--budget 9 --set schedule=": "schedule must be",
    "--budget 9 --with sam --set sam.rho=": "sam.rho must be a number",
    "--budget 9 --recipe outo": "did you mean 'auto'",
    "--budget 9 --recipe missing.yaml": "no such file",
    "--budget 9 --device tpu": "device must be auto, cpu, cuda or cuda:N",
    "--budget 9 --device mps": "CPUs and NVIDIA GPUs are supported",
    "--budget 9 --seed x": "whole number",
    "--budget 9 --seed -1": "0 or more",
    "--budget 9 --threads 0": "positive",
    "--budget 9 --per-class some": "whole number or all",
    "--budget 9 --model resnet10": "resnet9 or timm:NAME",
    "--budget 9 --model timm:resnet18x": "did you mean resnet18",
    "--budget 9 --seed 100000000000000000000000": "below 2**63",
    "--budget 9 --set momentum=5": "below 1",
    "--budget 9 --set schedule=[[0,1],[.nan,1],[1,0]]": "schedule",
    "--budget 9 --with progressive_resizing --set progressive_resizing.scales=[0.125,0.2,1.0]": "does not work on",
    "--budget 9 --model timm:vit_base_patch16_224": "patch_whitening needs",
    "--budget 9 --model timm:crossvit_9_240 --tricks none": "does not work on 32×32",
    "--budget 9 --frobnicate 3": "--frobnicate",
    "--budget 9 --data missing.npz": "missing.npz",
    "--budget 9 --precision": "--precision",
    "--quiet replay --run nowhere": "the command comes first: python -m speedtrain replay",
    "tain --budget 9": "did you mean 'train'",
    "predict --run nowhere --images x --out y.npz": "not a run directory",
    "predict --run nowhere": "required: --images, --out; see python -m speedtrain predict --help",
    "competition": "required: new|check|kit, DIR|FILE; see python -m speedtrain competition --help",
    "predict --run nowhere --images x --out y.csv": "not a run directory",
    "replay --run nowhere": "not a run directory",
}


@pytest.mark.parametrize("arguments", list(BAD))
def test_bad_input_gets_one_clear_line(
    arguments: str, images: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = arguments.split()
    if words and words[0] not in ("tain", "predict", "replay", "competition") and "--data" not in words:
        words += ["--data", images]
    assert BAD[arguments] in refused(words, capsys)
    assert not Path("runs").exists()  # nothing had begun


@pytest.mark.parametrize(
    "words",
    [
        ["--budget", "9", "--data", ""],
        ["predict", "--run", "r", "--out", "p.csv", "--images", ""],
        ["suspects", "--budget", "9", "--recipe", ""],
        ["competition", "check", ""],
        ["predict", "--run", "r", "--out", "p.csv", "--images="],
    ],
)
def test_an_empty_text_is_not_the_current_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(words, capsys)
    assert " is empty; give a name or a path" in said
    assert ("images" in said) == any(word.startswith("--images") for word in words)


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m speedtrain"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "speedtrain: the current folder was deleted; change to another one"
    assert "Traceback" not in done.stderr


def test_a_network_that_fails_here_gets_one_clear_line(
    images: str,
    warm_processes: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "fails here" in refused(["plan", "--budget", "9", "--set", "width=100000", "--data", images], capsys)
    assert not Path("runs").exists()


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_cuda_asked_for_and_absent(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--device cpu" in refused(["--budget", "9", "--data", images, "--device", "cuda"], capsys)


BAD_RECIPES = {
    "lr: [1, 2": "not valid YAML",
    "- lr": "mapping",
    "lerning_rate: 1": "unknown key",
    "tricks: [sam]": "tricks must be a mapping",
    "tricks: {sam: 3}": "sam: hyperparameters must be a mapping",
    "tricks: {sam: false}": "sam: hyperparameters must be a mapping",
    "tricks: {smo: {}}": "did you mean 'sam'",
    "lr: fast": "lr must be a number",
    "nesterov: perhaps": "true or false",
}


@pytest.mark.parametrize("text", list(BAD_RECIPES))
def test_a_bad_recipe_gets_one_clear_line(
    text: str, images: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert BAD_RECIPES[text] in refused(["--budget", "9", "--data", images, "--recipe", str(recipe)], capsys)


def test_a_run_directory_in_use_is_refused_and_left_alone(
    images: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("mine")
    said = refused(["--budget", "9", "--data", images, "--out", str(tmp_path)], capsys)
    assert "not empty" in said
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_a_run_directory_that_cannot_be_made_is_refused(
    images: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said = refused(["--budget", "9", "--data", images, "--out", str(tmp_path / "file" / "run")], capsys)
    assert "cannot be written" in said


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_is_quick_it_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom speedtrain.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'torchvision', 'timm', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
    assert told.endswith("[]\n")
    assert "usage: python -m speedtrain" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"wdith": 8}, "did you mean 'width'"),
        ({"with_trick": ["sam"]}, "unknown option"),
        ({"tricks": "sam"}, "list of names"),
        ({"tricks": {"sam": True}}, "must be a mapping"),
        ({"data": 3}, "data is a int"),
        ({"settings": [1]}, "settings must be a mapping"),
        ({"data": ""}, "--data is empty"),
        ({"out": ""}, "--out is empty"),
    ],
)
def test_bad_arguments_from_python_are_refused_alike(arguments: dict, said: str, images: str) -> None:
    from speedtrain import UserError, train

    with pytest.raises(UserError, match=said):
        train(**{"budget": 9, "data": images, **arguments})


@pytest.mark.parametrize("verb", ["replay", "predict --images x.npz --out y.npz"])
def test_a_foreign_run_directory_is_refused(verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [*verb.split(), "--run", str(tmp_path)]
    (tmp_path / "config.yaml").write_text("budget: 9")
    assert "not a run directory" in refused(command, capsys)
    (tmp_path / "weights.safetensors").write_bytes(b"not such a file")
    assert "not a readable weights file" in refused(command, capsys)
    save_file({"head.weight": np.zeros(3)}, tmp_path / "weights.safetensors")
    assert "not the weights of a run" in refused(command, capsys)


def test_files_in_the_current_folder_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "timing.py").write_text("raise RuntimeError('not the one')")
    (tmp_path / "tricks").mkdir()
    (tmp_path / "tricks" / "__init__.py").write_text("raise RuntimeError('not the one')")
    command = [sys.executable, "-m", "speedtrain", "tricks"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tricks_are_listed_with_all_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    from tricks import TRICKS

    assert main(["tricks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TRICKS)
    assert "rho=0.05" in listed
    assert "2010.01412" in listed


def test_recipes_in_the_repository_are_complete_and_valid() -> None:
    from speedtrain.config import recipe_folder, resolve

    for path in recipe_folder().glob("*.yaml"):
        config = resolve(recipe=path.stem, budget=60)
        again = yaml.safe_load(config.as_yaml())
        assert again["tricks"].keys() == (yaml.safe_load(path.read_text())["tricks"] or {}).keys()


def test_a_saved_configuration_gives_itself_again(tmp_path: Path) -> None:
    from speedtrain.config import resolve

    config = resolve(
        recipe="paper",
        budget=60,
        with_tricks=["progressive_resizing"],
        without=["flip"],
        settings={
            "sam.rho": 0.2,
            "lr": "1e-2",
            "progressive_resizing.scales": [0.5, 1.0],
            "progressive_resizing.until": [0.3],
        },
    )
    (tmp_path / "config.yaml").write_text(config.as_yaml())
    assert resolve(recipe=tmp_path / "config.yaml") == config
    assert config.tricks["sam"]["rho"] == 0.2
    assert config.lr == 0.01


def test_an_added_trick_stands_where_it_wraps_by_default() -> None:
    from speedtrain.config import resolve

    config = resolve(recipe="auto", budget=60, with_tricks=["sam", "progressive_resizing"])
    order = list(config.tricks)
    assert order.index("flip") < order.index("progressive_resizing") < order.index("label_smoothing")
    assert order.index("label_smoothing") < order.index("sam") < order.index("gradient_centralization")
    typed = resolve(recipe="auto", budget=60, tricks=["gradient_centralization", "sam"])
    assert list(typed.tricks) == ["gradient_centralization", "sam"]


def test_the_schedule_is_linear_between_its_knots() -> None:
    from speedtrain.config import resolve

    config = resolve(recipe="paper", budget=60, settings={"schedule": [[0, 0], [0.2, 1], [1, 0]]})
    points = np.linspace(0, 1, 21)
    expected = np.interp(points, [0, 0.2, 1], [0, 1, 0])
    assert [config.lr_factor(point) for point in points] == pytest.approx(list(expected))


def test_windows_is_told_what_is_supported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert "on Windows, run it in WSL" in refused(["--budget", "9"], capsys)


@pytest.mark.parametrize(
    "command", [["ablate", "--budget", "9", "--data"], ["board", "--test"]], ids=["ablate", "board"]
)
def test_without_file_locks_one_line_says_so(
    command: list[str], images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (tmp_path / "board/private").mkdir(parents=True)
    (tmp_path / "board/private/journal.jsonl").write_text("{}\n")
    assert "this command needs file locks (fcntl)" in refused([*command, images, "--out", "board"], capsys)
