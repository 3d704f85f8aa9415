"""Every route of the page with invented answers, so that the front end can be written: `python -m meru.page.stub [port]`."""

from __future__ import annotations

import io
import math
import random
import sys
from pathlib import Path

import uvicorn
from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
SUGGESTIONS = ["a red bird with a black face", "a small yellow bird", "a white bird with long wings", "a blue bird"]
INDEXES = [
    dict(id="meru_0", name="meru_0", model="MERU", space="hyperboloid", curvature=0.9, images=5902, has_text=True,
         attends=False, labels="class", clusters=False, suggestions=SUGGESTIONS),
    dict(id="clip_0", name="clip_0", model="CLIP", space="sphere", curvature=None, images=5902, has_text=True,
         attends=False, labels="class", clusters=False, suggestions=SUGGESTIONS),
    dict(id="gahr_0", name="persons_gahr_0", model="GAHR", space="hyperboloid", curvature=1.0, images=800,
         has_text=True, attends=True, labels="identity", clusters=False, suggestions=["a man in a red coat"]),
    dict(id="hypgcd_0", name="hypgcd_0", model="HypGCD", space="hyperboloid", curvature=1.0, images=960,
         has_text=False, attends=False, labels="class", clusters=True, suggestions=[]),
]
names = {}
uploads = {}


def error(status, text, **headers):
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def spot(seed, radius=None):
    r = random.Random(seed)
    radius, angle = radius or r.uniform(0.5, 0.9), r.uniform(0, 2 * math.pi)
    return [radius * math.cos(angle), radius * math.sin(angle)]


async def state(request):
    limits = {"text_characters": 500, "upload_bytes": 10 * 2**20, "upload_pixels": 40_000_000, "top": 100}
    return JSONResponse({"indexes": INDEXES, "limits": limits, "version": "0.1.0"})


async def search(request):
    asked = await request.json()
    index = next((index for index in INDEXES if index["id"] == asked.get("index")), None)
    if index is None:
        return error(404, f"no such index: {asked.get('index')}")
    text, top, share = asked.get("text"), asked.get("top", 20), asked.get("generality", 0.0)
    if text is not None and not text.strip():
        return error(422, "text is empty: write what to search for")
    label = None if text else "Cardinal"
    place = spot(str(asked.get("text")), 0.8)
    results = [
        dict(image=image, name=f"{image:03d}.Black_footed_Albatross/{image}.jpg", score=-0.5 - 0.01 * i - share,
             radius=1.0 + 0.01 * i, place=spot(image), label=random.choice(["Cardinal", "Northern Flicker"]),
             match=(i % 3 == 0) if label else None)
        for i, image in enumerate(random.Random(f"{text}{round(share, 1)}").sample(range(index["images"]), top))
    ]
    shares = [i / 20 for i in range(21)]
    met = [dict(share=0.0, text=text or "a red bird with a black face", place=place),
           dict(share=0.3, text="a red bird", place=[c * 0.7 for c in place]),
           dict(share=0.6, text="a bird", place=[c * 0.4 for c in place]), dict(share=0.9, text=None, place=[0, 0])]
    answer = {
        "query": dict(words=(text or "").split(), radius=1.2, place=place, cut=max(0, len((text or "").split()) - 60),
                      label=label),
        "results": results,
        "path": dict(points=[[c * (1 - s) for c in place] for s in shares], shares=shares, met=met),
        "milliseconds": {"embed": 12.5, "search": 1.5},
    }
    if asked.get("cloud"):
        answer["cloud"] = [dict(image=i * 9 % index["images"], place=spot(i * 9)) for i in range(600)]
    return JSONResponse(answer)


def drawn(number, size=256):
    image = Image.new("RGB", (size, int(size * (0.75 + number % 5 * 0.1))), f"hsl({number * 37 % 360}, 50%, 60%)")
    ImageDraw.Draw(image).text((10, 10), str(number), fill="white", font_size=size // 5)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


async def thumbnail(request):
    number = request.path_params["place"]
    if number >= 5902:
        return error(404, f"image {number} is not in the index")
    size = int(request.query_params.get("size", 256))
    return Response(drawn(number, size), media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


async def upload(request):
    body = await request.body()
    try:
        image = Image.open(io.BytesIO(body)).convert("RGB")
    except Exception:
        return error(422, "the upload is not an image")
    file = io.BytesIO()
    image.thumbnail((256, 256))
    image.save(file, "JPEG")
    uploads[name := f"u{len(uploads)}"] = file.getvalue()
    return JSONResponse({"upload": name, "width": image.width, "height": image.height})


async def uploaded(request):
    if request.path_params["upload"] not in uploads:
        return error(404, "this upload is gone: upload the image again")
    return Response(uploads[request.path_params["upload"]], media_type="image/jpeg")


async def attention(request):
    asked = await request.json()
    words = asked["text"].split()
    weights = []
    for word in words:
        x, y = spot(word, 2.5)
        raw = [math.exp(-((i % 7 - 3 - x) ** 2 + (i // 7 - 3 - y) ** 2) / 4) for i in range(49)]
        weights.append([round(value / max(raw), 4) for value in raw])
    note = "this model does not train attention: the similarities of words and patches are shown"
    return JSONResponse(dict(words=words, rows=7, columns=7, weights=weights,
                             note=None if asked["index"] == "gahr_0" else note))


def cluster(number):
    return dict(cluster=number, name=names.get(number), size=40 - number % 17,
                images=random.Random(number).sample(range(960), 12), label=f"Species {number}")


async def clusters(request):
    start, count = int(request.query_params.get("start", 0)), int(request.query_params.get("count", 30))
    tree = {"cluster": 0, "height": 0}
    for number in range(1, 48):
        tree = {"children": [tree, {"cluster": number, "height": 0}], "height": number / 20}
    return JSONResponse({"total": 48, "clusters": [cluster(n) for n in range(48)[start : start + count]], "tree": tree})


async def rename(request):
    asked = await request.json()
    names[asked["cluster"]] = asked["name"] or None
    return JSONResponse(cluster(asked["cluster"]))


async def export(request):
    rows = "image,cluster,name\r\n" + "".join(f"{i}.jpg,{i % 48},{names.get(i % 48) or ''}\r\n" for i in range(960))
    return Response(rows, media_type="text/csv",
                    headers={"Content-Disposition": 'attachment; filename="clusters.csv"'})


async def home(request):
    return FileResponse(STATIC / "index.html")


class Secured:
    """Adds the headers that the page will have, so that the front end meets the content security policy."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def sending(message):
            if message["type"] == "http.response.start":
                message["headers"] += [(key.lower().encode(), value.encode()) for key, value in SECURITY.items()]
            await send(message)

        await self.app(scope, receive, sending)


app = Secured(
    Starlette(
        routes=[
            Route("/", home),
            Route("/api/state", state),
            Route("/api/search", search, methods=["POST"]),
            Route("/api/thumbnail/{index}/{place:int}", thumbnail),
            Route("/api/upload", upload, methods=["POST"]),
            Route("/api/upload/{upload}", uploaded),
            Route("/api/attention", attention, methods=["POST"]),
            Route("/api/clusters/{index}", clusters),
            Route("/api/clusters/{index}", rename, methods=["POST"]),
            Route("/api/clusters/{index}/export", export),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ]
    )
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
