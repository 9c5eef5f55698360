"""The board in a real browser."""

import base64
import hashlib
import html
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from speedtrain.judge.board_page import render

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = '<img src=x onerror="document.title=1">'


def entry(place: int | None, name: str, accuracies: list[float | None]) -> dict:
    right = [accuracy or 0.0 for accuracy in accuracies]
    mean = sum(right) / len(right) if right else 0.0
    return {
        "rank": place,
        "id": f"{place or 9:02}-team",
        "name": name,
        "authors": HOSTILE,
        "version": "1",
        "licence": "MIT",
        "sha256": "ab" * 32,
        "rules": [{"name": "a declared licence", "kept": bool(accuracies), "detail": HOSTILE}],
        "notes": [HOSTILE],
        "refused": None if accuracies else "no licence",
        "complete": True,
        "accuracy": mean,
        "interval": [mean - 0.01, mean + 0.01],
        "score": mean,
        "score_interval": [mean - 0.01, mean + 0.01],
        "withdrawn": None,
        "per_class": [mean, mean] if accuracies else [],
        "versus_leader": None,
        "description": "descriptions/01.md",
        "runs": [
            {
                "run": number,
                "accuracy": accuracy or 0.0,
                "failed": accuracy is None,
                "verdict": HOSTILE,
                "training_seconds": 600.0 - number,
                "testing_seconds": 5.0,
                "peak_memory": 2 << 30,
                "network_attempts": 0,
                "images_seen": 1000 * number,
                "seed": 1,
                "drifted": False,
                "attempts": 1,
                "log": "logs/a.txt",
            }
            for number, accuracy in enumerate(accuracies, 1)
        ],
    }


@pytest.fixture(scope="module")
def page() -> str:
    settings = {"runs": 3, "budget": 600.0, "cpus": 2, "memory": 12 << 30, "sandbox": "bwrap"}
    entries = [
        entry(1, "Zeppelin", [0.84, 0.83, 0.845]),
        entry(1, HOSTILE, [0.83, 0.835, 0.84]),
        entry(3, "äpfel", [0.70, None, 0.72]),
        entry(None, "Refused", []),
    ]
    return render(
        {
            "settings": settings,
            "entries": entries,
            "classes": ["cat", HOSTILE],
            "method": "Means.",
            "data": {"num_train": 5000},
            "num_test_images": 5000,
            "began": "2026-01-01T00:00:00Z",
        }
    )


def test_the_page_asks_for_nothing_and_escapes_everything(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert page.count("<script>") == 1


def test_colours_have_contrast(page: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, level AA) for every colour of text, in both modes."""

    def luminance(colour: str) -> float:
        colour = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    modes = re.findall(r":root \{ --page[^}]*\}", page)
    assert len(modes) == 2
    for mode in modes:
        colours = dict(re.findall(r"--(\w+): #([0-9a-f]+)", mode))
        for ground in ("page", "soft"):
            for text in ("ink", "faint", "good", "bad", "blue"):
                light, dark = sorted((luminance(colours[ground]), luminance(colours[text])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_sorts_by_keyboard_and_runs_no_strange_script(page: str, tmp_path: Path) -> None:
    """A second script, let in by its hash, does what a keyboard does: focus on a button and activate it."""
    script = """
      const say = (key, value) => document.documentElement.setAttribute("data-" + key, value);
      const order = () => [...document.querySelectorAll("#board tbody tr")].map(row => row.cells[1].dataset.value[0]);
      const buttons = [...document.querySelectorAll("#board thead button")];
      say("reachable", buttons.every(button => { button.focus(); return document.activeElement === button; }));
      say("before", order().join(""));
      buttons[1].click(); say("name", order().join(""));
      buttons[2].click(); say("up", order().join(""));
      buttons[2].click(); say("down", order().join(""));
      say("sorted", document.querySelectorAll("[aria-sort]").length + buttons[2].parentNode.getAttribute("aria-sort"));
      say("status", document.querySelector("#board + [aria-live=polite]").textContent);
      say("wide", document.documentElement.scrollWidth > innerWidth);
    """
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    changed = page.replace("script-src ", f"script-src 'sha256-{own}' ").replace(
        "</body>", f"<script>{script}</script></body>"
    )
    (tmp_path / "index.html").write_text(changed)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=500,900", "--virtual-time-budget=2000", "--dump-dom", (tmp_path / "index.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = SimpleNamespace(**dict(re.findall(r'data-(\w+)="([^"]*)"', html.unescape(seen[: seen.index("<head")]))))
    assert found.reachable == "true"
    assert found.before == "z<är"
    assert found.name == "<ärz"
    assert found.up == "rä<z"
    assert found.down == "z<är"
    assert found.sorted == "1descending"
    assert found.status == "sorted by Accuracy, descending"
    assert found.wide == "false"  # on a narrow screen only the tables scroll
    assert "<title>Leaderboard</title>" in seen
