"""HTML pages that need no other file: elements, tables, one style, one script that sorts, one security policy."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence


class Html(str):
    """A string that is HTML already. Any other value is text, and is escaped on its way into an element."""


# what HTML cannot hold: controls, and lone surrogates (of odd file names); and marks that turn text around
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. In the names of attributes `_` stands for `-`, and a last one is dropped."""
    given = (f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    start = f"<{name}{''.join(given)}>"
    return Html(start if name == "img" else f"{start}{''.join(map(_escape, children))}</{name}>")


def _escape(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def picture(png: bytes, alt: str, **attributes: object) -> Html:
    """An image that is part of the page."""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return tag("img", src=source, alt=alt, **attributes)


def section(title: str, *parts: Html, level: str = "h2") -> Html:
    """Parts under a heading; nothing where all of them are nothing."""
    return tag("section", tag(level, title), *parts) if any(parts) else Html()


def bullets(items: Iterable[object] | None) -> Html:
    """A list; nothing where there are no items."""
    entries = [tag("li", in_words(item)) for item in items or ()]
    return tag("ul", *entries) if entries else Html()


def definitions(facts: Mapping[str, object] | None) -> Html:
    """Names and values, without those not known."""
    known = {name: value for name, value in (facts or {}).items() if value not in (None, "", [], {})}
    entries = (tag("div", tag("dt", name), tag("dd", in_words(value))) for name, value in known.items())
    return tag("dl", *entries) if known else Html()


def in_words(value: object) -> object:
    """Values as a person writes them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        items = (f"({in_words(item)})" if isinstance(item, list | tuple) else f"{in_words(item)}" for item in value)
        return ", ".join(items)
    return f"{value:.6g}" if isinstance(value, float) else value


def percent(share: float, digits: int = 1) -> str:
    """0.123 → `12.3 %`."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


# ---- tables ----


class Cell(Html):
    """A cell of a table that is an element already, with attributes of its own."""


def cell(*children: object, name: str = "td", **attributes: object) -> Cell:
    """A cell with attributes.

    Args:
        name: `td`, or `th` for a header.
    """
    return Cell(tag(name, *children, **attributes))


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "plain", **attributes: object
) -> Html:
    """A table whose rows begin with their header.

    Args:
        head: the heads of the columns; each is a `Cell`, or the content of one.
        rows: likewise.
        kind: class of the box around the table, for its style.
        attributes: attributes of the table.
    """
    columns = tag("tr", *(_cell(item, "th", scope="col") for item in head))
    body = (tag("tr", _cell(row[0], "th", scope="row"), *(_cell(item, "td") for item in row[1:])) for row in rows)
    parts = (tag("caption", caption), tag("thead", columns), tag("tbody", *body))
    return scrolling(caption, tag("table", *parts, **attributes), kind)


def sortable_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose columns sort by a button in their heads, the largest first."""
    heads = [sort_head(name or "what") for name in head]
    return table(caption, heads, rows, class_="sortable", data_first="descending")


def sort_head(name: str, kind: str = "") -> Cell:
    """The head of a column that sorts. A cell sorts by its `data-value`, or by its text.

    Args:
        kind: `text` for a column that is never taken for numbers.
    """
    return cell(tag("button", name, type="button"), name="th", scope="col", class_=kind)


def scrolling(label: str, content: Html, kind: str = "") -> Html:
    """A box that scrolls where its content is wider than the screen, also by keyboard."""
    return tag("div", content, class_=f"scroll {kind}".strip(), tabindex=0, role="region", aria_label=label)


def _cell(item: object, name: str, **attributes: object) -> Html:
    return item if isinstance(item, Cell) else tag(name, item, **attributes)


# ---- pages ----


def page(title: str, *sections: Html, style: str = "") -> str:
    """A whole document. Its security policy lets nothing be fetched; no script runs but the one that sorts.

    Args:
        style: CSS beside the common one.
    """
    if not any('class="sortable"' in part for part in sections):
        return document(title, *sections, style=style, policy="img-src data:")
    policy = f"img-src data:; script-src {script_source(_SORT)}"
    return document(title, *sections, style=style, policy=policy, script=tag("script", _SORT))


def script_source(script: str) -> str:
    """The source by which a security policy lets this script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def document(title: str, *sections: Html, style: str, policy: str, script: Html = Html()) -> str:  # noqa: B008
    """A whole document.

    Args:
        style: CSS beside the common one.
        policy: what its content may do; nothing else is allowed but to be styled.
        script: what follows the sections. Default: nothing.
    """
    policy = f"default-src 'none'; style-src 'unsafe-inline'; {policy}"
    meta = Html(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">'
    )
    head = tag("head", meta, tag("title", title), tag("style", _STYLE, Html(style)))
    body = tag("body", tag("main", *sections), script)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


_SORT = Html("""
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const status = document.createElement("p");
  status.className = "unseen"; status.setAttribute("aria-live", "polite"); table.after(status);
  heads.forEach((head, i) => {
    const button = head.querySelector("button");
    if (!button) return;
    const key = row => {
      const text = row.cells[i].dataset.value ?? row.cells[i].textContent;
      const number = head.className === "text" ? NaN : parseFloat(text.replace(/[,<+\\s]/g, ""));
      return Number.isNaN(number) ? text : number;
    };
    button.addEventListener("click", () => {
      const other = {ascending: "descending", descending: "ascending"};
      const way = other[head.getAttribute("aria-sort")] ?? table.dataset.first ?? "ascending";
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const rows = [...body.rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;  // what is no number comes last
        const order = typeof x === "number" ? x - y : x.localeCompare(y);
        return way === "ascending" ? order : -order;
      });
      body.append(...rows);
      status.textContent = `sorted by ${button.textContent}, ${way}`;
    });
  });
}
""")

_STYLE = Html("""
:root { --page: #fff; --ink: #1b1f24; --faint: #5b6570; --line: #d9dee4; --soft: #f4f6f8; --good: #00704f;
  --bad: #a33d00; --blue: #005a9c; --cold: 0 114 178; --warm: 213 94 0 }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --ink: #e6e9ee; --faint: #9aa4b0; --line: #333a44; --soft: #1d2229; --good: #3fc79a;
    --bad: #ff9a57; --blue: #6cb8f0 }
  .curve { filter: invert(.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
main { max-width: 72rem; margin: auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: clamp(1.8rem, 7vw, 2.6rem); line-height: 1.15; margin: 0 }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem }
p, ul, dl, pre { margin: .5rem 0 }
ul { padding-left: 1.2rem }
a { color: var(--blue) }
.good { color: var(--good) } .bad { color: var(--bad) }
.faint, dt, caption { color: var(--faint); font-size: .875rem }
.unseen { position: absolute; top: 0; left: 0; width: 1px; height: 1px; margin: 0; overflow: hidden;
  clip-path: inset(50%) }
.curve { display: block; width: 100%; height: auto; margin: 1.5rem 0; border-radius: 6px }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem }
dd { margin: 0 }
pre { background: var(--soft); padding: .75rem; border-radius: 4px; white-space: pre-wrap }
.scroll { overflow-x: auto; position: relative }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; padding-bottom: .4rem }
th { font-weight: 500; text-align: left }
thead th { color: var(--faint); vertical-align: bottom }
.plain th, .plain td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); max-width: 24rem;
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.plain td, .plain thead th:not(:first-child) { text-align: right }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline dotted }
.sortable [aria-sort=ascending] button::after { content: " ↑" }
.sortable [aria-sort=descending] button::after { content: " ↓" }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px }
figure { margin: 0; break-inside: avoid }
@media print {
  * { print-color-adjust: exact }
  :root { font-size: 11px } body { font-size: 1rem }
  .scroll { overflow: visible }
  h2, h3 { break-after: avoid }
  tr, article { break-inside: avoid }
  .sortable button::after { content: "" !important }
}
""")
