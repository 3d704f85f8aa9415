"""A page with a fake index, and a client of it. Needs starlette and httpx: tests begin with `pytest.importorskip`."""

from __future__ import annotations

import atexit
import functools
import io
from pathlib import Path

from fake_index import FakeAsker, FakeIndex
from PIL import Image
from starlette.testclient import TestClient

from meru.page.app import Page, make_app
from meru.page.decoding import Decoder
from meru.page.engine import Engine
from meru.page.reading import Limits

LIMITS = Limits(upload_bytes=200_000, upload_pixels=1_000_000)


class FakePage:
    """A page of one index, `tiny`.

    Args:
        folder: An empty folder.
        curved: As for `FakeIndex`.
        options: Of `Page`.
    """

    def __init__(self, folder: Path, *, curved: bool = True, **options):
        self.index = FakeIndex(folder / "index", curved=curved)
        self.asker = FakeAsker(self.index)
        self.engine = Engine("tiny", self.index, self.asker)
        self.page = Page([self.engine], limits=LIMITS, decoder=decoder(), **options)
        self.client = self.client_of()

    def client_of(self, *, hosts=("127.0.0.1", "localhost", "::1"), token=None, **options) -> TestClient:
        """A client, which does not tell the application of its end, so that the worker lives on for other tests."""
        app = make_app(self.page, hosts=hosts, token=token, port=8080)
        return TestClient(app, base_url="http://127.0.0.1:8080", **options)

    def search(self, **asked):
        """The answer to a search in the index."""
        answer = self.client.post("/api/search", json={"index": "tiny", **asked})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, content: bytes, **options):
        """The response to an upload."""
        return self.client.post("/api/upload", content=content, **options)


@functools.cache
def decoder() -> Decoder:
    """One worker for all tests; it starts at the first upload."""
    decoder = Decoder(maximum_pixels=LIMITS.upload_pixels, seconds=20)
    atexit.register(decoder.close)
    return decoder


def image_file(kind="PNG", size=(40, 30), colour="red", **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)
    return file.getvalue()


def refusal_of(answer, status: int) -> str:
    """The one line of an answer that refuses."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert list(told) == ["error"] and "\n" not in told["error"] and len(told["error"]) < 400
    return told["error"]
