"""What reaches the page: its own browser windows; other sites' pages and strangers do not."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_page import FakePage, refusal_of

from meru.page.guard import Guard

TOKEN = "a-token-of-24-characters"
ASKED = {"index": "tiny", "text": "red"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return FakePage(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/nothing", "/static/none.js", "/api/thumbnail/tiny/0"])
def test_every_answer_has_the_headers_of_security(page, path):
    headers = page.client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'" and policy["img-src"] == "'self' blob: data:"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]:8080", "0"])
def test_another_name_of_this_machine_is_refused(page, host):
    assert "not called so" in refusal_of(page.client.get("/api/state", headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LOCALHOST:9000", "[::1]:8080", "localhost.:80"])
def test_the_own_names_are_answered_at_any_port_since_a_tunnel_may_have_another(page, host):
    assert page.client.get("/api/state", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:8080"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": ""},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_of_other_origins_are_refused_and_change_nothing(page, headers):
    named = page.client.post("/api/clusters/tiny", json={"cluster": 0, "name": "mine"}, headers=headers)
    assert "another" in refusal_of(named, 403)
    assert page.index.cluster_names == {}
    assert refusal_of(page.client.post("/api/search", json=ASKED, headers=headers), 403)
    assert refusal_of(page.client.post("/api/upload", content=b"x", headers=headers), 403)
    assert refusal_of(page.client.get("/api/clusters/tiny/export", headers=headers), 403)
    assert page.client.options("/api/search", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
)
def test_requests_of_the_own_page_and_of_programs_are_answered(page, headers):
    assert page.client.post("/api/search", json=ASKED, headers=headers).status_code == 200


def test_a_link_on_another_page_may_lead_to_the_page(page):
    assert page.client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/state", "/static/index.html", "/api/thumbnail/tiny/0", "/api/none"])
def test_with_a_token_nothing_is_answered_without_it(page, path):
    client = page.client_of(hosts=None, token=TOKEN)
    assert "?token=" in refusal_of(client.get(path), 401)
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "é", TOKEN.upper()):
        assert refusal_of(client.get(path, params={"token": wrong}), 401)
        assert refusal_of(client.get(path, headers={"cookie": f"meru_8080={wrong}".encode()}), 401)
    assert TOKEN not in client.get(path).text


def test_the_token_in_the_address_becomes_a_cookie_and_leaves_the_address(page):
    client = page.client_of(hosts=None, token=TOKEN, follow_redirects=False)
    answer = client.get("/", params={"lang": "zh", "token": TOKEN})
    assert answer.status_code == 303 and answer.headers["location"] == "/?lang=zh"
    assert answer.headers["set-cookie"] == f"meru_8080={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert client.get("/api/state").status_code == 200
    assert client.get("/", headers={"cookie": f"other=x=y; {{}}; meru_8080={TOKEN}"}).status_code == 200


def test_a_program_may_send_the_token_with_every_request(page):
    client = page.client_of(hosts=None, token=TOKEN)
    assert client.post("/api/search", params={"token": TOKEN}, json=ASKED).status_code == 200


def test_with_a_token_other_origins_are_refused_too_and_any_name_is_answered(page):
    client = page.client_of(hosts=None, token=TOKEN)
    name = {"host": "machine.example:8080"}
    assert client.get("/api/state", params={"token": TOKEN}, headers=name).status_code == 200
    answer = client.post("/api/search", params={"token": TOKEN}, json=ASKED, headers={"origin": "http://evil.example"})
    assert refusal_of(answer, 403)


def test_an_address_with_too_many_parameters_is_one_line(page):
    client = page.client_of(hosts=None, token=TOKEN)
    assert "too many parameters" in refusal_of(client.get("/?" + "a=1&" * 200), 400)


def test_the_token_is_compared_in_constant_time(page, monkeypatch):
    compared = []
    monkeypatch.setattr("secrets.compare_digest", lambda a, b: bool(compared.append((a, b))))
    assert page.client_of(token=TOKEN).get("/api/state", params={"token": "guess"}).status_code == 401
    assert (b"guess", TOKEN.encode()) in compared


def test_web_sockets_are_closed():
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(None, hosts=None, token=None, port=80)({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
