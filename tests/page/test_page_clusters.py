"""Clusters of category discovery on the page: rows, tree, names, and the table to download."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_page import FakePage, refusal_of

from meru.metrics.class_tree import Tree
from meru.page.clusters import DEEPEST, cell, nested

ADDRESS = "/api/clusters/tiny"


@pytest.fixture
def page(tmp_path):
    page = FakePage(tmp_path)
    page.index.clusters[0] = 1  # sizes 3, 5, 4
    return page


def rename(page, **values):
    return page.client.post(ADDRESS, json=values)


def test_clusters_come_largest_first_with_their_images_and_label(page):
    told = page.client.get(ADDRESS).json()
    assert told["total"] == 3
    assert [(row["cluster"], row["size"], row["label"]) for row in told["clusters"]] == [
        (1, 5, "green"), (2, 4, "blue"), (0, 3, "red"),
    ]  # fmt: skip
    assert sorted(told["clusters"][1]["images"]) == [2, 5, 8, 11] and told["clusters"][0]["name"] is None
    assert told["clusters"][0]["images"][-1] == 0  # the red image is the farthest from the centre of the green ones


def test_a_page_of_clusters_is_as_long_as_was_asked_for(page):
    rows = page.client.get(ADDRESS, params={"start": 1, "count": 1}).json()["clusters"]
    assert [row["cluster"] for row in rows] == [2]
    assert page.client.get(ADDRESS, params={"start": 10**9}).json()["clusters"] == []
    for wrong in ({"start": -1}, {"start": "x"}, {"count": 0}, {"count": 101}, {"count": "9" * 5000}):
        refusal_of(page.client.get(ADDRESS, params=wrong), 400)


def leaves(node):
    return [node["cluster"]] if "cluster" in node else [leaf for child in node["children"] for leaf in leaves(child)]


@pytest.mark.parametrize("curved", [True, False])
def test_the_tree_joins_all_clusters(tmp_path, curved):
    tree = FakePage(tmp_path, curved=curved).client.get(ADDRESS).json()["tree"]
    assert sorted(leaves(tree)) == [0, 1, 2] and tree["height"] > 0


def chain(count):
    """A tree in which every join adds one leaf."""
    children = np.array([[0, 1], *([count + join, join + 2] for join in range(count - 2))])
    return Tree(tuple(map(str, range(count))), children, np.arange(2 * count - 1.0), torch.zeros(0), None)


def test_a_tree_too_deep_for_parsers_is_left_out():
    assert json.loads(json.dumps(nested(chain(DEEPEST))))["height"] == 2 * DEEPEST - 2
    assert nested(chain(DEEPEST + 1)) is None


def test_one_cluster_is_a_tree_of_one_leaf(page):
    page.index.clusters[:] = [7] * 12
    told = page.client.get(ADDRESS).json()
    assert told["total"] == 1 and told["tree"] == {"cluster": 7, "height": 0.0}


def test_a_cluster_without_labelled_images_has_no_label(page):
    page.index.labels = [None] * 12
    assert page.client.get(ADDRESS).json()["clusters"][0]["label"] is None


def test_a_name_is_kept_and_can_be_taken_away(page):
    assert rename(page, cluster=2, name="  blue\tgulls ").json()["name"] == "blue gulls"
    assert page.client.get(ADDRESS).json()["clusters"][1]["name"] == "blue gulls"
    assert rename(page, cluster=2, name="").status_code == 200
    assert not page.index.cluster_names[2]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"cluster": 2}, 400),
        ({"name": "x"}, 400),
        ({"cluster": 3, "name": "x"}, 404),
        ({"cluster": "2", "name": "x"}, 400),
        ({"cluster": 2, "name": "x" * 81}, 422),
        ({"cluster": 2, "name": " \x00"}, 422),
        ({"cluster": 2, "name": ["x"]}, 400),
        ({"cluster": 2, "name": None}, 400),
        ({"cluster": 2, "name": "x", "size": 3}, 400),
        ({"cluster": 1, "name": "gull\u200d"}, 422),
    ],
)
def test_a_wrong_name_is_refused_and_changes_nothing(page, values, status):
    refusal_of(rename(page, **values), status)
    assert page.index.cluster_names == {}


def test_an_index_whose_folder_vanished_takes_no_names_and_is_still_searched(page):
    shutil.rmtree(page.index.folder)
    assert "its own output says why" in refusal_of(rename(page, cluster=2, name="x"), 500)
    assert page.search(text="red")["results"]


def test_the_table_has_a_row_for_every_image(page):
    rename(page, cluster=2, name="gulls, blue")
    answer = page.client.get(f"{ADDRESS}/export")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="clusters.csv"'
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["image", "cluster", "name"] and len(rows) == 13
    assert rows[3] == ["blue/2.png", "2", "gulls, blue"] and rows[1] == ["red/0.png", "1", ""]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", '=HYPERLINK("x")', "=cmd|' /C calc'!A0"]
)
def test_no_cell_of_the_table_is_a_formula(page, text):
    assert cell(text) == f"'{text}"
    rename(page, cluster=2, name=text)
    page.index.names[2] = text
    row = list(csv.reader(io.StringIO(page.client.get(f"{ADDRESS}/export").text)))[3]
    assert row[0] == f"'{text}" and row[2].startswith("'")


def test_the_table_keeps_names_of_files_that_are_no_unicode(page):
    page.index.names[2] = "blue/\udcff.png"
    assert b"blue/\xff.png" in page.client.get(f"{ADDRESS}/export").content


def test_an_index_without_clusters_has_none(page):
    page.index.clusters = None
    for answer in (page.client.get(ADDRESS), rename(page, cluster=1, name="x"), page.client.get(f"{ADDRESS}/export")):
        assert "has no clusters" in refusal_of(answer, 404)
