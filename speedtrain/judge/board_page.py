"""The board as a page: one file that asks the network for nothing, and in which a stranger's text stays text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from speedtrain.judge.learning_curves import STYLE as CURVES_STYLE
from speedtrain.judge.learning_curves import curves_figure
from speedtrain.judge.settings import held_in_words, in_bytes
from speedtrain.judge.verdict import SCORE_NAMES, count, score_in_words, summarize
from speedtrain.view.html import Cell, Html, cell, page, percent, section, sort_head, table, tag

Entry = Mapping[str, Any]


def render(board: Mapping[str, Any]) -> str:
    """The page of a board, as leaderboard.json holds it."""
    settings, kind = board["settings"], board.get("score", {}).get("kind", "accuracy")
    t0 = board.get("score", {}).get("t0", settings["budget"] / 20)
    title = board.get("name") or "Leaderboard"
    machine = (
        f"{count(settings['runs'], 'run')} of {settings['budget']:g} s each, on {count(settings['cpus'], 'core')} "
        f"with {in_bytes(settings['memory'])} of memory"
    )
    sections = [tag("h1", tag("bdi", title))]
    if "regimes" in board:
        num = len(board["regimes"])
        sections += [tag("p", f"{machine}, on each of {num} training sets. Started {board['began']}.")]
        sections += [_over_all(board["entries"], list(board["regimes"])), tag("p", board["method"], class_="faint")]
        for name, part in board["regimes"].items():
            sections += [section(name, tag("p", _images(part)), *_tables(part, kind, t0, settings["budget"], name))]
    else:
        sections += [tag("p", f"{machine}; {_images(board)} Started {board['began']}.")]
        ranking, *others = _tables(board, kind, t0, settings["budget"])
        sections += [ranking, tag("p", board["method"], class_="faint"), *others]
    sections += [tag("p", words, class_="faint") for words in _limits(board)]
    if settings["sandbox"] == "none":
        sections.insert(2, tag("p", "Judged without a sandbox.", class_="bad"))
    return page(title, *sections, style=_STYLE + CURVES_STYLE)


def _limits(board: Mapping[str, Any]) -> list[str]:
    """Who held the limits in the runs: one sentence, or more where machines differ."""
    parts = board["regimes"].values() if "regimes" in board else [board]
    runs = [run for part in parts for entry in part["entries"] for run in entry["runs"] if "by_kernel" in run]
    found = Counter(held_in_words(run["by_kernel"]) for run in runs)
    often = {words: f" ({count(number, 'run')})" if len(found) > 1 else "" for words, number in found.items()}
    return [f"Limits: {words}{number}." for words, number in often.items()]


def _images(board: Mapping[str, Any]) -> str:
    return f"trained on {board['data']['num_train']:,} images, scored on {board['num_test_images']:,}."


def _tables(board: Mapping[str, Any], kind: str, t0: float, budget: float, regime: str = "") -> list[Html]:
    """What belongs to one training set: ranking, curves, classes, and every submission."""
    entries: Sequence[Entry] = board["entries"]
    level = "h3" if regime else "h2"
    articles = (_details(entry, kind, regime, curves_figure([entry], t0, budget, "h4")) for entry in entries)
    details = tag("section", tag(level, "Every submission"), *articles)
    return [
        _ranking(entries, kind, regime),
        curves_figure(entries, t0, budget, level),
        _per_class(entries, board["classes"], level),
        details,
    ]


def _over_all(entries: Sequence[Entry], regimes: Sequence[str]) -> Html:
    """The ranking by points over several training sets."""
    heads = [sort_head("Rank"), sort_head("Team", "text"), sort_head("Points"), *map(sort_head, regimes)]
    rows = []
    for entry in entries:
        team = cell(tag("bdi", entry["name"]), name="th", scope="row", data_value=entry["name"].lower())
        each = [entry["regimes"][name] for name in regimes]
        cells = [cell(f"{one['points']} (rank {one['rank'] or '–'})", data_value=one["points"]) for one in each]
        rank = cell(entry["rank"] or "–", data_value=entry["rank"] or 10**9)
        rows.append([rank, team, cell(tag("strong", entry["points"]), data_value=entry["points"]), *cells])
    return table("Submissions by points; the buttons in the head sort", heads, rows, "board", class_="sortable")


def _ranking(entries: Sequence[Entry], kind: str, regime: str) -> Html:
    accuracies = [run["accuracy"] for entry in entries for run in entry["runs"] if not run["failed"]]
    axis = (min(accuracies, default=0.0), max(accuracies, default=1.0))
    heads = [
        sort_head("Rank"),
        sort_head("Team", "text"),
        *([sort_head(SCORE_NAMES[kind]), "Interval"] if kind != "accuracy" else []),
        sort_head("Accuracy" if kind == "accuracy" else "Accuracy at the end"),
        *(["95 % interval"] if kind == "accuracy" else []),
        "Runs",
        sort_head("Time"),
        sort_head("Images seen"),
        sort_head("Verdict", "text"),
    ]
    rows = [_row(entry, axis, kind, regime) for entry in entries]
    name = _anchor("board", regime)
    return table("Submissions by rank; the buttons in the head sort", heads, rows, "board", id=name, class_="sortable")


def _anchor(name: str, regime: str) -> str:
    return f"{regime}-{name}" if regime else name


def _row(entry: Entry, axis: tuple[float, float], kind: str, regime: str) -> list[Cell]:
    runs = entry["runs"]
    seconds = _mean([run["training_seconds"] for run in runs])
    images_seen = _mean([run["images_seen"] for run in runs])
    low, high = entry["interval"]
    link = tag("a", tag("bdi", entry["name"]), href=f"#{_anchor(entry['id'], regime)}")
    authors = tag("bdi", entry["authors"], class_="faint")
    summary = summarize(entry)
    verdict = "; ".join(map(_short, summary.parts))
    accuracy = cell(_percent(entry["accuracy"]), data_value=f"{entry['accuracy']:.9f}")
    if kind == "accuracy":
        accuracy = cell(tag("strong", _percent(entry["accuracy"])), data_value=f"{entry['accuracy']:.9f}")
    return [
        cell(entry["rank"] or "–", data_value=entry["rank"] or 10**9),
        cell(link, authors, name="th", scope="row", data_value=entry["name"].lower()),
        *(_score_cells(entry, kind) if kind != "accuracy" else []),
        accuracy,
        *([cell(f"{_percent(low)} to {_percent(high)}" if runs else "–")] if kind == "accuracy" else []),
        cell(_dots(entry, axis) if runs else "–"),
        cell(_seconds(seconds), data_value=seconds or 0),
        cell("–" if images_seen is None else f"{images_seen:,.0f}", data_value=images_seen or 0),
        cell(verdict, class_="good" if summary.sound else "bad", data_value=verdict),
    ]


def _score_cells(entry: Entry, kind: str) -> list[Cell]:
    """The score that decides, and its interval."""
    value, interval = entry["score"], entry["score_interval"]
    if not entry["runs"] or interval is None:
        return [cell("–", data_value="-1"), cell("–")]
    last = 1e12 if kind == "time_to_target" else -1.0  # never
    between = " to ".join(score_in_words(bound, kind) for bound in interval)
    sort_by = f"{last if value is None else value:.9f}"
    return [cell(tag("strong", score_in_words(value, kind)), data_value=sort_by), cell(between)]


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
    return tag(
        "svg", tag("title", text), line, *symbols, viewBox="0 0 136 20", role="img", aria_label=text, class_="runs"
    )


def _per_class(entries: Sequence[Entry], classes: Sequence[str], level: str) -> Html:
    rows = [
        [
            tag("bdi", entry["name"]),
            *(
                cell("–") if share is None else cell(_percent(share), style=f"--share:{share:.3f}", class_="heat")
                for share in entry["per_class"]
            ),
        ]
        for entry in entries
        if entry["per_class"]
    ]
    content = table("Accuracy per class", ["Team", *classes], rows, "board") if rows else Html()
    return section("Each class", content, level=level)


def _details(entry: Entry, kind: str, regime: str, curve: Html) -> Html:
    facts = {key: tag("bdi", entry[key] or "not given") for key in ("authors", "version", "licence")}
    parts = [
        tag("h3", tag("bdi", entry["name"])),
        tag("p", "By: ", facts["authors"], "; version: ", facts["version"], "; licence: ", facts["licence"]),
        tag("p", tag("a", "Description", href=entry["description"]), f"; SHA-256 {entry['sha256']}"),
    ]
    if compared := entry["versus_leader"]:
        parts.append(tag("p", _comparison(compared, kind)))
    if control := entry.get("control"):
        parts.append(tag("p", _control(entry, control, kind)))
    if entry["runs"]:
        parts += [_runs(entry), curve]
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
    return tag("article", *parts, id=_anchor(entry["id"], regime))


def _comparison(compared: Mapping[str, Any], kind: str) -> str:
    test = "the test of Mann and Whitney" if kind == "time_to_target" else "Welch's test"
    p_runs = "" if compared["p_runs"] is None else f"; {test} over the runs: p = {compared['p_runs']:.3g}"
    significant = "significant" if compared["significant"] else "not significant"
    if compared["interval"] is None:
        seconds = compared["difference"]
        difference = "Never at the target, unlike" if seconds is None else f"{seconds:+.1f} s from"
    else:
        scale, digits, unit = (1, 4, "") if kind == "anytime" else (100, 2, " points")
        middle, low, high = (
            f"{scale * value:+.{digits}f}" for value in (compared["difference"], *compared["interval"])
        )
        difference = f"{middle}{unit} ({low} to {high}) from"
    return f"{difference} the first submission of the group above{p_runs}: {significant}."


def _control(entry: Entry, control: Mapping[str, Any], kind: str) -> str:
    """What the submission that took turns with a late one shows of the machine."""
    p = "" if control["p"] is None else f"; test over the runs: p = {control['p']:.3g}"
    before, beside = (score_in_words(control[key], kind) for key in ("before", "beside"))
    return (
        f"Added on {entry['added']}. Submission {control['submission']} was run again beside it, to see whether the "
        f"machine has changed: {SCORE_NAMES[kind].lower()} {beside}, before {before}{p}."
    )


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
    remarks = [f"on {run['node']}"] if run.get("node") else []
    remarks += ["begun on a machine of another speed"] if run["drifted"] else []
    remarks += ["the machine had another speed at its end"] if run.get("drifted_after") else []
    remarks += [f"{run['attempts']} attempts"] if run["attempts"] > 1 else []
    if copies := run.get("copies"):
        remarks += [f"{copies['taken']} copies of the weights"]
        remarks += [f"{copies['left_out']} instants without one"] if copies["left_out"] else []
        remarks += [f"{len(copies['problems'])} copies cannot be scored"] if copies["problems"] else []
    if "target_reached" in run:
        seconds, after = (run["target_reached"][key] for key in ("seconds", "after"))
        remarks.append("target not reached" if seconds is None else f"target reached in {after:.1f} to {seconds:.1f} s")
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
.board tbody th .faint { display: block; font-weight: 400 }
.board thead th { font-size: .875rem; vertical-align: bottom }
[id$="board"] td:last-child { white-space: normal; min-width: 8rem }
article td:nth-child(6) { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
svg.runs { width: 136px; height: 20px } circle { fill: var(--blue); fill-opacity: .7 }
.axis { stroke: var(--line) } .cross { stroke: var(--bad); stroke-width: 2; fill: none }
.heat { background: rgb(var(--cold) / calc(.45 * var(--share))) }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
"""
