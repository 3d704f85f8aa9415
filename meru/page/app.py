"""The routes of the page: which request is answered by what."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import meru
from meru.errors import UserError
from meru.optional_part import reason_of
from meru.page import reading
from meru.page.answers import Json, Refused, refusal
from meru.page.clusters import Clusters
from meru.page.decoding import Decoder
from meru.page.engine import Engine
from meru.page.gate import Gate
from meru.page.guard import Guard
from meru.page.reading import Limits
from meru.page.thumbnails import SIZES, Thumbnails
from meru.page.uploads import Uploads

log = logging.getLogger("meru")

STATIC = Path(__file__).parent / "static"
CLUSTERS_AT_ONCE = 100
QUESTION_KEYS = ("index", "text", "upload", "image", "generality", "top", "cloud")
Handler = Callable[[Request], Awaitable[Response]]


class Page:
    """The handlers of all routes, and what they share.

    Args:
        engines: Indexes with their models; their identifiers differ.
        limits: What a request may bring.
        decoder: Decodes uploads.
        workers: Searches that are computed at once.
        waiting: Searches that wait beside those, before more are refused.
        hide_heads: As for `Thumbnails`.
    """

    def __init__(
        self,
        engines: Iterable[Engine],
        *,
        limits: Limits,
        decoder: Decoder,
        workers: int = 2,
        waiting: int = 256,
        hide_heads: str | None = None,
    ):
        self.engines = {engine.identifier: engine for engine in engines}
        self.clusters = {name: Clusters(engine) for name, engine in self.engines.items()}
        self.limits, self.decoder = limits, decoder
        folders = {name: Path(engine.index.facts.images) for name, engine in self.engines.items()}
        self.uploads, self.thumbnails = Uploads(), Thumbnails(hide_heads=hide_heads, folders=folders)
        self.model_gate = Gate(workers, waiting, "search")
        self.file_gate = Gate(2, 4 * waiting, "thumbnail")
        self.upload_gate = Gate(1, 7, "upload")

    async def home(self, request: Request) -> Response:
        """The page."""
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def state(self, request: Request) -> Response:
        """What there is to search in, and the limits."""
        limits = {
            "text_characters": self.limits.text_characters,
            "upload_bytes": self.limits.upload_bytes,
            "upload_pixels": self.limits.upload_pixels,
            "top": self.limits.top,
        }
        indexes = [engine.describe() for engine in self.engines.values()]
        times = Counter(index["name"] for index in indexes)
        for index in indexes:
            if times[index["name"]] > 1:  # of the same model
                index["name"] = f"{index['name']} ({index['id']})"
        return Json({"indexes": indexes, "limits": limits, "version": meru.__version__})

    async def search(self, request: Request) -> Response:
        """The results of a query, and its way to the root."""
        asked = reading.question(await reading.read_json(request, QUESTION_KEYS), self.limits)
        engine = self._engine(asked.index)
        upload = self.uploads[asked.upload] if asked.upload is not None else None
        return Json(await self.model_gate.run(request, engine.search, asked, upload))

    async def attention(self, request: Request) -> Response:
        """Where the words of a text look in an image."""
        asked = await reading.read_json(request, ("index", "text", "image", "upload"))
        engine = self._engine(reading.name_in(asked, "index"))
        text = reading.text_in(asked, "text", self.limits.text_characters)
        if (asked.get("image") is None) == (asked.get("upload") is None):
            raise Refused(400, "give either image or upload")
        image = reading.whole_in(asked, "image") if asked.get("image") is not None else None
        upload = self.uploads[reading.name_in(asked, "upload")] if image is None else None

        def attend() -> dict:
            return engine.attention(text, image=image, upload=upload)

        return Json(await self.model_gate.run(request, attend))

    async def thumbnail(self, request: Request) -> Response:
        """A small image of the index."""
        engine = self._engine(request.path_params["index"])
        place = reading.whole_number(request.path_params["place"], "the number of the image")
        size = reading.whole_number(request.query_params.get("size", "256"), "size")
        if size not in SIZES:
            raise Refused(400, f"size={size}: choose one of {', '.join(map(str, SIZES))}")
        known = request.headers.get("if-none-match", "")

        def make():
            return self.thumbnails.get(engine.identifier, engine.index, place, size=size, known=known)

        made = await self.file_gate.run(request, make)
        headers = {"etag": made.tag, "cache-control": "private, max-age=300"}
        if made.content is None:
            return Response(status_code=304, headers=headers)
        return Response(made.content, media_type="image/jpeg", headers=headers)

    async def upload(self, request: Request) -> Response:
        """Keep an image to search by."""
        async with self.upload_gate.place():
            content = await reading.read_body(request, self.limits.upload_bytes, "the upload")
            if not content:
                raise Refused(422, "the upload is empty: send the bytes of an image file")
            image = await self.upload_gate.run_inside(request, self.decoder.decode, content)
        return Json({"upload": self.uploads.keep(image), "width": image.width, "height": image.height})

    async def uploaded(self, request: Request) -> Response:
        """A small image of an upload."""
        thumbnail = self.uploads[request.path_params["upload"]].thumbnail
        return Response(thumbnail, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def cluster_page(self, request: Request) -> Response:
        """Some of the clusters of an index, and their tree."""
        clusters = self._clusters(request)
        start = reading.whole_number(request.query_params.get("start", "0"), "start")
        asked = request.query_params.get("count", "30")
        count = reading.whole_number(asked, "count", low=1, high=CLUSTERS_AT_ONCE)
        return Json(await self.model_gate.run(request, clusters.page, start, count))

    async def rename(self, request: Request) -> Response:
        """Give a cluster a name; an empty one takes it away."""
        clusters = self._clusters(request)
        asked = await reading.read_json(request, ("cluster", "name"))
        cluster = reading.whole_in(asked, "cluster", low=-1)
        name = "" if asked.get("name") == "" else reading.text_in(asked, "name", self.limits.name_characters)
        return Json(await self.model_gate.run(request, clusters.rename, cluster, name))

    async def export(self, request: Request) -> Response:
        """The clusters of all images as a table."""
        clusters = self._clusters(request)
        headers = {"content-disposition": 'attachment; filename="clusters.csv"', "cache-control": "no-store"}
        return StreamingResponse(clusters.table(), media_type="text/csv; charset=utf-8", headers=headers)

    def _engine(self, identifier: str) -> Engine:
        if identifier not in self.engines:
            raise Refused(404, f"there is no index of this name: choose one of {', '.join(self.engines)}")
        return self.engines[identifier]

    def _clusters(self, request: Request) -> Clusters:
        engine = self._engine(request.path_params["index"])
        clusters = self.clusters[engine.identifier]
        clusters.require()
        return clusters

    def close(self) -> None:
        """End the worker and start nothing any more."""
        for gate in (self.model_gate, self.file_gate, self.upload_gate):
            gate.close()
        self.decoder.close()


def make_app(page: Page, *, hosts: tuple[str, ...] | None, token: str | None, port: int) -> ASGIApp:
    """The application for a server.

    Args:
        page: Answers the requests; it is closed with the application.
        hosts, token, port: Of `Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        page.close()

    routes = [
        Route("/", answered(page.home)),
        Route("/api/state", answered(page.state)),
        Route("/api/search", answered(page.search), methods=["POST"]),
        Route("/api/attention", answered(page.attention), methods=["POST"]),
        Route("/api/thumbnail/{index}/{place}", answered(page.thumbnail)),
        Route("/api/upload", answered(page.upload), methods=["POST"]),
        Route("/api/upload/{upload}", answered(page.uploaded)),
        Route("/api/clusters/{index}", answered(page.cluster_page)),
        Route("/api/clusters/{index}", answered(page.rename), methods=["POST"]),
        Route("/api/clusters/{index}/export", answered(page.export)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _unknown_address})
    return Guard(app, hosts=hosts, token=token, port=port)


def answered(handler: Handler) -> Handler:
    """The handler, with one line of JSON for everything that goes wrong in it; the server lives on."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as refused:
            return refusal(refused)
        except Exception as error:  # a model or a disk may fail in any way
            log.error("%s failed: %s", request.url.path, reason_of(error), exc_info=not isinstance(error, UserError))
            return refusal(Refused(500, "the server failed at this request; its own output says why"))

    return answer


async def _unknown_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return refusal(Refused(405, f"{request.method} is not answered at this address", dict(error.headers or {})))
    return refusal(Refused(error.status_code, f"there is nothing at this address ({error.detail})"))
