"""The board as a page: one file that asks the network for nothing, and in which a stranger's text stays text."""

from collections.abc import Mapping, Sequence
from typing import Any

from speedtrain.judge.settings import in_bytes
from speedtrain.judge.verdict import count, summarize
from speedtrain.view.html import Cell, Html, cell, page, percent, section, sort_head, table, tag

Entry = Mapping[str, Any]


def render(board: Mapping[str, Any]) -> str:
    """The page of a board, as leaderboard.json holds it."""
    settings = board["settings"]
    entries: Sequence[Entry] = board["entries"]
    about = (
        f"{count(settings['runs'], 'run')} of {settings['budget']:g} s each, on {count(settings['cpus'], 'core')} "
        f"with {in_bytes(settings['memory'])} of memory; trained on {board['data']['num_train']:,} images, scored on "
        f"{board['num_test_images']:,}. Started {board['began']}."
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
    return page("Leaderboard", *sections, style=_STYLE)


def _ranking(entries: Sequence[Entry]) -> Html:
    accuracies = [run["accuracy"] for entry in entries for run in entry["runs"] if not run["failed"]]
    axis = (min(accuracies, default=0.0), max(accuracies, default=1.0))
    heads = [
        sort_head("Rank"),
        sort_head("Team", "text"),
        sort_head("Accuracy"),
        "95 % interval",
        "Runs",
        sort_head("Time"),
        sort_head("Images seen"),
        sort_head("Verdict", "text"),
    ]
    rows = [_row(entry, axis) for entry in entries]
    return table(
        "Submissions by rank; the buttons in the head sort", heads, rows, "board", id="board", class_="sortable"
    )


def _row(entry: Entry, axis: tuple[float, float]) -> list[Cell]:
    runs = entry["runs"]
    seconds = _mean([run["training_seconds"] for run in runs])
    images_seen = _mean([run["images_seen"] for run in runs])
    low, high = entry["interval"]
    link = tag("a", tag("bdi", entry["name"]), href=f"#{entry['id']}")
    authors = tag("bdi", entry["authors"], class_="faint")
    summary = summarize(entry)
    verdict = "; ".join(map(_short, summary.parts))
    return [
        cell(entry["rank"] or "–", data_value=entry["rank"] or 10**9),
        cell(link, authors, name="th", scope="row", data_value=entry["name"].lower()),
        cell(tag("strong", _percent(entry["accuracy"])), data_value=f"{entry['accuracy']:.9f}"),
        cell(f"{_percent(low)} to {_percent(high)}" if runs else "–"),
        cell(_dots(entry, axis) if runs else "–"),
        cell(_seconds(seconds), data_value=seconds or 0),
        cell("–" if images_seen is None else f"{images_seen:,.0f}", data_value=images_seen or 0),
        cell(verdict, class_="good" if summary.sound else "bad", data_value=verdict),
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"


def _dots(entry: Entry, axis: tuple[float, float]) -> Html:
    """Every run as a dot on an axis that all submissions share; a failed run is a cross at its left end."""
    low, high = axis
    width = max(high - low, 1e-9)
    symbols = []
    for run in entry["runs"]:
        if run["failed"]:
            symbols.append(tag("path", d="M2 7 l6 6 m0 -6 l-6 6", class_="cross"))
        else:
            symbols.append(tag("circle", cx=f"{18 + 110 * (run['accuracy'] - low) / width:.1f}", cy="10", r="4"))
    accuracies = ", ".join("failed" if run["failed"] else _percent(run["accuracy"]) for run in entry["runs"])
    line = tag("path", d="M14 10 h118", class_="axis")
    text = f"Runs: {accuracies}"
    return tag("svg", tag("title", text), line, *symbols, viewBox="0 0 136 20", role="img", aria_label=text)


def _per_class(entries: Sequence[Entry], classes: Sequence[str]) -> Html:
    rows = [
        [
            tag("bdi", entry["name"]),
            *(cell(_percent(share), style=f"--share:{share:.3f}", class_="heat") for share in entry["per_class"]),
        ]
        for entry in entries
        if entry["per_class"]
    ]
    return section("Each class", table("Accuracy per class", ["Team", *classes], rows, "board") if rows else Html())


def _details(entry: Entry) -> Html:
    facts = {key: tag("bdi", entry[key] or "not given") for key in ("authors", "version", "licence")}
    parts = [
        tag("h3", tag("bdi", entry["name"])),
        tag("p", "By: ", facts["authors"], "; version: ", facts["version"], "; licence: ", facts["licence"]),
        tag("p", tag("a", "Description", href=entry["description"]), f"; SHA-256 {entry['sha256']}"),
    ]
    if compared := entry["versus_leader"]:
        low, high = (100 * bound for bound in compared["interval"])
        difference = f"{100 * compared['difference']:+.2f} points ({low:+.2f} to {high:+.2f})"
        p_runs = "" if compared["p_runs"] is None else f"; Welch's test over the runs: p = {compared['p_runs']:.3g}"
        significant = "significant" if compared["significant"] else "not significant"
        text = f"{difference} from the first submission of the group above{p_runs}: {significant}."
        parts.append(tag("p", text))
    if entry["runs"]:
        parts.append(_runs(entry))
    rules = (
        tag(
            "li",
            f"{'kept' if rule['kept'] else 'broken'}: {rule['name']}{_detail(rule['detail'])}",
            class_="" if rule["kept"] else "bad",
        )
        for rule in entry["rules"]
    )
    parts += [tag("h4", "Rules"), tag("ul", *rules)]
    if entry["notes"]:
        parts += [tag("h4", "For a human judge"), tag("ul", *(tag("li", note) for note in entry["notes"]))]
    return tag("article", *parts, id=entry["id"])


def _runs(entry: Entry) -> Html:
    heads = ("Run", "Accuracy", "Training", "Testing", "Memory", "Verdict", "Log")
    rows = (
        [
            run["run"],
            "failed" if run["failed"] else _percent(run["accuracy"]),
            _seconds(run["training_seconds"]),
            _seconds(run["testing_seconds"]),
            in_bytes(run["peak_memory"]),
            cell(run["verdict"], _remarks(run), class_="bad" if run["failed"] else ""),
            tag("a", f"log of run {run['run']}", href=run["log"]) if run["training_seconds"] else "–",
        ]
        for run in entry["runs"]
    )
    return table(f"Runs of {entry['name']}", heads, rows, "board")


def _detail(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _remarks(run: Entry) -> str:
    remarks = ["the machine drifted"] if run["drifted"] else []
    remarks += [f"{run['attempts']} attempts"] if run["attempts"] > 1 else []
    remarks += [f"{run['network_attempts']} attempts to reach the network"] if run["network_attempts"] else []
    return f" [{'; '.join(remarks)}]" if remarks else ""


def _percent(share: float) -> str:
    return percent(share, digits=2)


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f}\N{NO-BREAK SPACE}s"


_STYLE = """
h2 { font-size: 1.4rem } article h3 { margin: 0; font-size: 1.1rem } h4 { margin: .75rem 0 0; font-size: 1rem }
.board table { width: 100% }
.board th, .board td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap }
.board tbody th { min-width: 9rem; max-width: 22rem; white-space: normal; overflow-wrap: anywhere }
.board tbody th span { display: block; font-weight: 400 }
.board thead th { font-size: .875rem; vertical-align: bottom }
#board td:last-child { white-space: normal; min-width: 8rem }
article td:nth-child(6) { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
svg { width: 136px; height: 20px } circle { fill: var(--blue); fill-opacity: .7 }
.axis { stroke: var(--line) } .cross { stroke: var(--bad); stroke-width: 2; fill: none }
.heat { background: rgb(var(--cold) / calc(.45 * var(--share))) }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
"""
