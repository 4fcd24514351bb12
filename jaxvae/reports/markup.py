"""Parts of a self-contained HTML page: every string is escaped here, every figure embedded."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

CSS_PIXELS_AN_INCH = 100

STYLE = """
body { margin: 0 auto; max-width: 810px; padding: 1.5rem 1rem 4rem; color: #222; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
p { margin: .4rem 0; }
.quiet, figcaption { color: #5b5b5b; font-size: .9rem; }
.warning { border-left: 4px solid #D55E00; background: #fdf3ec; padding: .6rem .9rem;
           margin: 1rem 0; }
figure { margin: 1.6rem 0 2.4rem; }
figcaption { margin-top: .5rem; }
img { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.2rem .3rem 0; }
tr { border-bottom: 1px solid #e4e4e4; }
th { font-weight: 500; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td:nth-child(2) { white-space: nowrap; }
@media (max-width: 600px) {
  .numbers, .numbers tbody { display: block; }
  .numbers tr { display: grid; grid-template-columns: 1fr auto; }
  .numbers td:nth-child(2) { padding-right: 0; }
  .numbers td:nth-child(3) { grid-column: 1 / -1; padding-top: 0; font-size: .9rem; }
}
.compared { font-size: .9rem; }
.values { font-size: .9rem; }
.values th { color: #5b5b5b; font-weight: 400; white-space: nowrap; }
""".strip()


def page(title: str, body: Iterable[str]) -> str:
    """Return a complete HTML document.

    Args:
        title: plain text.
        body: parts of HTML.

    Returns:
        HTML that needs no other file and no script.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>\n",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading with plain text."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str | None = None) -> str:
    """Return a paragraph with plain text; `kind` is "quiet" or "warning"."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def table(rows: Iterable[Sequence[str]], kind: str) -> str:
    """Return a table of plain text, in which the first cell of each row is a heading; `kind` is the CSS class."""
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    ]
    return "\n".join([f'<table class="{kind}">', *lines, "</table>"])


def values(record: Mapping[str, Any]) -> str:
    """Return a table of the names and values of a JSON object."""
    return table(((name, words(value)) for name, value in record.items()), "values")


def words(value: Any) -> str:
    """Format a JSON value as text: lists and mappings on one line, null as "not set"."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(each) for each in value)
    return str(value)


def figure(drawing: Figure, title: str, caption: str) -> str:
    """Return a figure embedded as PNG, with a caption on how to read it.

    Args:
        drawing: the figure.
        title: plain text, also the image's alternative text.
        caption: plain text.

    Returns:
        A `<figure>`.
    """
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=drawing.dpi, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = (round(inches * CSS_PIXELS_AN_INCH) for inches in drawing.get_size_inches())
    return "\n".join(
        [
            "<figure>",
            heading(title, 3),
            f'<img alt="{escape(title)}" width="{width}" height="{height}" '
            f'src="data:image/png;base64,{data}">',
            f"<figcaption>{escape(caption)}</figcaption>",
            "</figure>",
        ]
    )
