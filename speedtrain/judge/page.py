"""The board as a page: one file that asks the network for nothing, and in which a stranger's text stays text."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from speedtrain.judge.confine import in_bytes
from speedtrain.run.report import Html, tag

Entry = Mapping[str, Any]


def render(board: Mapping[str, Any]) -> str:
    """The page of a board, as leaderboard.json holds it."""
    settings = board["settings"]
    entries: Sequence[Entry] = board["entries"]
    about = (
        f"{count(settings['runs'], 'run')} of {settings['budget']:g} s each, on {count(settings['cpus'], 'core')} "
        f"with {in_bytes(settings['memory'])} of memory; trained on {board['data']['num_train']:,} images, scored on "
        f"{board['num_test_images']:,}. Begun {board['began']}."
    )
    sections = [
        tag("h1", "Leaderboard"),
        tag("p", about),
        _ranking(entries),
        tag("p", board["method"], class_="faint"),
        _per_class(entries, board["classes"]),
        tag("section", tag("h2", "Every submission"), *(_details(entry) for entry in entries)),
    ]
    if settings["sandbox"] == "none":
        sections.insert(2, tag("p", "Judged without a sandbox.", class_="bad"))
    head = tag("head", _META, tag("title", "Leaderboard"), tag("style", _STYLE))
    body = tag("body", tag("main", *sections), tag("script", _SCRIPT))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _ranking(entries: Sequence[Entry]) -> Html:
    accuracies = [run["accuracy"] for entry in entries for run in entry["runs"] if not run["failed"]]
    axis = (min(accuracies, default=0.0), max(accuracies, default=1.0))
    heads = {
        "Rank": "number",
        "Team": "text",
        "Accuracy": "number",
        "95 % interval": "",
        "Runs": "",
        "Time": "number",
        "Images seen": "number",
        "Verdict": "text",
    }
    cells = (
        tag("th", tag("button", name, type="button") if kind else name, scope="col", class_=kind)
        for name, kind in heads.items()
    )
    rows = [_row(entry, axis) for entry in entries]
    caption = "Submissions by rank; the buttons in the head sort"
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", *cells)), tag("tbody", *rows), id="board")
    status = tag("p", "", id="sorted", class_="hidden", aria_live="polite")
    return tag("div", tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Ranking"), status)


def _row(entry: Entry, axis: tuple[float, float]) -> Html:
    runs = entry["runs"]
    seconds = [run["training_seconds"] for run in runs if run["training_seconds"] is not None]
    seen = [run["images_seen"] for run in runs if run["images_seen"] is not None]
    low, high = entry["interval"]
    mean_seconds = sum(seconds) / len(seconds) if seconds else None
    mean_seen = sum(seen) / len(seen) if seen else None
    name = tag("a", entry["name"], href=f"#{entry['id']}")
    team = tag("th", name, tag("span", entry["authors"], class_="faint"), scope="row", data_value=entry["name"].lower())
    return tag(
        "tr",
        tag("td", entry["rank"] or "–", data_value=entry["rank"] or 10**9),
        team,
        tag("td", tag("strong", _percent(entry["accuracy"])), data_value=f"{entry['accuracy']:.9f}"),
        tag("td", f"{_percent(low)} to {_percent(high)}" if runs else "–"),
        tag("td", _dots(entry, axis) if runs else "–"),
        tag(
            "td",
            "–" if mean_seconds is None else f"{mean_seconds:.1f}\N{NO-BREAK SPACE}s",
            data_value=mean_seconds or 0,
        ),
        tag("td", "–" if mean_seen is None else f"{mean_seen:,.0f}", data_value=mean_seen or 0),
        _verdict(entry),
    )


def _verdict(entry: Entry) -> Html:
    failed = [run for run in entry["runs"] if run["failed"]]
    if entry["refused"]:
        said, kind = f"refused: {_short(entry['refused'])}", "bad"
    elif failed:
        why = _short(failed[-1]["verdict"].removeprefix("failed: "))
        said, kind = f"{len(failed)} of {count(len(entry['runs']), 'run')} failed: {why}", "bad"
    elif any(run["network_attempts"] for run in entry["runs"]):
        said, kind = "tried to reach the network", "bad"
    elif not entry["complete"]:
        said, kind = "not all runs judged yet", "bad"
    else:
        said, kind = "sound", "good"
    if any(run["drifted"] for run in entry["runs"]):
        said += "; judged while the machine drifted"
    return tag("td", said, class_=kind, data_value=said)


def _short(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:89]}…"


def _dots(entry: Entry, axis: tuple[float, float]) -> Html:
    """Every run as a dot on an axis that all submissions share; a failed run is a cross at its left end."""
    low, high = axis
    width = max(high - low, 1e-9)
    marks = []
    for run in entry["runs"]:
        if run["failed"]:
            marks.append(tag("path", d="M2 7 l6 6 m0 -6 l-6 6", class_="cross"))
        else:
            marks.append(tag("circle", cx=f"{18 + 110 * (run['accuracy'] - low) / width:.1f}", cy="10", r="4"))
    told = ", ".join("failed" if run["failed"] else _percent(run["accuracy"]) for run in entry["runs"])
    line = tag("path", d="M14 10 h118", class_="axis")
    said = f"Runs: {told}"
    return tag("svg", tag("title", said), line, *marks, viewBox="0 0 136 20", role="img", aria_label=said)


def _per_class(entries: Sequence[Entry], classes: Sequence[str]) -> Html:
    scored = [entry for entry in entries if entry["per_class"]]
    if not scored:
        return Html()
    head = tag("tr", *(tag("th", name, scope="col") for name in ("Team", *classes)))
    rows = (
        tag(
            "tr",
            tag("th", entry["name"], scope="row"),
            *(tag("td", _percent(share), style=f"--share:{share:.3f}", class_="heat") for share in entry["per_class"]),
        )
        for entry in scored
    )
    table = tag("table", tag("caption", "Accuracy by class"), tag("thead", head), tag("tbody", *rows))
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Accuracy by class")
    return tag("section", tag("h2", "Each class"), box)


def _details(entry: Entry) -> Html:
    heads = ("Run", "Accuracy", "Training", "Testing", "Memory", "Verdict", "Log")
    rows = (
        tag(
            "tr",
            tag("th", run["run"], scope="row"),
            tag("td", "failed" if run["failed"] else _percent(run["accuracy"])),
            tag("td", _seconds(run["training_seconds"])),
            tag("td", _seconds(run["testing_seconds"])),
            tag("td", in_bytes(run["peak_memory"])),
            tag("td", run["verdict"], _marks(run), class_="bad" if run["failed"] else ""),
            tag("td", tag("a", f"log of run {run['run']}", href=run["log"]) if run["training_seconds"] else "–"),
        )
        for run in entry["runs"]
    )
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in heads)))
    table = tag("table", tag("caption", f"Runs of {entry['name']}"), head, tag("tbody", *rows))
    rules = (
        tag(
            "li",
            f"{'kept' if rule['kept'] else 'broken'}: {rule['name']}{_detail(rule['detail'])}",
            class_="" if rule["kept"] else "bad",
        )
        for rule in entry["rules"]
    )
    said = {key: entry[key] or "not told" for key in ("authors", "version", "licence")}
    parts = [
        tag("h3", entry["name"]),
        tag("p", f"By: {said['authors']}; version: {said['version']}; licence: {said['licence']}"),
        tag("p", tag("a", "Description", href=entry["description"]), f"; SHA-256 {entry['sha256']}"),
    ]
    if compared := entry["versus_leader"]:
        low, high = (100 * bound for bound in compared["interval"])
        p_runs = "" if compared["p_runs"] is None else f"; Welch's test over the runs: p = {compared['p_runs']:.3g}"
        told = (
            f"{100 * compared['difference']:+.2f} points ({low:+.2f} to {high:+.2f}) from the first of the group above"
        )
        parts.append(tag("p", f"{told}{p_runs}: {'significant' if compared['significant'] else 'not significant'}."))
    if entry["runs"]:
        label = f"Runs of {entry['name']}"
        parts.append(tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label))
    parts.append(tag("h4", "Rules"))
    parts.append(tag("ul", *rules))
    if entry["notes"]:
        parts.append(tag("h4", "For a human judge"))
        parts.append(tag("ul", *(tag("li", note) for note in entry["notes"])))
    return tag("article", *parts, id=entry["id"])


def _detail(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _marks(run: Entry) -> str:
    marks = ["the machine drifted"] if run["drifted"] else []
    marks += [f"{run['attempts']} attempts"] if run["attempts"] > 1 else []
    marks += [f"{run['network_attempts']} attempts to reach the network"] if run["network_attempts"] else []
    return f" [{'; '.join(marks)}]" if marks else ""


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f}\N{NO-BREAK SPACE}s"


_SCRIPT = Html("""
const table = document.getElementById("board"), body = table.tBodies[0];
for (const head of table.tHead.rows[0].cells) {
  const button = head.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", number = head.className === "number";
    const value = row => row.cells[head.cellIndex].dataset.value;
    const order = (a, b) => number ? value(a) - value(b) : value(a).localeCompare(value(b));
    const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
    document.getElementById("sorted").textContent =
      `sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`;
  });
}
""")

# the policy holds the browser to what is promised: nothing is fetched, and no script runs but the one above
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_META = Html(f"""<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
  script-src 'sha256-{_HASH}'"><link rel="icon" href="data:,">""")

_STYLE = Html("""
:root { --page: #fff; --ink: #1b1f24; --faint: #5b6570; --line: #d9dee4; --soft: #f4f6f8; --good: #00704f;
  --bad: #a33d00; --blue: #005a9c; --heat: 0 114 178 }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --ink: #e6e9ee; --faint: #9aa4b0; --line: #333a44; --soft: #1d2229; --good: #3fc79a;
    --bad: #ff9a57; --blue: #6cb8f0 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
main { max-width: 72rem; margin: auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: clamp(1.8rem, 7vw, 2.6rem); line-height: 1.15; margin: 0 }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.4rem }
h3 { margin: 0; font-size: 1.1rem } h4 { margin: .75rem 0 0; font-size: 1rem }
p, ul { margin: .5rem 0 } ul { padding-left: 1.2rem }
a { color: var(--blue) }
.faint, caption { color: var(--faint); font-size: .875rem }
.good { color: var(--good) } .bad { color: var(--bad) }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
.scroll { overflow-x: auto; position: relative }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; padding: .4rem 0 }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td { white-space: nowrap } #board td:last-child { white-space: normal; min-width: 8rem }
article td:nth-child(6) { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
tbody th { font-weight: 500; min-width: 9rem; max-width: 22rem; overflow-wrap: anywhere }
tbody th span { display: block; font-weight: 400 }
thead th { font-size: .875rem; white-space: nowrap }
button { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: 4px;
  padding: .1rem .5rem; cursor: pointer; min-height: 1.75rem }
button::after { content: " ↕"; color: var(--faint) }
[aria-sort=ascending] button::after { content: " ↑" } [aria-sort=descending] button::after { content: " ↓" }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px }
svg { width: 136px; height: 20px } circle { fill: var(--blue); fill-opacity: .7 }
.axis { stroke: var(--line) } .cross { stroke: var(--bad); stroke-width: 2; fill: none }
.heat { background: rgb(var(--heat) / calc(.45 * var(--share))) }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
@media print {
  * { print-color-adjust: exact }
  :root { font-size: 11px } body { font-size: 1rem } .scroll { overflow: visible } button { border: 0 }
  button::after { content: "" !important } tr, article { break-inside: avoid }
}
""")
