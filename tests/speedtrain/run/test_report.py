"""The report of a run, read as a browser would.

One file because all its tests read one page through one parser.
"""

import base64
import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import speedtrain.run.report
from speedtrain.run.report import NUM_MISTAKES, NUM_PAIRS, PLOTTED, _smooth, write_report
from speedtrain.training.metrics import read_metrics

HEADER = "seconds,progress,step,epoch,loss,lr,images_per_second,side\n"
RESULT: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "budget_seconds": 60.0,
    "wall_seconds": 59.5,
    "accuracy": 0.875,
    "accuracy_interval": [0.8, 0.925],
    "accuracy_on": "test",
    "num_test_images": 400,
    "data": {"name": "digits", "num_train": 1000, "num_classes": 10, "sha256": "ab" * 32, "notes": ["bundled"]},
    "tricks": {"sam": {"rho": 0.05, "interval": 2}, "flip": {}},
    "plan": {
        "model": "resnet9",
        "width": 32,
        "resolutions": [24, 32],
        "reasons": ["width 32: about 40 epochs"],
        "alternatives": [
            {"width": 64, "precision": "bf16", "images_per_second": 104.2, "epochs": 12.5, "accuracy": 0.7143}
        ],
    },
    "expected": {"accuracy": 0.8, "low": 0.785, "high": 0.815},
    "phases": {"import": 3.5, "plan": 1.5, "train": 54.0, "save": 0.5},
    "off_clock": {"score": 2.0},
    "epochs": 41.5,
    "images_seen": 41500,
    "images_per_second": 768.5,
    "seed": 1234567,
    "device": "cpu",
    "threads": 2,
    "versions": {"torch": "2.9.0"},
    "command": "python -m speedtrain --budget 60",
    "events": ["12.3 s: the loss was not finite"],
}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, tables by caption, figures, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.figures: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._inside: list[str] = []
        self.feed(source)
        self.close()
        assert self._inside == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), "no attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._inside.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "img" and "figure" in self._inside:
            self.figures.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            return
        self.text += data
        if "caption" in self._inside:
            self._caption += data
        elif "td" in self._inside or "th" in self._inside:
            self._rows[-1][-1] += data
        elif "figcaption" in self._inside:
            image, caption = self.figures[-1]
            self.figures[-1] = (image, caption + data)

    def table(self, start: str) -> list[list[str]]:
        """Rows of the one table whose caption begins so."""
        (rows,) = (rows for caption, rows in self.tables.items() if caption.startswith(start))
        return rows

    def shape(self) -> list[tuple[str, list[str]]]:
        """The elements and the names of their attributes, without any value."""
        return [(tag, sorted(attributes)) for tag, attributes in self.elements]


def predictions(num_images: int, num_classes: int, seed: int = 0) -> dict[str, Any]:
    """Random images, labels and probabilities that are right about half of the time."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    logits = rng.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += 1.5
    exponentials = np.exp(logits)
    return {
        "images": rng.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8),
        "labels": labels,
        "probabilities": (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32),
        "classes": [f"class {k}" for k in range(num_classes)],
    }


def unscored(num_classes: int = 3) -> dict[str, Any]:
    return {"images": None, "labels": None, "probabilities": None, "classes": ["x"] * num_classes}


def metrics(num_rows: int) -> str:
    rows = (
        f"{5 + 54 * i / num_rows},{i / num_rows},{i},{i / 10},{2 * math.exp(-i / num_rows)},0.1,800,32\n"
        for i in range(num_rows)
    )
    return HEADER + "".join(rows)


def report(run: Path, result: dict[str, Any], scored: dict[str, Any]) -> Page:
    write_report(run, result, **scored)
    return Page((run / "report.html").read_text(encoding="utf-8"))


def strings(value: object) -> Iterator[str]:
    """Every string in there, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def poisoned(value: Any, poison: str, depth: int = 0) -> Any:
    """The same result with the poison in every string and in every key below the first level."""
    if isinstance(value, dict):
        known = ("name", "reasons", "alternatives", "train", "low", "high")
        keys = {key: key if depth == 0 or key in known else key + poison for key in value}
        return {keys[key]: poisoned(item, poison, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, poison, depth + 1) for item in value]
    return value + poison if isinstance(value, str) else value


def curve_pixels(run: Path) -> np.ndarray:
    with Image.open(run / "curve.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count_near(pixels: np.ndarray, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(pixels - wanted).max(2) < 12).sum())


def test_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(metrics(50))
    page = report(tmp_path, RESULT, predictions(200, 10))
    addresses = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "srcset", "data", "action", "poster", "background")
        if name in attributes
    ]
    assert len(addresses) >= 1 + NUM_MISTAKES
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert "default-src 'none'" in page.source


def test_it_is_one_whole_page(tmp_path: Path) -> None:
    page = report(tmp_path, RESULT, predictions(200, 10))
    assert page.source.startswith("<!doctype html>")
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("html", "head", "title", "body", "main", "h1")] == [1] * 6
    assert ("html", {"lang": "en"}) in page.elements
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.elements if tag == "th")
    assert tags.count("caption") == tags.count("table") == 4
    assert len(page.source) < 600_000


def test_everything_known_is_said(tmp_path: Path) -> None:
    page = report(tmp_path, RESULT, predictions(200, 10))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "87.5 % accuracy" in text
    assert "on 400 test images (95 % interval 80.0 to 92.5 %)" in text
    assert "Finished within the budget." in text
    for said in ("60.0 s", "59.5 s", "41.5", "41,500", "rho 0.05, interval 2", "71.4", "78.5", "81.5", "24, 32"):
        assert said in text
    assert "1234567" in text, "a seed is for copying"
    given = [RESULT[key] for key in ("data", "plan", "tricks", "phases", "versions", "command", "events")]
    assert {string for string in strings(given) if string not in text} == {
        "reasons",
        "alternatives",
        "images_per_second",
    }


@pytest.mark.parametrize("status", ["finished", "killed", "interrupted", "failed", "some new one"])
def test_status_in_words(tmp_path: Path, status: str) -> None:
    words = {
        "finished": "Finished within the budget.",
        "killed": "Stopped by force",
        "interrupted": "Ended early",
        "failed": "Failed.",
        "some new one": "some new one",
    }
    page = report(tmp_path, RESULT | {"status": status}, unscored())
    assert [key for key, said in words.items() if said in page.text] == [status]


def test_phases_add_up(tmp_path: Path) -> None:
    rows = report(tmp_path, RESULT, unscored()).table("Phases")
    assert [row[0] for row in rows] == ["phase", "import", "plan", "train", "save", "sum"]
    seconds = [float(row[1].split()[0]) for row in rows[1:]]
    assert seconds == [3.5, 1.5, 54.0, 0.5, 59.5]
    shares = [float(row[2].split()[0]) for row in rows[1:]]
    assert shares == pytest.approx([100 * s / 59.5 for s in seconds], abs=0.051)


@pytest.mark.parametrize("poison", ["</style><script>alert(1)</script>", "\" onload='x' <b>&amp;", "<!-- ", "]]>$x_{$"])
@pytest.mark.parametrize("num_classes", [3, 30])
def test_hostile_text_stays_text(tmp_path: Path, poison: str, num_classes: int) -> None:
    scored = predictions(60, num_classes)
    harmless = report(tmp_path, RESULT | {"error": "an error"}, scored)
    hostile_result = poisoned(RESULT | {"error": "an error"}, poison)
    scored["classes"] = [name + poison for name in scored["classes"]]
    hostile = report(tmp_path, hostile_result, scored)
    assert hostile.shape() == harmless.shape()
    for string in [
        *scored["classes"],
        hostile_result["command"],
        hostile_result["data"]["name"],
        hostile_result["error"],
    ]:
        assert string in hostile.text


def test_text_that_html_cannot_hold(tmp_path: Path) -> None:
    scored = predictions(60, 3)
    scored["classes"] = ["a\x00b", "c\udcffd", "e\u202ef"]
    page = report(tmp_path, RESULT | {"command": "\x1b[31mred"}, scored)
    assert not re.search("[\x00\x1b\u202e\ud800-\udfff]", page.source)
    assert [row[0] for row in page.table("Images of each")[1:]] == ["a\ufffdb", "c\ufffdd", "e\ufffdf"]
    assert "\ufffd[31mred" in page.text


@pytest.mark.parametrize("num_classes", [2, 10, 25])
def test_confusion_matrix(tmp_path: Path, num_classes: int) -> None:
    scored = predictions(500, num_classes)
    expected = np.zeros((num_classes, num_classes), int)
    for label, probabilities in zip(scored["labels"], scored["probabilities"], strict=True):
        expected[label, max(range(num_classes), key=lambda k: probabilities[k])] += 1
    page = report(tmp_path, RESULT, scored)
    head, *rows = page.table("Images of each")
    assert head[1:] == [row[0] for row in rows] == scored["classes"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows]).astype(int), expected)
    shades = np.array([float(shade) for shade in re.findall(r"--shade:([\d.]+)", page.source)])
    shares = expected / expected.sum(1, keepdims=True)
    np.testing.assert_allclose(np.diag(shades.reshape(shares.shape)), 0.6 * np.diag(shares), atol=6e-4)
    assert shades.max() <= 0.8


def test_most_confused_pairs_of_many_classes(tmp_path: Path) -> None:
    scored = predictions(3000, 100)
    names = scored["classes"]
    errors: dict[tuple[str, str], int] = {}
    for label, predicted in zip(scored["labels"], scored["probabilities"].argmax(1), strict=True):
        if label != predicted:
            pair = names[label], names[predicted]
            errors[pair] = errors.get(pair, 0) + 1
    page = report(tmp_path, RESULT, scored)
    rows = page.table("Most confused")[1:]
    assert [int(row[2]) for row in rows] == sorted(errors.values(), reverse=True)[:NUM_PAIRS]
    assert [int(row[2]) for row in rows] == [errors[row[0], row[1]] for row in rows]
    assert len({(row[0], row[1]) for row in rows}) == NUM_PAIRS
    assert not any(caption.startswith("Images of each") for caption in page.tables)


def test_accuracy_of_each_class(tmp_path: Path) -> None:
    scored = predictions(500, 5)
    scored["classes"].append("without an image")
    scored["probabilities"] = np.pad(scored["probabilities"], ((0, 0), (0, 1)))
    hits = scored["probabilities"].argmax(1) == scored["labels"]
    result = {**RESULT, "data": {**RESULT["data"], "class_counts": [1000, 20, 30, 40, 50, 60]}}
    rows = report(tmp_path, result, scored).table("Accuracy by class")[1:]
    told = {row[0]: row[1:] for row in rows}
    assert told.pop("without an image") == ["0", "60", "–", "–"]
    for k in range(5):
        of_class = scored["labels"] == k
        images, trained_on, accuracy, taken_for = told[f"class {k}"]
        assert int(images) == of_class.sum()
        assert trained_on == ["1,000", "20", "30", "40", "50"][k]
        assert float(accuracy.split()[0]) == pytest.approx(100 * hits[of_class].mean(), abs=0.051)
        wrong = scored["probabilities"].argmax(1)[of_class & ~hits].tolist()
        name, number = re.fullmatch(r"class (\d) \((\d+)\)", taken_for).groups()  # type: ignore[union-attr]
        assert int(number) == wrong.count(int(name)) == max(map(wrong.count, range(5)))
    accuracies = [float(row[3].split()[0]) for row in rows if row[3] != "–"]
    assert accuracies == sorted(accuracies)


@pytest.mark.parametrize("num_images", [20, 500])
def test_worst_mistakes(tmp_path: Path, num_images: int) -> None:
    scored = predictions(num_images, 10)
    mistakes = []
    for i, (label, probabilities) in enumerate(zip(scored["labels"], scored["probabilities"].tolist(), strict=True)):
        guess = probabilities.index(max(probabilities))
        if guess != label:
            mistakes.append((max(probabilities), i, f"class {label} → class {guess} "))
    mistakes.sort(reverse=True)
    figures = report(tmp_path, RESULT, scored).figures
    assert len(figures) == min(NUM_MISTAKES, len(mistakes))
    for (attributes, caption), (probability, i, pair) in zip(figures, mistakes, strict=False):
        assert caption == f"{pair}({100 * probability:.1f}\N{NO-BREAK SPACE}%)"
        assert f"Image {i}:" in (attributes["alt"] or "")
        png = base64.b64decode((attributes["src"] or "").removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), scored["images"][i])


def test_no_mistakes(tmp_path: Path) -> None:
    scored = predictions(40, 4)
    scored["probabilities"] = np.eye(4, dtype=np.float32)[scored["labels"]]
    page = report(tmp_path, RESULT, scored)
    assert "None: all 40 images were recognised." in page.text
    assert page.figures == []


@pytest.mark.parametrize("result", [{}, {"status": "failed", "budget_seconds": 5.0, "error": "out of memory"}])
def test_run_without_predictions(tmp_path: Path, result: dict[str, Any]) -> None:
    page = report(tmp_path, result, unscored())
    assert "No accuracy" in page.text
    assert result.get("error", "") in page.text
    assert page.tables == {}
    assert page.figures == []
    assert np.ptp(curve_pixels(tmp_path)) > 100


@pytest.mark.parametrize("num_rows", [None, 0, 1, 2, 10_000])
def test_curve(tmp_path: Path, num_rows: int | None) -> None:
    if num_rows is not None:
        (tmp_path / "metrics.csv").write_text(metrics(num_rows))
    write_report(tmp_path, RESULT, **unscored())
    pixels = curve_pixels(tmp_path)
    height, width, _ = pixels.shape
    assert 1000 <= width <= 2000
    assert 600 <= height <= 1500
    assert (pixels.min(2) < 80).sum() > 500, "there are axes and words"
    drawn = [count_near(pixels, colour) for colour in ("#0072b2", "#d55e00", "#009e73")]
    if num_rows:
        assert min(drawn) > 15
    else:
        assert drawn == [0, 0, 0]


def test_curve_marks_what_is_not_training(tmp_path: Path) -> None:
    """Twice the time before training is twice the shade."""
    shades = []
    for begin in (10, 20):
        row = "{},0.1,1,0.1,{},0.1,800,32\n"
        (tmp_path / "metrics.csv").write_text(HEADER + row.format(begin, 2.0) + row.format(59.5, 1.0))
        write_report(tmp_path, RESULT | {"phases": {"import": begin, "train": 59.5 - begin}}, **unscored())
        shades.append(count_near(curve_pixels(tmp_path), "#e8ebee"))
    assert shades[1] == pytest.approx(2 * shades[0], rel=0.15)


def test_curve_survives_losses_gone_wild(tmp_path: Path) -> None:
    lines = metrics(1000).splitlines(keepends=True)
    for i, loss in ((300, "nan"), (301, "inf"), (302, "1e30")):
        lines[i] = f"21,0.3,{i},1,{loss},0.1,800,32\n"
    (tmp_path / "metrics.csv").write_text("".join(lines))
    write_report(tmp_path, RESULT, **unscored())
    # after it the curve still falls, instead of lying flat on the floor
    pixels = curve_pixels(tmp_path)
    last_quarter = pixels[:, pixels.shape[1] * 3 // 4 :]
    rows = np.flatnonzero((abs(last_quarter - [0x00, 0x72, 0xB2]).max(2) < 12).any(1))
    assert np.ptp(rows) > 25


def test_metrics_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1.0,0.1,1,0.1,2.5,0.1,800,32\n2.0,0.2,2,0.2,2.0,0.1,810,32\n3.0,0.3,3,0.3,1.")
    columns = read_metrics(path, PLOTTED)
    assert columns["seconds"].tolist() == [1.0, 2.0]
    assert columns["loss"].tolist() == [2.5, 2.0]
    assert columns["images_per_second"].tolist() == [800.0, 810.0]
    path.write_bytes(b"\xff\x00 not metrics\n1,2")
    assert [len(column) for column in read_metrics(path, PLOTTED).values()] == [0, 0, 0, 0]


def test_smoothing() -> None:
    constant = np.full(400, 3.0)
    constant[[0, 17, 399]] = np.nan, np.inf, np.nan
    np.testing.assert_allclose(_smooth(constant), 3.0)
    noise = np.random.default_rng(0).normal(size=4000)
    assert _smooth(noise).std() < 0.2 * noise.std()
    np.testing.assert_allclose(_smooth(np.array([1.0, 5.0])), [1.0, 5.0])


def test_leaves_the_caller_alone(tmp_path: Path) -> None:
    """A notebook keeps its backend and its style; and the front process needs no torch for this."""
    code = """if True:
        import sys, importlib.util, pathlib, matplotlib
        spec = importlib.util.spec_from_file_location("report", sys.argv[1])
        report = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(report)
        matplotlib.rcParams["lines.linewidth"] = 7.0
        report.write_report(
            pathlib.Path(sys.argv[2]), {}, images=None, labels=None, probabilities=None, classes=["a", "b"]
        )
        assert not {"torch", "matplotlib.pyplot"} & set(sys.modules)
        assert matplotlib.rcParams["lines.linewidth"] == 7.0
    """
    command = [sys.executable, "-c", code, speedtrain.run.report.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
