"""The pages of all keys are up to date, complete, and the same in both languages."""

import re

import pytest

from meru.configuration import chinese, chinese_words
from meru.configuration.declarations import EVALUATE, TRAIN
from meru.configuration.pages import PAGES, page
from meru.files import PROJECT

EMPTY_MEANING = re.compile(r"\|\s+\|$")


def rows(name):
    return [line for line in page(name).splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", PAGES)
def test_every_key_has_a_meaning_and_the_page_is_up_to_date(name):
    written = (PROJECT / "docs" / name).read_text(encoding="utf-8")
    assert written == page(name), "run python scripts/document_keys.py"
    assert len(rows(name)) > 200 and not [row for row in rows(name) if EMPTY_MEANING.search(row)]


def test_both_languages_have_the_same_keys_and_defaults():
    english, translated = ([row.split(" | ")[:2] for row in rows(name)] for name in PAGES)
    assert english == translated


def test_ranges_are_the_same_in_both_languages():
    def numbers(row):
        return re.findall(r"\d+(?:\.\d+)?", row.split(" | ")[2])

    for english, translated in zip(rows("keys.md"), rows("keys.zh-CN.md"), strict=True):
        assert sorted(numbers(english)) == sorted(numbers(translated)), english


def test_nothing_is_explained_that_is_no_key_any_more():
    assert set(chinese.MEANINGS) <= set(TRAIN) and set(chinese.MEANINGS_OF_EVALUATE) <= set(EVALUATE)
    assert set(chinese_words.UNITS) == {key.unit for key in [*TRAIN.values(), *EVALUATE.values()]} - {""}
