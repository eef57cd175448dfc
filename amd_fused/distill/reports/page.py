"""A web page in one file: text, tables and pictures, and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
h3 { margin-bottom: .3em; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6em 0; font-size: .92em; }
th, td { padding: .25em .7em; border-bottom: 1px solid #e0e0e0; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid #999; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.long { overflow-wrap: anywhere; }
td.text { max-width: 24em; }
ul.columns { columns: 20em; padding: 0; list-style: none; font-size: .92em; }
ul.columns li { break-inside: avoid; overflow-wrap: anywhere; }
figure { margin: .6em 0 1.6em; } figcaption { color: #444; max-width: 60em; }
.note { color: #7a4a00; }
nav a { margin-right: 1.2em; }
"""
# Whatever a name in the page says, the page loads nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """Built from top to bottom; all text that comes in is escaped."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._body: list[str] = []
        self._sections: list[str] = []

    def section(self, heading: str) -> None:
        self._sections.append(heading)
        self._body.append(f'<h2 id="section-{len(self._sections)}">{escape(heading)}</h2>')

    def subsection(self, heading: str) -> None:
        self._body.append(f"<h3>{escape(heading)}</h3>")

    def text(self, text: str) -> None:
        self._body.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        """Something that is missing from the page."""
        self._body.append(f'<p class="note">{escape(text)}</p>')

    def pairs(self, pairs: Mapping[str, str]) -> None:
        """A table of names and values."""
        lines = [
            f'<tr><th scope="row">{escape(name)}</th><td class="long">{escape(value)}</td></tr>'
            for name, value in pairs.items()
        ]
        self._body.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')

    def columns(self, pairs: Mapping[str, str]) -> None:
        """Many short names and values, in as many columns as the window takes."""
        lines = "".join(
            f"<li><b>{escape(name)}</b> <span>{escape(value)}</span></li>"
            for name, value in pairs.items()
        )
        self._body.append(f'<ul class="columns">{lines}</ul>')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> None:
        """A table whose first `texts` columns are text and the others numbers."""
        kinds = ["text"] * texts + ["number"] * (len(head) - texts)

        def line(tag: str, cells: Sequence[str]) -> str:
            made = (
                f'<{tag} class="{kind}">{escape(cell)}</{tag}>'
                for kind, cell in zip(kinds, cells, strict=True)
            )
            return f"<tr>{''.join(made)}</tr>"

        body = "".join(line("td", row) for row in rows)
        self._body.append(
            f'<div class="wide"><table><thead>{line("th", head)}</thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def picture(self, png: bytes, caption: str) -> None:
        data = base64.b64encode(png).decode()
        self._body.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def open_details(self, summary: str) -> None:
        """What follows is folded, until `close_details`."""
        self._body.append(f"<details><summary>{escape(summary)}</summary>")

    def close_details(self) -> None:
        self._body.append("</details>")

    def html(self) -> str:
        links = "".join(
            f'<a href="#section-{number}">{escape(heading)}</a>'
            for number, heading in enumerate(self._sections, 1)
        )
        head = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self._title)}</title><style>{_STYLE}</style></head>"
        )
        body = "\n".join(self._body)
        return (
            f"{head}\n<body><h1>{escape(self._title)}</h1>\n<nav>{links}</nav>\n{body}\n"
            "</body></html>\n"
        )
