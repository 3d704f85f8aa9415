"""Many requests at once: answered, queued or told to come again, and memory is bounded."""

import asyncio
import threading

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx
from fake_page import FakePage, image_file

from meru.page.app import make_app


def at_once(page, count, request):
    """The answers to `count` requests that are sent at the same time."""

    async def send():
        app = make_app(page.page, hosts=None, token=None, port=8080)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080") as client:
            return await asyncio.gather(*(request(client, number) for number in range(count)))

    return asyncio.run(send())


def search(client, number):
    return client.post("/api/search", json={"index": "tiny", "text": f"a red bird {number}", "top": 3})


class Counted:
    """Counts how many calls of a function run at once."""

    def __init__(self, function):
        self.function, self.now, self.most, self.turn = function, 0, 0, threading.Lock()
        self.calls = 0

    def __call__(self, *arguments):
        with self.turn:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self.function(*arguments)
        finally:
            with self.turn:
                self.now -= 1


def test_sixty_queries_at_once_are_all_answered_by_few_threads(tmp_path):
    page = FakePage(tmp_path, workers=2, waiting=100)
    counted = page.engine.search = Counted(page.engine.search)
    answers = at_once(page, 60, search)
    assert [answer.status_code for answer in answers] == [200] * 60
    assert 1 <= counted.most <= 2 and page.page.model_gate._inside == 0
    assert all(answer.json()["query"]["words"][-1] == str(number) for number, answer in enumerate(answers))


def test_beyond_the_queue_requests_are_told_to_come_again(tmp_path):
    page = FakePage(tmp_path, workers=1, waiting=5)
    answers = at_once(page, 60, search)
    served = [answer for answer in answers if answer.status_code == 200]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(served) == 6 and len(busy) == 54
    assert {answer.headers["retry-after"] for answer in busy} == {"2"} and "try again" in busy[0].json()["error"]
    assert at_once(page, 1, search)[0].status_code == 200


def test_what_is_kept_stays_bounded_under_many_queries(tmp_path, monkeypatch):
    monkeypatch.setattr("meru.page.engine.REMEMBERED", 10)
    page = FakePage(tmp_path)
    at_once(page, 40, search)
    assert len(page.engine._starts) == 10


def test_uploads_beyond_the_queue_are_told_to_come_again_before_their_bytes_are_read(tmp_path):
    page = FakePage(tmp_path)
    page.upload(image_file())  # starts the worker

    async def upload(client, number):
        async def slowly():
            await asyncio.sleep(0.05)
            yield image_file()

        return await client.post("/api/upload", content=slowly())

    statuses = [answer.status_code for answer in at_once(page, 20, upload)]
    assert statuses.count(200) == 8 and statuses.count(503) == 12
    assert page.upload(image_file()).status_code == 200


def test_a_client_that_left_costs_no_search(tmp_path):
    page = FakePage(tmp_path, workers=1)
    counted = page.engine.search = Counted(page.engine.search)
    body = b'{"index": "tiny", "text": "red"}'
    scope = {
        "type": "http", "method": "POST", "path": "/api/search", "query_string": b"", "headers": [], "root_path": "",
        "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    waiting = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive():
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    async def send(message):
        pass

    asyncio.run(make_app(page.page, hosts=None, token=None, port=8080)(scope, receive, send))
    assert counted.calls == 0


def test_an_answer_holds_nothing_of_another_thread_up(tmp_path):
    """While a model computes, the state and small images are answered."""
    page = FakePage(tmp_path, workers=1)
    begun, go_on = threading.Event(), threading.Event()
    embed = page.asker.embed_text

    def slow(text):
        begun.set()
        go_on.wait(20)
        return embed(text)

    page.asker.embed_text = slow

    async def request(client, number):
        if number == 0:
            return await search(client, 0)
        while not begun.is_set():
            await asyncio.sleep(0.01)
        answer = await client.get("/api/thumbnail/tiny/0" if number == 1 else "/api/state")
        if number == 2:
            go_on.set()
        return answer

    assert [answer.status_code for answer in at_once(page, 3, request)] == [200] * 3
