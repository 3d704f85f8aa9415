"""Makes pages of HTML in one file: no script, no link to anything outside, all text escaped.

Text comes from run folders, which anyone may have made: names, captions, classes. So a child of an element is escaped
unless it is `Markup`, which only this module and its callers' own constants make.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from meru.reports.stylesheet import STYLE

LANGUAGES = {"en": "English", "zh": "中文"}
# Even if something slipped through, a browser runs no script and loads nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_VOID = ("img", "input", "meta", "br")


class Markup(str):
    """Text that is HTML already."""


class Both(NamedTuple):
    """A text in English and in Chinese; the reader chooses."""

    english: str
    chinese: str


Child = str | Both


def element(tag: str, *children: Child, **attributes: str | bool | None) -> Markup:
    """An element; text is escaped, texts in two languages become two spans.

    Args:
        tag: Its name.
        children: Text, `Markup`, or `Both`.
        attributes: Values are escaped; True is an attribute without a value, False and None leave it out. An underscore
            at the end is dropped and others become hyphens: `class_`, `aria_label`.
    """
    opening = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            opening.append(name)
        elif value is not None and value is not False:
            opening.append(f'{name}="{html.escape(_printable(str(value)))}"')
    start = f"<{' '.join(opening)}>"
    return Markup(start if tag in _VOID else f"{start}{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Markup:
    """Children one after the other, escaped where they are not `Markup`."""
    return Markup("".join(_escaped(child) for child in children))


def _escaped(child: Child) -> str:
    if isinstance(child, Both):
        return "".join(element("span", text, lang=language) for language, text in zip(LANGUAGES, child, strict=True))
    return child if isinstance(child, Markup) else html.escape(_printable(child))


def _printable(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which no HTML file may hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)


class Cell(NamedTuple):
    """A cell of a table with a smaller second line, such as a figure with its chance level."""

    text: Child
    below: Child = ""


def table(header: Sequence[Child], rows: Iterable[Sequence[Child | Cell]], *, caption: Child = "") -> Markup:
    """A table that scrolls sideways on narrow screens; the first cell of a row is its heading.

    Args:
        header: Headings of the columns.
        rows: As many cells each.
        caption: Written above.
    """
    head = element("tr", *(element("th", each, scope="col") for each in header))
    body = [
        element("tr", element("th", _cell(first), scope="row"), *(element("td", _cell(each)) for each in others))
        for first, *others in rows
    ]
    parts = [element("caption", caption)] if caption else []
    parts += [element("thead", head), element("tbody", *body)]
    return element("div", element("table", *parts), class_="scroll", tabindex="0")


def _cell(cell: Child | Cell) -> Markup:
    if not isinstance(cell, Cell):
        return joined([cell])
    return joined([cell.text, element("small", cell.below)] if cell.below else [cell.text])


def section(title: Child, *children: Child) -> Markup:
    """A section with its heading."""
    return element("section", element("h2", title), *children)


def folded(title: Child, *children: Child) -> Markup:
    """Children that are shown when the reader clicks on the title."""
    return element("details", element("summary", title), *children)


def picture(content: bytes, kind: str, *, alt: str, caption: Child) -> Markup:
    """An image within the page.

    Args:
        content: Bytes of the file.
        kind: Its format, `png`.
        alt: What to read instead of the image.
        caption: Written below.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return element("figure", element("img", src=source, alt=alt), element("figcaption", caption))


def drawing(svg: str, *, number: int, alt: str, caption: Child) -> Markup:
    """An SVG of matplotlib within the page; black becomes the colour of the text, so it is readable on dark pages.

    Args:
        svg: The whole file.
        number: Different for every drawing of the page, whose parts would otherwise share their ids.
        alt: What to read instead of the drawing.
        caption: Written below.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>d{number}-", svg).replace("#000000", "currentColor")
    label = html.escape(_printable(alt))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return element("figure", Markup(svg.strip()), element("figcaption", caption))


def page(title: str, *children: Child, language: str = "en") -> str:
    """A whole page, with a switch between the languages that needs no script.

    Args:
        title: Of the browser's window.
        children: The page's content.
        language: The language that is shown first, a key of `LANGUAGES`.
    """
    switch = [
        each
        for code, name in LANGUAGES.items()
        for each in (
            element("input", type="radio", name="language", id=code, checked=code == language),
            element("label", name, for_=code, lang=code),
        )
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element("body", *switch, element("main", *children))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang={'zh': 'zh-CN'}.get(language, language))}\n"
