"""Requests of every wrong form get one line and a status, and the server lives on."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_page import FakePage, refusal_of

from meru.page.reading import JSON_BYTES


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return FakePage(tmp_path_factory.mktemp("page"))


def asked(page, **values):
    return page.client.post("/api/search", json={"index": "tiny", "text": "red", **values})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"index":' * 6_000, "nested too deeply"),
        (b'{"index": "tiny", "image": ' + b"9" * 6_000 + b"}", "not JSON"),
        (b'{"index": "tiny", "image": 1, "generality": NaN}', "NaN"),
        (b'{"index": "tiny", "image": 1, "generality": -Infinity}', "-Infinity"),
        (b'{"index": "tiny", "image": 1, "generality": 1e999}', "no number from 0 to 1"),
        (b'{"index": "tiny", "image": 1, "image": 2}', "twice"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(page, body, told):
    assert told in refusal_of(page.client.post("/api/search", content=body), 400)


@pytest.mark.parametrize(
    ("values", "status", "told"),
    [
        ({"topp": 3}, 400, "unknown key topp: this address takes index, text,"),
        ({"__class__": 1, "\u202e\x1b[31m": 2}, 400, "unknown key __class__, [31m"),
        ({"index": None}, 400, "index is missing"),
        ({"index": ["tiny"]}, 400, "index is missing or no short text"),
        ({"index": "../../etc"}, 404, "there is no index of this name: choose one of tiny"),
        ({"index": "x" * 101}, 400, "index"),
        ({"text": None}, 400, "exactly one of text, upload and image, not 0"),
        ({"image": 3}, 400, "exactly one of text, upload and image, not 2"),
        ({"text": 5}, 400, "text is missing or no text"),
        ({"text": ["red"]}, 400, "text is missing or no text"),
        ({"text": ""}, 422, "text is empty"),
        ({"text": " \n\t\x00\x1f "}, 422, "text is empty"),
        ({"text": "!?"}, 422, "no word"),
        ({"text": "r" * 501}, 422, "501 characters, more than 500"),
        ({"text": None, "image": True}, 400, "image is missing or no whole number"),
        ({"text": None, "image": 1.0}, 400, "no whole number"),
        ({"text": None, "image": "1"}, 400, "no whole number"),
        ({"text": None, "image": -1}, 400, "no whole number from 0"),
        ({"text": None, "image": 10**13}, 400, "no whole number"),
        ({"text": None, "upload": "../../etc/passwd"}, 404, "upload the image again"),
        ({"text": None, "upload": 3}, 400, "upload is missing or no short text"),
        ({"top": 0}, 400, "top is missing or no whole number from 1 to 100"),
        ({"top": 101}, 400, "from 1 to 100"),
        ({"top": None}, 400, "top"),
        ({"top": True}, 400, "top"),
        ({"generality": -0.01}, 400, "no number from 0 to 1"),
        ({"generality": 1.01}, 400, "no number from 0 to 1"),
        ({"generality": True}, 400, "no number from 0 to 1"),
        ({"generality": "0.5"}, 400, "no number from 0 to 1"),
        ({"cloud": "yes"}, 400, "cloud is neither true nor false"),
    ],
)
def test_a_wrong_value_is_named(page, values, status, told):
    assert told in refusal_of(asked(page, **values), status)


def test_half_of_a_surrogate_pair_is_no_text(page):
    body = b'{"index": "tiny", "text": "red \\ud83d"}'
    assert "surrogate" in refusal_of(page.client.post("/api/search", content=body), 422)
    assert asked(page, text="red \U0001f426").status_code == 200


def test_control_characters_become_spaces(page):
    words = asked(page, text="a\x00 red\x1b[0m\u2028bird\n\u202e").json()["query"]["words"]
    assert words == ["a", "red", "[0m", "bird"]


def test_a_text_of_a_million_characters_is_refused_before_it_is_read_whole(page):
    answer = asked(page, text="r" * 1_000_000)
    assert f"more than {JSON_BYTES:,} bytes" in refusal_of(answer, 413)
    assert asked(page, text="r" * 500).status_code == 200


def test_a_body_of_unknown_length_is_stopped_at_the_limit(page):
    sent = []

    def parts():
        for number in range(10_000):
            sent.append(number)
            yield b" " * 10_000

    assert refusal_of(page.client.post("/api/search", content=parts()), 413)


def test_a_length_that_is_no_length_harms_nothing(page):
    body = json.dumps({"index": "tiny", "text": "red"})
    for length in ("9" * 30, "-1", "x"):
        answer = page.client.post("/api/search", content=body, headers={"content-length": length})
        assert answer.status_code in (200, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/search", 405),
        ("DELETE", "/api/state", 405),
        ("PUT", "/", 405),
        ("GET", "/api/none", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/static/..%2f..%2fapp.py", 404),
        ("GET", "/static//etc/passwd", 404),
        ("GET", "/static/%00", 404),
    ],
)
def test_an_unknown_address_is_one_line(page, method, path, status):
    refusal_of(page.client.request(method, path), status)


@pytest.mark.parametrize(
    "values", [{"text": "red"}, {"text": "red", "image": 0, "upload": "x"}, {"image": 0}, {"text": "", "image": 0}]
)
def test_attention_needs_a_text_and_one_image(page, values):
    answer = page.client.post("/api/attention", json={"index": "tiny", **values})
    assert answer.status_code in (400, 422) and "error" in answer.json()


def test_a_model_that_fails_is_one_line_without_its_details_and_the_next_request_is_answered(page, caplog):
    page.asker.failing = True
    told = refusal_of(asked(page, text="a text not asked before"), 500)
    page.asker.failing = False
    assert "weights" not in told and "its own output says why" in told
    assert "/api/search failed: RuntimeError: the weights are gone from a second line" in caplog.text
    assert asked(page, text="a text not asked before").status_code == 200


def test_names_of_files_that_are_no_unicode_can_be_answered(tmp_path):
    page = FakePage(tmp_path)
    page.engine.names[0] = "red/\udcff.png"
    names = [result["name"] for result in page.search(image=0, top=12)["results"]]
    assert "red/?.png" in names
