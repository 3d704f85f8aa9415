"""Figures of samples and curves: what is drawn where, in PNG and SVG, with texts in any script."""

import itertools
import logging
import re

import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from meru.reports import fonts
from meru.reports.attention import STOP_WORDS, attention_figure, is_content, printable, save_figure
from meru.reports.curves import curves_figure
from meru.reports.disk import Thumbnail, disk_figure
from meru.reports.neighbours import Near, Query, neighbours_figure
from meru.reports.norms import norms_figure
from meru.reports.style import COLOURS, MARKERS, nice_steps, wrapped
from meru.reports.traversal import CARDS, Met, Row, traversal_figure

PICTURE = torch.randint(0, 255, (3, 12, 16), dtype=torch.uint8)


FAMILIES = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def places(n, reach):
    angle = torch.linspace(0, 6, n, dtype=torch.float64)
    return reach * torch.stack([angle.cos(), angle.sin()], dim=1)


def test_the_disk_shows_the_radii_that_occur_with_labelled_rings(tmp_path):
    figure = disk_figure(
        {"image": places(9, 0.3), "caption": places(5, 0.2), "class": places(3, 0.1), "family": 0.15 * FAMILIES},
        rings={0.2: 0.1, 0.4: 0.2, 0.6: 0.29, 2.0: 0.8},
        names=["Gull", "Wren"],
        branches=[(0, 0), (1, 2)],
        thumbnails=[Thumbnail(places(9, 0.3)[0], PICTURE), Thumbnail(places(9, 0.3)[4], PICTURE)],
        title="birds",
        note="exact",
    )
    (axis,) = figure.axes
    assert axis.get_xlim()[1] == pytest.approx(0.3 * 1.42)
    shown = texts(figure)
    assert {"0.2", "0.4", "0.6", "Gull", "Wren", "9 images", "2 families", "root", "exact"} <= {*shown}
    assert "2" not in shown  # that ring lies beyond all points
    (lines,) = [each for each in axis.collections if isinstance(each, LineCollection)]
    assert len(lines.get_segments()) == 2
    save_figure(figure, tmp_path / "disk.png")
    assert Image.open(tmp_path / "disk.png").size[0] > 600


def test_kinds_differ_in_colour_and_in_marker():
    assert COLOURS.keys() == MARKERS.keys()
    assert len({*COLOURS.values()}) == len({*MARKERS.values()}) == len(COLOURS)


def test_a_sphere_has_no_root():
    assert "root" not in texts(disk_figure({"image": places(9, 0.9)}, rings={}))


@pytest.mark.parametrize("reach", [0.003, 0.7, 1.0, 1.14, 40.0])
def test_rings_are_few_and_round(reach):
    steps = nice_steps(reach)
    assert 2 <= len(steps) <= 10 and 0.6 * reach < steps[-1] <= reach * (1 + 1e-9)
    assert re.fullmatch(r"0*[125]0*", f"{steps[0]:.12f}".replace(".", ""))


def test_histograms_that_are_compared_share_their_axis():
    figure = norms_figure(
        {
            "kinds of points": {"images": torch.tensor([1.0, 1.2]), "families": torch.tensor([0.4])},
            "captions by number of words": {"3–5 words": torch.tensor([0.8, 0.9])},
            "empty": {},
        },
        title="distances",
    )
    kinds, lengths = figure.axes
    assert kinds.get_xlim() == lengths.get_xlim()
    assert {"1", "0.4", "0.8", "images", "3–5 words", "distance from the root"} <= {*texts(figure)}
    colours = [patch.get_facecolor()[:3] for axis in figure.axes for patch in axis.patches]
    assert len({*colours}) == 3


def test_distances_that_are_all_equal_are_drawn():
    figure = norms_figure({"kinds of points": {"images": torch.full((5,), 1.1), "captions": torch.full((5,), 1.1)}})
    low, high = figure.axes[0].get_xlim()
    assert low < 1.1 < high


def met(kind, text, first, last, image=None):
    return Met(kind, text, first, last, 0.5, image)


def test_a_walk_has_a_card_for_each_text_and_a_bar_for_each_part():
    way = [met("caption", "a red bird", 0.0, 0.4, PICTURE), met("class", "Cardinal", 0.4, 0.7, PICTURE)]
    way += [met("everything", "all captions", 0.7, 0.8), met("root", "root", 0.8, 1.0)]
    row = Row(PICTURE, "", None, "root", tuple(way), [0.0, 1.0], [2.0, 0.0])
    figure = traversal_figure(
        [row, row._replace(start_image=None, start_text="a grey bird")], title="walks", note="note"
    )
    shown = texts(figure)
    for text in ("a red bird", "Cardinal", "caption · 0.50", "all captions · 0.50", "root · 0.50"):
        assert shown.count(text) == 2
    assert {"2.00", "1.20", "0.00", "a grey bird", "note"} <= {*shown}  # distances from the root along the way
    bars = [axis for axis in figure.findobj(lambda artist: hasattr(artist, "patches")) if len(axis.patches) == 4]
    assert [round(patch.get_width(), 6) for patch in bars[0].patches] == [0.4, 0.3, 0.1, 0.2]


def test_a_walk_with_many_texts_shows_the_first_the_last_and_the_longest():
    edges = [0.0, 0.01, 0.02, 0.3, 0.31, 0.6, 0.9, 1.0]
    way = [met("caption", f"text {n}", *ends) for n, ends in enumerate(itertools.pairwise(edges))]
    row = Row(PICTURE, "", PICTURE, "", tuple(way), [0.0, 1.0], [2.0, 2.0])
    shown = [text for text in texts(traversal_figure([row])) if text.startswith("text ")]
    assert shown == ["text 0", "text 2", "text 4", "text 5", "text 6"] and len(shown) == CARDS


def test_neighbours_show_their_places_in_the_ranking_of_both_kinds():
    images = [Near(3, PICTURE, "Gull", True), Near(9, PICTURE, "Wren", False)]
    captions = [Near(1, None, "a white bird", True)]
    queries = [Query(PICTURE, "Gull", images, captions), Query(None, "a grey bird", images[:1], captions)]
    shown = texts(neighbours_figure(queries, title="near"))
    assert shown.count("3. ✓") == 2 and shown.count("9.") == 1 and shown.count("1. ✓") == 2
    assert {"a white bird", "a grey bird", "query"} <= {*shown}


def test_seeds_are_a_band_of_one_deviation_or_from_least_to_most():
    def runs(*heights):
        return [[(1.0, height), (2.0, 2 * height)] for height in heights]

    panels = {"loss": {"meru": runs(1, 2, 3), "clip": runs(1, 4), "one": runs(5)}, "recall@1": {"meru": runs(0.1, 0.3)}}
    figure = curves_figure(panels, percent=["recall@1"])
    loss, recall = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 4.0], [2.5, 5.0], [5.0, 10.0]]
    bands = [band.get_paths()[0].get_extents() for band in loss.collections]
    assert [(band.y0, band.y1) for band in bands] == [(1.0, 6.0), (1.0, 8.0)]
    shown = texts(figure)
    assert {"meru (3 seeds)", "clip (2 seeds)", "one", "loss", "epoch"} <= {*shown}
    assert any(text.endswith(" %") for text in (label.get_text() for label in recall.get_yticklabels()))


def test_words_are_compared_with_the_mean_of_their_caption_on_one_scale():
    weights = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]])
    figure = attention_figure(torch.zeros(3, 8, 8, dtype=torch.uint8), ["red", "with", "bill"], weights)
    panels = [axis for axis in figure.axes if len(axis.images) == 2]
    assert [axis.get_title() for axis in panels] == ["red", "bill"]  # the function word is left out
    expected = weights - weights.mean(dim=0)
    reach = float(expected[[0, 2]].abs().max())
    for axis, row in zip(panels, (0, 2), strict=True):
        drawn = axis.images[1]
        assert drawn.get_clim() == pytest.approx((-reach, reach))
        assert drawn.get_array()[0, 0] == pytest.approx(float(expected[row, 0]))
        assert drawn.get_array()[7, 7] == pytest.approx(float(expected[row, 3]))
    alone = attention_figure(torch.zeros(3, 8, 8, dtype=torch.uint8), ["with"], weights[1:2])
    assert [axis.get_title() for axis in alone.axes if len(axis.images) == 2] == ["with"]
    assert is_content("红色") and is_content("Bill,") and not is_content("The") and not is_content(" . ")
    assert all(word == word.lower() for word in STOP_WORDS)


def test_long_texts_are_wrapped_between_words_and_cut_at_the_end():
    assert wrapped("a small bird with a red head", width=12, lines=5) == "a small bird\nwith a red\nhead"
    assert wrapped("a small bird with a red head", width=12, lines=2) == "a small bird\nwith a red …"
    assert wrapped("红色的小鸟在树上", width=8, lines=3) == "红色的小\n鸟在树上"
    assert (
        wrapped("incomprehensibilities", width=8, lines=2) == "incompre\nhensibil …"
        and wrapped("", width=8, lines=2) == ""
    )


@pytest.fixture
def without_fallbacks(monkeypatch):
    """A machine with matplotlib's own font only."""
    monkeypatch.setattr(fonts, "_installed", dict)
    monkeypatch.setattr(fonts, "_said", set())


def test_characters_that_no_font_has_are_replaced_and_named_once(without_fallbacks, caplog, tmp_path, recwarn):
    figure = Figure(figsize=(3, 2))
    axis = figure.subplots()
    axis.set_title("a 🦜\ufe0f of 鸟 and é ✈")
    axis.set_xticks([0, 1], ["鸟", "wren"])
    with caplog.at_level(logging.WARNING):
        save_figure(figure, tmp_path / "a.png")
        assert fonts.drawable("鸟") == "?"
    assert axis.get_title() == "a [parrot] of ? and é ✈"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["?", "wren"]
    assert "".join(record.getMessage() for record in caplog.records).count("鸟") == 1
    assert not [each for each in recwarn if "Glyph" in str(each.message)]
    assert printable("🦜", width=5) == "🦜"  # only what is drawn is replaced


def test_a_font_that_has_a_character_is_asked_for_it(monkeypatch):
    fonts._characters.cache_clear()
    known = {
        "own": frozenset(map(ord, "abc")),
        "first": frozenset(map(ord, "鸟")),
        "second": frozenset(map(ord, "鸟🦜")),
    }
    monkeypatch.setattr(fonts, "_own_font", lambda: "own")
    monkeypatch.setattr(fonts, "_installed", lambda: {"First": "first", "Second": "second", "Third": "own"})
    monkeypatch.setattr(fonts, "_characters", known.__getitem__)
    own = fonts.families_for(["abc"])
    assert fonts.families_for(["a鸟"]) == [*own, "First"] and fonts.families_for(["a鸟", "🦜"]) == [
        *own,
        "First",
        "Second",
    ]
    assert fonts.drawable("a鸟🦜") == "a鸟🦜"


def test_an_svg_holds_outlines_and_is_the_same_again(tmp_path):
    for name in ("a.svg", "b.svg"):
        figure = curves_figure({"loss": {"$x_1$": [[(1.0, 2.0), (2.0, 1.0)]]}}, title="a $loss")
        save_figure(figure, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "<svg" in text and "<text" not in text and "<dc:date>" not in text
