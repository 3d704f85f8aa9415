"""The search page in a real browser, on the real server: what people type, move, drop and click, and what they see."""

import re

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright.sync_api")

from live_page import MARKUP, QUIET, Watched, browser_path, make_indexes, served
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from meru.index.asking import Asker
from meru.index.folder import open_index

if browser_path() is None:
    pytest.skip("no working chromium, chromium-browser or google-chrome on PATH", allow_module_level=True)
expect.set_options(timeout=10_000)  # for machines that are busy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_indexes(tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="module")
def address(folders):
    with served(folders) as address:
        yield address


@pytest.fixture(scope="module")
def index(folders):
    return open_index(folders[0])


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path(), args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page in a window of a width; at the end, nothing must have gone wrong behind it."""
    tabs = []

    def open_tab(query="", width=1280, **options):
        tabs.append(Watched(browser, address, width, **options))
        return tabs[-1].open(query)

    yield open_tab
    for tab in tabs:
        tab.context.close()
    assert [line for tab in tabs for line in tab.wrong] == []


def ranked(index, point):
    """Images from the nearest to the farthest, as the index finds them."""
    return index.search(point[None], len(index))[1][0].tolist()


def test_a_text_is_typed_and_the_slider_leads_to_the_root(visit, index):
    page = visit()
    tab = page.tab
    tab.get_by_label("What are you looking for?").fill("a red thing")
    tab.keyboard.press("Enter")
    point = Asker(index).embed_text("a red thing")
    page.wait_for_images(ranked(index, point))
    expect(tab.locator("#words button")).to_have_text(["a", "red", "thing"])
    slider = tab.get_by_role("slider", name="From specific to general")
    expect(tab.locator("#stage")).to_have_text("Your query, with all its details")
    first = tab.locator(".walker circle").get_attribute("cx")
    slider.press("End")
    page.wait_for_images(ranked(index, index.root))
    expect(tab.locator("#stage")).to_have_text("The root: no details are left")
    expect(tab.locator(".stages [aria-current]")).to_contain_text("everything (the root)")
    assert slider.get_attribute("aria-valuetext") == "The root: no details are left"
    assert abs(float(tab.locator(".walker circle").get_attribute("cx"))) < 0.01 < abs(float(first))
    tab.wait_for_url("**general=1.00**")
    tab.reload()
    page.wait_for_images(ranked(index, index.root))
    assert tab.get_by_label("What are you looking for?").input_value() == "a red thing"


def test_results_follow_the_slider_in_order_while_the_server_is_slow(visit, index):
    page = visit("?q=a+blue+thing")
    tab, asked = page.tab, []

    def slowly(route):
        asked.append(route.request.post_data_json["generality"])
        tab.wait_for_timeout(150)
        route.continue_()

    tab.route("**/api/search", slowly)
    slider = tab.locator("#generality")
    for _ in range(8):
        slider.press("PageUp")
        tab.wait_for_timeout(40)
    slider.press("End")
    page.wait_for_images(ranked(index, index.root))
    assert asked == sorted(asked) and asked[-1] == 1 and len(asked) < 9


def test_an_answer_to_an_older_query_is_dropped(visit, index):
    page = visit("?q=a+blue+thing")
    tab = page.tab

    def delay_green(route):
        if route.request.post_data_json["text"] == "green":
            tab.wait_for_timeout(600)
        route.continue_()

    tab.route("**/api/search", delay_green)
    field = tab.locator("#text")
    for text in ("green", "red"):
        field.fill(text)
        field.press("Enter")
    page.wait_for_images(ranked(index, Asker(index).embed_text("red")))
    tab.wait_for_timeout(300)
    page.wait_for_images(ranked(index, Asker(index).embed_text("red")))


def test_a_dropped_image_is_the_query_and_its_own_copy_is_found_first(visit, index):
    page = visit()
    tab, place = page.tab, 5
    content = list(index.path(place).read_bytes())
    transfer = tab.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "<b>mine</b>.png", {type: "image/png"}));
            return transfer;
        }""",
        content,
    )
    tab.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(tab.locator("#picked")).to_contain_text("<b>mine</b>.png")
    page.wait_for_images(ranked(index, Asker(index).embed_image(Image.open(index.path(place)).convert("RGB"))))
    assert page.images()[0] == place
    tab.get_by_role("button", name="Remove the image").click()
    expect(tab.locator("#picked")).to_be_hidden()
    expect(tab.locator("#text")).to_be_focused()


def test_a_file_that_is_no_image_gives_one_line_and_the_page_goes_on(visit):
    page = visit()
    page.tab.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
    expect(page.tab.get_by_role("alert")).to_contain_text(re.compile(r"image"))
    assert len(page.wrong) == 1 and "422" in page.wrong.pop()  # the browser logs the refusal by itself
    page.tab.locator("#text").fill("a red thing")
    page.tab.locator("#text").press("Enter")
    expect(page.tab.get_by_role("alert")).to_be_empty()


def test_a_first_search_that_is_refused_does_not_seem_to_go_on(visit):
    page = visit()
    page.tab.goto(f"{page.address}?q=%20")
    expect(page.tab.get_by_role("alert")).to_contain_text("text is empty")
    expect(page.tab.locator(".about p")).to_be_empty()
    assert len(page.wrong) == 1 and "422" in page.wrong.pop()  # the browser logs the refusal by itself


def test_a_word_that_is_clicked_shows_where_it_looks(visit):
    tab = visit("?q=a+red+thing").tab
    tab.get_by_role("group", name="Words of the query").get_by_role("button", name="red").click()
    canvas = tab.locator("#viewer .frame canvas")
    canvas.wait_for()
    shades = """canvas => new Set(
        new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    assert canvas.evaluate(shades) > 4
    assert canvas.get_attribute("aria-label") == "Where “red” looks"
    expect(tab.locator("#viewer")).to_contain_text("this model does not train attention")
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    tab.locator("#viewer").get_by_role("button", name="thing").click()
    expect(canvas).to_have_attribute("aria-label", "Where “thing” looks")
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before
    tab.keyboard.press("Escape")
    expect(tab.locator("#viewer")).to_be_hidden()


def test_the_grid_is_used_with_the_keyboard_and_names_stay_text(visit, index):
    page = visit(f"?image={index.names.index(f'red/{MARKUP}')}")
    tab = page.tab
    tiles = tab.locator(".tile")
    tiles.first.focus()
    tab.keyboard.press("ArrowRight")
    expect(tiles.nth(1)).to_be_focused()
    expect(tab.locator(".result-point.pointed")).to_have_attribute("data-rank", "1")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("dialog")).to_contain_text(MARKUP)
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("dialog")).to_contain_text("2 of 24")
    tab.keyboard.press("Escape")
    expect(tiles.nth(1)).to_be_focused()
    second = page.images()[1]
    tab.keyboard.press("Enter")
    tab.get_by_role("button", name="Search like this").last.click()
    page.wait_for_images(ranked(index, index.points([second])[0]))
    assert f"image={second}" in tab.url
    tab.go_back()
    tab.wait_for_url("**image=*")


def test_a_point_of_the_disk_shows_its_thumbnail_and_marks_its_result(visit):
    tab = visit("?q=a+red+thing").tab
    tab.locator(".result-point").last.focus()  # the first result is drawn last
    expect(tab.locator(".peek img")).to_be_visible()
    expect(tab.locator("li.pointed b")).to_have_text("1")


def test_texts_that_are_met_say_what_they_are(visit):
    tab = visit().tab
    kinds = {"caption": "a <b>", "class": "Gull", "family": "Gull (3 classes)", "all": "all", "root": None}
    met = [
        {"share": number / 5, "text": text, "kind": kind, "place": [0, 0]}
        for number, (kind, text) in enumerate(kinds.items())
    ]

    def altered(route):
        answer = route.fetch().json()
        answer["path"] |= {"met": met, "filter": "radius"}
        answer["query"]["unknown"] = ["grene"]
        route.fulfill(json=answer)

    tab.route("**/api/search", altered)
    tab.locator("#text").fill("a green thing")
    tab.locator("#text").press("Enter")
    said = [
        "a <b>0%", "Gullclass20%", "Gull (3 classes)family40%", "all captionsaverage60%", "everything (the root)80%",
    ]  # fmt: skip
    expect(tab.locator("#met li")).to_have_text(said)
    expect(tab.locator("#met p")).to_contain_text("at least as near to the root")
    expect(tab.locator("#text-note")).to_contain_text("grene")


def test_matches_have_signs_beside_colours(visit, index):
    page = visit("?image=0")
    marks = [page.tab.locator(f"li[data-image='{image}'] .mark").text_content() for image in page.images()]
    assert marks == ["✓" if index.labels[image] == index.labels[0] else "✗" for image in page.images()]
    expect(page.tab.locator(".tile").first).to_have_accessible_name(re.compile("same class$"))


def test_the_language_is_switched_and_remembered(visit):
    page = visit("?q=a+red+thing")
    tab = page.tab
    tab.get_by_role("button", name="中文").click()
    expect(tab.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(tab.locator("#walk-title")).to_have_text("抽象程度")
    expect(tab.locator(".about p")).to_contain_text("24 个结果")
    tab.goto(page.address)
    expect(tab.get_by_role("button", name="English")).to_be_visible()
    other = visit("", locale="zh-CN").tab
    expect(other.locator("html")).to_have_attribute("lang", "zh-CN")


def test_two_indexes_stand_side_by_side_and_share_a_query_of_an_image(visit, folders, index):
    tab = visit("?image=3").tab
    tab.get_by_label("Side by side with").select_option("groups")
    expect(tab.locator(".pane")).to_have_count(2)
    expect(tab.locator(".pane").nth(1).locator("li[data-image]")).to_have_count(24)
    other = open_index(folders[1])
    first = int(tab.locator(".pane").nth(1).locator("li[data-image]").first.get_attribute("data-image"))
    # The copy is a small JPEG, so a very similar image may come before the image itself.
    assert other.names[first].split("/")[0] == index.names[3].split("/")[0]
    tab.locator("#text").fill("a red thing")
    tab.keyboard.press("Enter")
    expect(tab.locator(".pane").nth(1)).to_contain_text("HypGCD reads no text")
    expect(tab.locator(".pane").nth(1).locator("li[data-image]")).to_have_count(0)
    expect(tab.get_by_role("alert")).to_be_empty()


def test_a_group_is_renamed_in_place_and_the_branches_collapse(visit, folders):
    tab = visit().tab
    tab.get_by_role("tab", name="Groups").click()
    rows = tab.locator(".cluster")
    rows.first.wait_for()
    name = rows.first.locator(".name")
    expect(rows).to_have_count(3)
    expect(rows.first.locator("img")).to_have_count(8)
    number = int(rows.first.get_attribute("data-cluster"))
    name.click()
    tab.keyboard.type("<i>gulls</i>")
    tab.keyboard.press("Enter")
    expect(name).to_contain_text("<i>gulls</i>")
    expect(name).to_be_focused()
    assert open_index(folders[1]).cluster_names[number] == "<i>gulls</i>"
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Export CSV").click()
    assert "<i>gulls</i>" in download.value.path().read_text(encoding="utf-8")
    root = tab.get_by_role("treeitem").first
    root.press("ArrowLeft")
    expect(rows).to_have_count(1)
    root.press("ArrowRight")
    expect(rows).to_have_count(3)


def test_a_server_that_has_gone_is_awaited(visit):
    page = visit("?q=a+red+thing")
    tab = page.tab
    page.context.set_offline(True)
    tab.locator("#generality").press("End")
    expect(tab.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    tab.get_by_role("button", name="Try now").click()
    expect(tab.get_by_role("alert")).to_be_empty()
    expect(tab.locator("#announcement")).not_to_be_empty()
    assert all("ERR_INTERNET_DISCONNECTED" in line for line in page.wrong)  # logged by the browser itself
    page.wrong.clear()


@pytest.mark.parametrize(("width", "language"), [(1280, "en"), (390, "zh")])
def test_nothing_is_wider_than_the_window(visit, width, language):
    page = visit(f"?q=a+red+thing&language={language}", width=width)
    assert page.overflow() <= 0
    page.tab.locator("#words button").first.click()
    page.tab.locator("#viewer .frame canvas").wait_for()
    assert page.overflow() <= 0
    page.tab.keyboard.press("Escape")
    page.tab.locator("#tab-groups").click()
    page.tab.locator(".cluster").first.wait_for()
    assert page.overflow() <= 0
