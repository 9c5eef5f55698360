"""A competition in one file: read, checked, handed out and judged, with small real submissions."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import yaml

from speedtrain.cli import main
from speedtrain.errors import UserError
from speedtrain.judge.competition import read_competition
from speedtrain.judge.competition_check import price
from speedtrain.judge.competition_template import schema, template
from speedtrain.judge.scores import curve_weights
from speedtrain.judge.settings import gpu_devices

from .conftest import SANDBOX, board_of, submission

pytestmark = pytest.mark.usefixtures("steady_machine")

SCHEMA = Path(__file__).parents[3] / "docs" / "competition.schema.json"
LIMITS = {"memory": "600M", "disk": "64M", "processes": 64, "cpus": 1}


def write(folder: Path, images: SimpleNamespace, /, **changes: object) -> Path:
    """A competition of the small images, with what is changed; None removes a key."""
    for name in ("train", "test"):
        shutil.copy(getattr(images, name), folder / f"{name}.npz")
    given: dict = {"name": "Colours", "data": {"train": "train.npz", "secret_test": "test.npz"}}
    given |= {"budget": 5, "test_budget": 4, "runs": 2, "drift": 1000, "limits": LIMITS, **changes}
    path = folder / "competition.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in given.items() if value is not None}))
    return path


# ---- the file ----


def test_the_schema_is_published_and_agrees_with_the_template(tmp_path: Path) -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "write it again: json.dumps(schema(), indent=2)"
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    plain = yaml.safe_load(template())
    validator.validate(plain)
    everything = template().partition("# Several training sets")[0]
    lines = [line for line in everything.splitlines() if line.strip()]
    opened = "\n".join(line.replace("# ", "", 1) if ":" in line and not is_prose(line) else line for line in lines)
    full = yaml.safe_load(opened)
    assert full.keys() == schema()["properties"].keys() - {"regimes"}
    validator.validate({**full, "dates": {}, "limits": {"disk": "2G"}})


def is_prose(line: str) -> bool:
    return not line.lstrip("# ").partition(":")[0].isidentifier()


def test_a_new_file_needs_only_the_names_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["competition", "new", str(tmp_path / "contest")]) == 0
    path = tmp_path / "contest" / "competition.yaml"
    with pytest.raises(UserError, match=r"data.train: .*train.npz does not exist"):
        read_competition(path)
    for name in ("train.npz", "secret_test.npz"):
        (path.parent / name).touch()
    competition = read_competition(path.parent)  # as the command prints it
    assert competition.settings.budget == 600
    assert competition.settings.score.kind == "accuracy"
    assert main(["competition", "new", str(tmp_path / "contest")]) == 2
    assert "exists" in capsys.readouterr().err


BAD = {
    "budgt: 5": "no key budgt; did you mean 'budget'?",
    "limits: {memori: 1G}": "no key limits.memori; did you mean 'memory'?",
    "score: anytim": "score.kind: no score 'anytim'; did you mean 'anytime'?",
    "score: {kind: time_to_target}": "score.target is missing",
    "score: {kind: time_to_target, target: 1.5}": "score.target must be an accuracy between 0 and 1, got 1.5",
    "score: {kind: accuracy, target: 0.5}": "score.target belongs to time_to_target",
    "score: {kind: accuracy, t0: 5}": "score.t0 belongs to",
    "score: {kind: anytime, copies: 1}": "score.copies must be a whole number from 2 to 1000, got 1",
    "runs: 0": "runs must be a number above 0, at most 1,000, got 0",
    "runs: many": "runs must be a whole number, got 'many'",
    "budget: -3": "budget must be a number above 0, at most 2,592,000, got -3",
    "budget: .inf": "budget must be a number above 0",
    "limits: {memory: lots}": "limits.memory must be a size",
    "limits: {gpus: -1}": "limits.gpus must be a number above -1, at most 1,024, got -1",
    "limits: {memory: 900000T}": "limits.memory must be a size of at most 1024 TiB",
    "limits: {disk: 9}": "limits.disk must be a size of at least 1 MiB, such as 2G, got '9'",
    "rules: {largest_zip: 64G}": "rules.largest_zip must be a size of at most 2 GiB",
    "budget: 1.0e+308": "budget must be a number above 0, at most",
    "side: 100000000": "side must be a number above 7, at most 1,024",
    f"runs: {'9' * 400}": "runs must be a number above 0, at most 1,000",
    "score: {kind: anytime, t0: 1.0e-308}": "score.t0 must be a number above 0.001",
    f"name: {'9' * 5000}": "not YAML",
    "dates: {opens: 2027-13-45}": "not YAML (month must be in 1..12",
    '{"name": "\\uD800", "data": {"train": "train.npz"}}': "name holds characters that no file can hold",
    "{name: a, name: b, data: {train: train.npz}}": "the key name is given twice",
    "[" * 3000: "not YAML",
    "data: {train: ''}": "does not exist",
    f"data: {{train: {'a' * 300}}}": "does not exist",
    "rules: {licence: perhaps}": "rules.licence must be true or false, got 'perhaps'",
    "dates: {opens: soon}": "dates.opens must be a date like 2027-01-31, got 'soon'",
    "dates: {opens: 2027-02-01, closes: 2027-01-01}": "is before dates.opens",
    "data: train.npz": "data must hold keys and values, got 'train.npz'",
    "data: {secret_test: test.npz}": "data.train is missing",
    "data: {train: nowhere.npz}": "nowhere.npz does not exist",
    "data: {train: train.npz, public: test.npz}": "no key data.public; did you mean 'public_test'?",
    "regimes: [{name: a, train: train.npz}]": "give data (one training set) or regimes (several): both are given",
    "side: none": "side must be a whole number or auto",
    "name: null": "name must be text, got None",
    "name: ' '": "name is empty",
    ": [": "not YAML",
    "- a": "must hold keys and values",
}


@pytest.mark.parametrize("text", list(BAD))
def test_a_wrong_key_gets_one_clear_line(
    text: str, data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, data)
    given = yaml.safe_load(path.read_text())
    name = text.partition(":")[0]
    if text[0] in "[{:-":
        path.write_text(text)
    else:  # one key in place of another
        path.write_text(yaml.safe_dump({key: value for key, value in given.items() if key != name}) + text)
    assert main(["competition", "check", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    assert BAD[text] in message
    assert str(path) in message


REGIMES = {
    "name: a/b": "regimes[1].name must be a name of at most 40 letters, digits and hyphens, got 'a/b'",
    "name: two": "regimes[2].name: two is the name of another regime too",
    "trian: train.npz": "no key regimes[1].trian; did you mean 'train'?",
}


@pytest.mark.parametrize("change", list(REGIMES))
def test_a_wrong_regime_is_named(change: str, data: SimpleNamespace, tmp_path: Path) -> None:
    one, other = ({"name": name, "train": "train.npz", "secret_test": "test.npz"} for name in ("one", "two"))
    path = write(tmp_path, data, data=None, regimes=[{**one, **yaml.safe_load(change)}, other])
    with pytest.raises(UserError) as caught:
        read_competition(path)
    assert REGIMES[change] in str(caught.value)


def test_more_gpus_than_there_are_stop_it(data: SimpleNamespace, tmp_path: Path) -> None:
    competition = read_competition(write(tmp_path, data, limits={**LIMITS, "gpus": 99}))
    with pytest.raises(UserError, match=f"GPUs: 99 per run were asked for, but this machine has {len(gpu_devices())}"):
        competition.settings.check(tmp_path)


@pytest.mark.parametrize("copies", ["exact", "brighter"])
def test_secret_images_that_are_known_are_refused(
    copies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly, or as copies that are a little brighter, in the training set or the public one."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (90, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(90) % 3
    parts = {"train": images[:30], "public": images[30:60], "secret": images[60:].copy()}
    known = parts["public"][:5] if copies == "exact" else parts["train"][:5] + 3
    parts["secret"][:5] = known
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", images=part, labels=labels[:30])
    sets = {"train": "train.npz", "secret_test": "secret.npz", "public_test": "public.npz"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"name": "a", "data": sets}))
    assert main(["competition", "check", str(tmp_path / "c.yaml")]) == 2
    message = capsys.readouterr().err
    assert ("5 of 30 images of secret_test are in public_test too" if copies == "exact" else "5 of 30") in message
    assert message.count("\n") == 1


def test_secret_images_that_another_training_set_has_are_refused(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [
        {"name": "one", "train": "train.npz", "secret_test": "test.npz"},
        {"name": "two", "train": "both.npz", "secret_test": "train.npz"},
    ]
    path = write(tmp_path, data, data=None, regimes=sets)
    with np.load(data.train) as train, np.load(data.test) as test:
        both = {key: np.concatenate([train[key][:40], test[key]]) for key in ("images", "labels")}
    np.savez(tmp_path / "both.npz", **both)
    assert main(["competition", "kit", str(path)]) == 2
    assert "60 of 60 images of one: secret_test are in two: train too" in capsys.readouterr().err
    assert not (tmp_path / "kit.zip").exists()


def test_check_tells_what_it_costs(data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"score": {"kind": "time_to_target", "target": 0.9, "copies": 4}}
    path = write(tmp_path, data, drift=1000, **more)
    assert main(["competition", "check", str(path), "--entrants", "40", "--sandbox", SANDBOX]) == 0
    said = capsys.readouterr().out
    assert "data: 80 training images of 4 classes" in said
    assert "with fewer than 4 runs, no difference of times is significant" in said
    # 40 entrants of 2 runs, each of 5 s and 4 times 4 s
    assert "price: 40 entrants × 2 runs: 28 min on this machine, 7 min on 4 such" in said
    settings = read_competition(path).settings
    assert price(settings, 3, 40).seconds == 40 * 2 * 3 * (5 + 4 * 4)


# ---- the kit ----


def test_the_kit_holds_all_that_an_entrant_needs_and_nothing_secret(data: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    public = rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "public.npz", images=public, labels=np.arange(40) % 4)
    secret = rng.integers(0, 256, (500, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, 500)
    np.savez(tmp_path / "secret.npz", images=secret, labels=labels)
    sets = {"train": "train.npz", "secret_test": "secret.npz", "public_test": "public.npz"}
    path = write(tmp_path, data, data=sets, score={"kind": "anytime", "t0": 2, "copies": 5})
    assert main(["competition", "kit", str(path), "--out", str(tmp_path / "kit.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "kit.zip") as kit:
        files = {name: kit.read(name) for name in kit.namelist()}
        kit.extractall(tmp_path / "kit")
    assert {"README.md", "RULES.html", "competition.yaml", "data/train.npz", "data/public_test.npz"} < files.keys()
    arrays = {}
    for name in ("train", "public_test"):
        with np.load(io.BytesIO(files[f"data/{name}.npz"])) as stored:
            arrays |= {f"{name}.{key}": stored[key] for key in stored.files if key != "classes"}
    np.testing.assert_array_equal(arrays["public_test.images"], public)
    everything = [*files.values(), *(array.tobytes() for array in arrays.values())]
    for dtype in (np.uint8, np.int32, np.int64):  # no run of 24 labels, in any width
        for first in range(0, 500 - 24, 24):
            words = labels[first : first + 24].astype(dtype).tobytes()
            assert not any(words in content for content in everything)
    for text in ("".join(map(str, labels[:24])), ", ".join(map(str, labels[:24])), "secret.npz", str(tmp_path)):
        assert not any(text.encode() in content for name, content in files.items() if not name.endswith(".npz"))
    for image in secret[::25]:
        assert not any(image.tobytes() in content for content in everything)
    # what the entrant has says what the organiser's file says
    given, theirs = read_competition(path), read_competition(tmp_path / "kit" / "competition.yaml")
    assert theirs.settings == given.settings
    assert theirs.regimes[0].secret_test is None
    assert main(["judge", "--competition", str(tmp_path / "kit/competition.yaml"), "a.zip", "--out", "b"]) == 2
    rules = files["RULES.html"].decode()
    assert "log(1 + t/2 s)" in rules
    assert "600 MiB" in rules


def test_a_kit_without_images_says_where_they_are(data: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copy(data.test, tmp_path / "public.npz")
    with np.load(data.test) as stored:
        np.savez(tmp_path / "secret.npz", images=255 - stored["images"], labels=stored["labels"])
    sets = {"train": "train.npz", "secret_test": "secret.npz", "public_test": "public.npz", "how_to_get": "Ask us."}
    assert main(["competition", "kit", str(write(tmp_path, data, data=sets))]) == 0
    with zipfile.ZipFile(tmp_path / "kit.zip") as kit:
        readme = kit.read("README.md").decode()
        assert not [name for name in kit.namelist() if name.startswith("data/")]
    assert "Ask us. Save them as `data/train.npz` and `data/public_test.npz`." in readme


# ---- judged ----


@pytest.fixture(scope="module")
def anytime(data: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Judged by the area under the curve: one good at once, one that is good late, one that spoils its weights, one
    that breaks a limit; from a folder, zipped as macOS does it."""
    folder = tmp_path_factory.mktemp("anytime")
    inbox = folder / "inbox"
    inbox.mkdir()
    submission(inbox / "1.zip", name="at once", training="time.sleep(2)")
    late = "os.unlink(options.net_sav); time.sleep(1.6)\nwith open(options.net_sav, 'wb') as file: np.save(file, means)"
    submission(inbox / "2.zip", name="late", training=late)
    spoils = "time.sleep(1.2)\nwith open(options.net_sav, 'wb') as file: np.save(file, means[::-1])\ntime.sleep(0.8)"
    submission(inbox / "3.zip", name="spoils", training=spoils)
    submission(inbox / "4.zip", name="greedy", training="time.sleep(1)\nnp.ones(1 << 28).sum()\ntime.sleep(1)")
    with zipfile.ZipFile(inbox / "1.zip") as archive, zipfile.ZipFile(inbox / "0.zip", "w") as other:
        for name in archive.namelist():
            content = archive.read(name).replace(b"at once", b"from a Mac")
            other.writestr(f"my submission/{name}", content)
            other.writestr(f"__MACOSX/my submission/._{name}", b"\x00\x05\x16\x07")
        other.writestr("my submission/.DS_Store", b"\x00\x00\x00\x01Bud1")
    (inbox / "notes.txt").write_text("no submission")
    path = write(folder, data, runs=1, budget=3, score={"kind": "anytime", "t0": 0.5, "copies": 10})
    more = ["--competition", str(path), "--out", str(folder / "board"), "--sandbox", SANDBOX]
    assert main(["judge", str(inbox), *more]) == 0
    return SimpleNamespace(out=folder / "board", board=board_of(folder / "board"), path=path, more=more)


def test_areas_are_those_of_the_stored_copies(anytime: SimpleNamespace, data: SimpleNamespace) -> None:
    with np.load(data.test) as stored:
        labels = stored["labels"]
    journal = [json.loads(line) for line in (anytime.out / "private/journal.jsonl").read_text().splitlines()]
    for run in journal[1:]:
        (entry,) = (entry for entry in anytime.board["entries"] if entry["id"] == run["submission"])
        curve = [
            (copy["seconds"], np.mean(np.load(anytime.out / "private/predictions" / copy["predictions"]) == labels))
            for copy in run.get("copies", [])
            if copy["predictions"]
        ]
        if run["failed"]:
            assert entry["score"] == 0
            continue
        curve.append((min(run["training"]["wall_seconds"], 3.0), entry["accuracy"]))
        expected = curve_weights([at for at, _ in curve], 3.0, 0.5) @ np.array([accuracy for _, accuracy in curve])
        assert entry["score"] == pytest.approx(expected)
        shown = [(point["seconds"], point["accuracy"]) for point in entry["runs"][0]["curve"]]
        np.testing.assert_allclose(shown, curve)


def test_the_order_is_that_of_the_curves(anytime: SimpleNamespace) -> None:
    by_name = anytime.board["by_name"]
    assert by_name["at once"]["score"] > by_name["late"]["score"] > 0.1
    assert by_name["at once"]["score"] > by_name["spoils"]["score"] > 0.1
    assert by_name["spoils"]["accuracy"] < 0.5 < by_name["late"]["accuracy"]
    assert by_name["greedy"]["score"] == 0
    assert "memory" in by_name["greedy"]["runs"][0]["verdict"]
    mac = by_name["from a Mac"]
    assert mac["score"] == pytest.approx(by_name["at once"]["score"], abs=0.3)
    assert any("folder my submission" in note for note in mac["notes"])
    page = (anytime.out / "index.html").read_text()
    assert "Accuracy against time" in page
    assert page.count('class="mean ') == 2 * 4  # together, and each by itself
    with open(anytime.out / "leaderboard.csv", newline="") as file:
        rows = {row["team"]: row for row in csv.DictReader(file)}
    assert float(rows["late"]["score"]) == pytest.approx(by_name["late"]["score"], abs=1e-5)


def test_a_target_over_several_training_sets_with_points(data: SimpleNamespace, tmp_path: Path) -> None:
    """Scored by the time to a target on two training sets: in the second the labels are shuffled, and nobody gets
    there."""
    with np.load(data.train) as stored:
        images, labels = stored["images"], stored["labels"]
    np.savez(tmp_path / "shuffled.npz", images=images, labels=np.random.default_rng(0).permutation(labels))
    sets = [
        {"name": "clean", "train": "train.npz", "secret_test": "test.npz"},
        {"name": "shuffled", "train": "shuffled.npz", "secret_test": "test.npz"},
    ]
    score = {"kind": "time_to_target", "target": 0.9, "t0": 0.5, "copies": 8}
    path = write(tmp_path, data, data=None, regimes=sets, runs=1, budget=3, score=score)
    zips = [submission(tmp_path / "a.zip", name="a"), submission(tmp_path / "b.zip", name="b", training="os._exit(3)")]
    broken = submission(tmp_path / "c.zip", name="c", before="raise SystemExit")
    out = tmp_path / "board"
    more = ["--competition", str(path), "--out", str(out), "--sandbox", SANDBOX]
    assert main(["judge", *map(str, (*zips, broken)), *more]) == 0
    board = json.loads((out / "leaderboard.json").read_text())
    clean, shuffled = ({e["name"]: e for e in board["regimes"][name]["entries"]} for name in ("clean", "shuffled"))
    assert 0 < clean["a"]["score"] < 3
    reached = clean["a"]["runs"][0]["target_reached"]
    assert reached["after"] < reached["seconds"] == clean["a"]["score"]
    assert clean["b"]["score"] is not None  # it ended with an error after it had saved
    assert clean["c"]["score"] is None
    assert all(entry["score"] is None for entry in shuffled.values())
    whole = {entry["name"]: entry for entry in board["entries"]}
    assert [whole[name]["points"] for name in "abc"] == [20, 20, 0]
    assert [whole[name]["rank"] for name in "abc"] == [1, 1, 3]
    text = (out / "leaderboard.md").read_text()
    assert "## shuffled" in text
    assert "never" in text
    assert main(["board", "--out", str(out), "--competition", str(path)]) == 0
    assert json.loads((out / "leaderboard.json").read_text()) == board


def test_a_late_submission_takes_turns_with_one_that_was_there(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path, data), tmp_path / "board"
    more = ["--competition", str(path), "--out", str(out), "--sandbox", SANDBOX]
    crashes = submission(tmp_path / "a.zip", name="crashes", training="os.unlink(options.net_sav)")
    assert main(["judge", str(crashes), str(submission(tmp_path / "b.zip", name="sound")), *more]) == 0
    late = submission(tmp_path / "late.zip", name="late", training="time.sleep(0.1)")
    shutil.move(tmp_path / "b.zip", tmp_path / "gone.zip")  # the board keeps what it has judged
    assert main(["judge", "--add", str(late), *more]) == 0
    lines = [json.loads(line) for line in (out / "private" / "journal.jsonl").read_text().splitlines()]
    order = [(line["submission"], line["run"], line.get("control_for")) for line in lines[1:] if "run" in line]
    assert order[4:] == [
        ("02-sound", 1, "03-late"), ("03-late", 1, None), ("02-sound", 2, "03-late"), ("03-late", 2, None),
    ]  # fmt: skip
    seeds = [line["seed"] for line in lines[1:] if "run" in line]
    assert seeds[4] == seeds[5] == seeds[0]
    board = board_of(out)["by_name"]
    assert board["late"]["rank"] == 1
    assert len(board["sound"]["runs"]) == 2  # the runs beside the late one do not count
    control = board["late"]["control"]
    assert (control["submission"], control["before"]) == ("02-sound", board["sound"]["accuracy"])
    assert control["beside"] == control["before"]
    assert "Submission 02-sound was run again beside it" in (out / "index.html").read_text()
    before = (out / "private" / "journal.jsonl").read_bytes()
    assert main(["judge", "--add", str(late), *more]) == 0  # nothing is left to run
    assert (out / "private" / "journal.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main(["judge", "--add", str(tmp_path / "gone.zip"), *more]) == 0
    assert "on the board already, as 02-sound" in capsys.readouterr().err
    assert (out / "private" / "journal.jsonl").read_bytes() == before

    # refused ones, one of them damaged, and one given twice; then the judge goes on with what it has
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    refused = submission(tmp_path / "refused.zip", name="refused", licence="")
    adding = [word for path in (tmp_path / "bad.zip", refused, refused) for word in ("--add", str(path))]
    assert main(["judge", *adding, *more]) == 0
    assert {entry["id"] for entry in board_of(out)["entries"] if entry["refused"]} == {"04-bad", "05-refused"}
    assert main(["judge", str(crashes), str(tmp_path / "gone.zip"), "--resume", *more]) == 0
    assert len(board_of(out)["entries"]) == 5

    # and out of the ranking again, but not off the board
    assert main(["board", "--out", str(out), "--competition", str(path), "--withdraw", "3"]) == 2
    assert "--withdraw 3: no such submission" in capsys.readouterr().err
    assert main(["board", "--out", str(out), "--competition", str(path), "--withdraw", "03"]) == 2
    assert "--reason" in capsys.readouterr().err
    reason = ["--reason", "it was trained on the <test> images"]
    assert main(["board", "--out", str(out), "--competition", str(path), "--withdraw", "03", *reason]) == 0
    entry = board_of(out)["by_name"]["late"]
    assert entry["rank"] is None
    assert entry["runs"]
    assert "withdrawn by the organiser: it was trained on the &lt;test&gt; images" in (out / "index.html").read_text()


def test_options_that_the_file_takes_the_place_of_are_refused(
    data: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, data))
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["--runs", "3"], "--runs: "),
        (["--train", "a.npz"], "--train: "),
        ([], "holds no .zip"),
        (["--add", "b.zip"], "give late submissions by --add alone"),
    ):
        arguments = ["judge", str(tmp_path / "empty"), "--competition", path, "--out", str(tmp_path / "board"), *words]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert main(["judge", "a.zip", "--out", str(tmp_path / "board")]) == 2
    assert "--train is missing" in capsys.readouterr().err
    assert main(["competition", "chekc", path]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err
