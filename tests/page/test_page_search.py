"""Searches of the page: results, the way to the root, labels, and what the slider costs."""

import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_index import FakeAsker, FakeIndex
from fake_page import FakePage, image_file, refusal_of

from meru.page import engine
from meru.page.engine import Engine
from meru.page.reading import Question


@pytest.fixture
def page(tmp_path):
    return FakePage(tmp_path)


def test_the_state_says_what_can_be_searched_and_how_much_may_be_sent(page):
    state = page.client.get("/api/state").json()
    (entry,) = state["indexes"]
    assert entry["id"] == "tiny" and entry["images"] == 12 and entry["curvature"] == 1.0
    assert (entry["has_text"], entry["attends"], entry["labels"], entry["clusters"]) == (True, False, "class", True)
    assert 1 <= len(entry["suggestions"]) <= 8 and set(entry["suggestions"]) <= set(page.index.texts)
    assert state["limits"] == {
        "text_characters": 500, "upload_bytes": 200_000, "upload_pixels": 1_000_000, "top": 100,
    }  # fmt: skip


def test_a_text_finds_the_images_that_it_describes_best_first(page):
    found = page.search(text="a large blue bird", top=4)
    assert [result["label"] for result in found["results"]] == ["blue"] * 4
    scores = [result["score"] for result in found["results"]]
    assert scores == sorted(scores, reverse=True)
    first = found["results"][0]
    assert first["name"] == page.index.names[first["image"]]
    assert first["radius"] == pytest.approx(page.index.space.radius(page.index.points([first["image"]])).item())
    assert found["query"]["words"] == ["a", "large", "blue", "bird"]
    assert all(x * x + y * y < 1 for x, y in [first["place"], found["query"]["place"], *found["path"]["points"]])


def test_an_image_of_the_index_finds_itself_first_and_its_class(page):
    found = page.search(image=5, top=12)
    assert found["results"][0]["image"] == 5 and found["query"]["label"] == "blue"
    assert [result["match"] for result in found["results"]] == [r["label"] == "blue" for r in found["results"]]


def test_a_caption_with_a_label_marks_matches_and_another_text_marks_nothing(page):
    assert {result["match"] for result in page.search(text="a red bird", top=12)["results"]} == {True, False}
    assert {result["match"] for result in page.search(text="a red thing", top=12)["results"]} == {None}


def test_images_without_a_label_match_neither_way(page):
    page.index.labels[0] = None
    results = {result["image"]: result for result in page.search(image=3, top=12)["results"]}
    assert results[0]["label"] is None and results[0]["match"] is None and results[6]["match"] is True


def test_the_slider_moves_the_query_to_the_root_and_embeds_it_only_once(page):
    radii = [page.search(text="a large red bird", generality=share)["query"]["radius"] for share in (0, 0.5, 1)]
    assert radii[0] > radii[1] > radii[2] and radii[2] == pytest.approx(0, abs=1e-5)
    assert page.asker.embedded == 1 and page.index.searches == 3


def test_the_way_meets_captions_and_ends_at_the_root(page):
    path = page.search(text="a large red bird")["path"]
    assert path["shares"][0] == 0 and path["shares"][-1] == 1 and len(path["points"]) == len(path["shares"])
    assert path["met"][-1]["text"] is None and {met["text"] for met in path["met"][:-1]} <= set(page.index.texts)
    shares = [met["share"] for met in path["met"]]
    assert shares == sorted(shares)


def test_a_model_without_a_radius_walks_too(tmp_path):
    flat = FakePage(tmp_path, curved=False)
    found = flat.search(text="a red bird", generality=0.7, cloud=True)
    assert found["query"]["radius"] == pytest.approx(1) and len(found["cloud"]) == 12


def test_the_cloud_comes_when_it_is_asked_for_and_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CLOUD", 5)
    page = FakePage(tmp_path)
    assert "cloud" not in page.search(text="red")
    cloud = page.search(text="red", cloud=True)["cloud"]
    assert [spot["image"] for spot in cloud] == [0, 2, 4, 7, 9]


def test_more_captions_than_the_walk_may_meet_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CAPTIONS", 3)
    page = FakePage(tmp_path)
    met = page.search(text="a large red bird")["path"]["met"]
    assert {step["text"] for step in met[:-1]} <= {page.index.texts[place] for place in (0, 3, 6)}


def test_queries_are_remembered_up_to_a_number(page, monkeypatch):
    monkeypatch.setattr(engine, "REMEMBERED", 2)
    for text in ("red", "green", "blue", "red"):
        page.search(text=text)
    assert page.asker.embedded == 4
    page.search(text="blue")
    assert page.asker.embedded == 4


def test_words_beyond_the_context_are_counted(page):
    assert page.search(text="red " * 11)["query"]["cut"] == 3


def test_an_index_without_captions_is_searched_and_meets_only_the_root(tmp_path):
    index = FakeIndex(tmp_path)
    index.texts, index.text_kinds, index.text_points = [], [], index.text_points[:0]
    answer = Engine("bare", index, FakeAsker(index)).search(Question("bare", text="a red bird"))
    assert [met["text"] for met in answer["path"]["met"]] == [None]


def test_captions_of_the_persons_in_an_index_are_suggested(tmp_path):
    index = FakeIndex(tmp_path)
    index.facts.class_kind = "identity"
    index.label_of_caption = {"a man in red": 0, "a woman of another index": 77}
    assert Engine("persons", index, FakeAsker(index)).describe()["suggestions"] == ["a man in red"]


def test_a_model_without_a_text_tower_says_so(page):
    page.index.facts.has_text = False
    answer = page.client.post("/api/search", json={"index": "tiny", "text": "red"})
    assert "search by an image" in refusal_of(answer, 422)
    assert page.search(image=0)["results"]
    assert Engine("tiny", page.index, page.asker).describe()["suggestions"] == []


def test_a_place_beyond_the_index_is_refused(page):
    answer = page.client.post("/api/search", json={"index": "tiny", "image": 12})
    assert "image 12 is not in the index: its images are 0 to 11" in refusal_of(answer, 404)


def test_a_query_without_a_finite_point_is_one_line(page, monkeypatch):
    monkeypatch.setattr(page.asker, "embed_text", lambda text: torch.full((4,), torch.nan))
    answer = page.client.post("/api/search", json={"index": "tiny", "text": "red"})
    assert "no finite point" in refusal_of(answer, 500)


def test_attention_is_what_a_word_looks_at_more_than_the_others(page):
    answer = page.client.post("/api/attention", json={"index": "tiny", "text": "a red bird", "image": 0}).json()
    assert (answer["words"], answer["rows"], answer["columns"]) == (["a", "red", "bird"], 2, 3)
    raw = page.asker.word_attention(None, "a red bird")[1].flatten(1)
    raw = (raw - raw.amin(1, keepdim=True)) / (raw.amax(1, keepdim=True) - raw.amin(1, keepdim=True))
    expected = (raw - raw.mean(0)).clamp_min(0) / (raw - raw.mean(0)).max()
    torch.testing.assert_close(torch.tensor(answer["weights"]), expected, atol=1e-4, rtol=0)
    assert "does not train attention" in answer["note"]


def test_attention_does_not_depend_on_the_scale_of_a_word(page, monkeypatch):
    asked = {"index": "tiny", "text": "a red bird", "image": 0}
    before = page.client.post("/api/attention", json=asked).json()["weights"]
    words, weights = page.asker.word_attention(None, "a red bird")
    scaled = 100 * weights * torch.tensor([1.0, 2, 3])[:, None, None] - 50
    monkeypatch.setattr(page.asker, "word_attention", lambda image, text: (words, scaled))
    after = page.client.post("/api/attention", json=asked).json()["weights"]
    torch.testing.assert_close(torch.tensor(after), torch.tensor(before), atol=2e-4, rtol=0)


def test_attention_of_one_word_is_shown_as_it_is_and_of_an_upload_too(page):
    upload = page.upload(image_file()).json()["upload"]
    page.index.facts.attends = True
    answer = page.client.post("/api/attention", json={"index": "tiny", "text": "red", "upload": upload}).json()
    (weights,) = answer["weights"]
    assert min(weights) == 0 and max(weights) == 1 and answer["note"] is None


def test_a_query_that_is_a_caption_meets_others_than_itself(tmp_path):
    index = FakeIndex(tmp_path)
    index.texts, index.text_kinds = ["a red bird", "a bird"], ["caption"] * 2
    # The first lies in its own cone only; the second is nearer to the root, but in another direction.
    asker = FakeAsker(index)
    other = index.space.lift(torch.tensor([0.25, 0.25, 0, 0.2]))
    index.text_points = torch.stack([asker.embed_text("a red bird"), other])
    path = Engine("tiny", index, asker).search(Question("tiny", text="a red bird"))["path"]
    assert path["filter"] == "radius" and [stage["text"] for stage in path["met"]] == ["a red bird", "a bird", None]


def test_a_space_without_cones_says_that_the_nearest_texts_are_met(tmp_path):
    assert FakePage(tmp_path, curved=False).search(text="a red bird")["path"]["filter"] == "none"


def test_averages_are_told_from_captions_and_suggested_never(tmp_path):
    index = FakeIndex(tmp_path)
    index.texts += ["a red bird", "all captions"]  # a class may be called as a caption is
    index.text_points = torch.cat([index.text_points, index.text_points[:1] / 2, index.text_points[:1] / 4])
    index.text_kinds = [*index.text_kinds, "class", "all"]
    tried = Engine("tiny", index, FakeAsker(index))
    assert "all captions" not in tried.describe()["suggestions"]
    answer = tried.search(Question("tiny", text="a red bird"))
    assert answer["query"]["label"] == "red"
    kinds = {stage["text"]: stage["kind"] for stage in answer["path"]["met"]}
    assert kinds["all captions"] == "all" and kinds[None] == "root"


def test_words_that_no_text_has_are_told_if_there_are_enough_texts(tmp_path, monkeypatch):
    asked = {"text": "a purple Bird, 红色的鸟 purple"}
    assert FakePage(tmp_path / "few").search(**asked)["query"]["unknown"] == []
    monkeypatch.setattr(engine, "ENOUGH_TEXTS", 5)
    page = FakePage(tmp_path / "many")
    assert page.search(**asked)["query"]["unknown"] == ["purple", "红色的鸟"]
    assert page.search(image=0)["query"]["unknown"] == []


@pytest.mark.parametrize("equal", [False, True])
def test_images_that_are_equally_far_from_the_root_are_told(tmp_path, equal):
    index = FakeIndex(tmp_path)
    if equal:
        index._points = index.space.lift(torch.nn.functional.normalize(torch.rand(12, 4), dim=1))
    assert Engine("tiny", index, FakeAsker(index)).describe()["equal_radii"] is equal


def test_indexes_of_one_model_are_told_apart_by_their_ids(tmp_path):
    page = FakePage(tmp_path)
    page.page.engines["second"] = Engine("second", page.index, page.asker)
    indexes = page.client.get("/api/state").json()["indexes"]
    assert [index["name"] for index in indexes] == ["tiny (tiny)", "tiny (second)"]
