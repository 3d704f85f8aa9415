"""Pages of HTML: one file, nothing from outside, text stays text."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from meru.reports.embedded_pictures import LONGEST_SIDE, embedded
from meru.reports.html import Both, Cell, Markup, drawing, element, page, picture, table
from meru.reports.learning_curves import MOST_POINTS, comparable, curves_svg, thinned

EVIL = """<script>alert("1")</script>'&\x00\ud800"""


class Reader(HTMLParser):
    """Collects the elements of a page and what they hold."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_text_attributes_and_titles_cannot_become_elements():
    text = page(
        EVIL,
        element("p", EVIL, title=EVIL),
        element("p", Both(EVIL, EVIL)),
        table([EVIL], [[Cell(EVIL, EVIL)], [EVIL]], caption=EVIL),
        picture(b"x", "png", alt=EVIL, caption=EVIL),
        drawing(curves_svg({EVIL: [[(0, 1), (1, 2)]]}, share=False), number=0, alt=EVIL, caption=EVIL),
    )
    read = Reader(text)
    assert "script" not in read.tags and not [name for name, _ in read.attributes if name.startswith("on")]
    assert "".join(read.texts).count("<script>") == 11
    text.encode("utf-8")  # no half of a surrogate pair
    assert "\x00" not in text


def test_a_page_loads_nothing_and_runs_nothing():
    text = page("title", element("p", "text"), language="zh")
    assert "default-src 'none'" in text.replace("&#x27;", "'") and "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert re.search(r'<input[^>]*id="zh" checked>', text) and '<html lang="zh-CN">' in text


def test_children_are_escaped_unless_they_are_markup():
    assert element("b", "<", Markup("<i></i>")) == "<b>&lt;<i></i></b>"
    assert element("input", checked=True, hidden=False, aria_label="a", class_="b") == (
        '<input checked aria-label="a" class="b">'
    )
    assert element("p", Both("one", "一")) == '<p><span lang="en">one</span><span lang="zh">一</span></p>'


def test_drawings_share_no_ids_and_take_the_colour_of_the_text():
    svg = curves_svg({"a": [[(0, 0.1), (5, 0.2)]]}, share=True, chance=0.05)
    first, second = (drawing(svg, number=number, alt="a curve", caption="c") for number in (1, 2))
    ids = [set(re.findall(r'\bid="([^"]+)"', each)) for each in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r"url\(#([^)]+)\)", first)) | set(re.findall(r'href="#([^"]+)"', first))
    assert used <= ids[0]
    assert 'role="img" aria-label="a curve"' in first and "currentColor" in first and "#000000" not in first


def test_groups_without_curves_and_names_with_dollars_are_drawn():
    assert "<svg" in curves_svg({"$x_{$": [[(1, 2.0)]], "empty": []}, share=False)


def test_seeds_are_compared_at_the_steps_that_all_have():
    long, short, other = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], [(1.0, 4.0), (2.0, 5.0)], [(1.5, 0.0)]
    assert comparable([long, short]) == [[long[:2], short]]
    assert comparable([long, other]) == [[long], [other]] and comparable([]) == []


def test_long_curves_are_thinned_to_means():
    points = thinned([(float(step), 2.0 * step) for step in range(10 * MOST_POINTS)])
    assert len(points) == MOST_POINTS and points[0] == (4.5, 9.0)
    assert thinned([(0.0, 1.0)]) == [(0.0, 1.0)]


def test_pictures_are_made_smaller_and_damaged_ones_left_out(tmp_path):
    Image.new("RGB", (3 * LONGEST_SIDE, 30), "red").save(tmp_path / "long.png")
    content, kind = embedded(tmp_path / "long.png")
    (tmp_path / "small").write_bytes(content)
    with Image.open(tmp_path / "small") as small:
        assert kind == "webp" and small.format == "WEBP" and small.size == (LONGEST_SIDE, 10)
    (tmp_path / "bad.png").write_bytes((tmp_path / "long.png").read_bytes()[:40])
    assert embedded(tmp_path / "bad.png") is None and embedded(tmp_path / "none.png") is None


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode_are_embedded(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 6)).save(path)
    assert embedded(path)
