"""Uploads: ordinary images are kept; large, slow and false ones are refused, and the server lives on."""

import os
import signal
import struct
import threading
import time
import zlib

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_page import LIMITS, FakePage, decoder, image_file, refusal_of

from meru.page.answers import Refused
from meru.page.decoding import SIDE, Decoded, Decoder
from meru.page.uploads import Uploads


@pytest.fixture
def page(tmp_path):
    return FakePage(tmp_path)


def png(width, height, body=b""):
    """A PNG file with a header of any size."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_of_each_kind_is_kept_and_searched_by(page, kind):
    answer = page.upload(image_file(kind, colour="blue")).json()
    assert (answer["width"], answer["height"]) == (40, 30)
    thumbnail = page.client.get(f"/api/upload/{answer['upload']}")
    assert thumbnail.headers["content-type"] == "image/jpeg" and thumbnail.content.startswith(b"\xff\xd8")
    found = page.search(upload=answer["upload"], top=3)
    assert [result["label"] for result in found["results"]] == ["blue"] * 3
    assert found["query"]["words"] == [] and found["query"]["label"] is None


def test_an_upload_is_embedded_once(page):
    upload = page.upload(image_file()).json()["upload"]
    for share in (0, 0.3, 0.6):
        page.search(upload=upload, generality=share)
    assert page.asker.embedded == 1


def test_a_photograph_is_kept_upright_and_reduced(page):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    answer = page.upload(image_file("JPEG", size=(1200, 600), exif=exif)).json()
    assert (answer["width"], answer["height"]) == (600, 1200)
    assert tuple(page.page.uploads[answer["upload"]].image.shape) == (3, SIDE, SIDE // 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"not an image", "no image of a known kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image of a known kind"),
        (b"\x89PNG\r\n\x1a\n", "the upload"),
        (image_file("JPEG")[:-200], "the upload"),
        (png(60_000, 60_000), "more than 1,000,000 pixels"),
        (png(30_000, 30_000, zlib.compress(bytes(3_751 * 30_000), 9)), "more than 1,000,000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "more than 1,000,000 pixels"),
        (png(0, 0), "the upload"),
        (image_file("JPEG", size=(1200, 1000)), "more than 1,000,000 pixels"),
        (image_file("GIF", size=(1200, 1000)), "more than 1,000,000 pixels"),
        (image_file("PPM"), "no image of a known kind"),
    ],
    ids=[
        "empty", "text", "svg", "eps", "cut PNG", "cut JPEG", "huge PNG", "bomb", "greatest PNG", "no size", "JPEG",
        "GIF", "PPM",
    ],
)  # fmt: skip
def test_what_is_no_ordinary_image_is_refused_in_one_line(page, content, told):
    line = refusal_of(page.upload(content), 422)
    assert told in line and "data." not in line and "/" not in line
    assert len(page.page.uploads) == 0 and page.upload(image_file()).status_code == 200


def test_an_upload_is_stopped_at_its_limit_whatever_its_length_is_said_to_be(page):
    taken = []

    def endless():
        while len(taken) < 1_000:
            taken.append(1)
            yield bytes(50_000)

    line = f"more than {LIMITS.upload_bytes:,} bytes"
    assert line in refusal_of(page.upload(endless()), 413)
    assert line in refusal_of(page.upload(bytes(LIMITS.upload_bytes + 1)), 413)
    assert line in refusal_of(page.upload(b"x", headers={"content-length": "9" * 12}), 413)
    assert page.upload(image_file(), headers={"content-length": "3"}).status_code == 200


def test_more_bytes_than_the_limit_are_read_only_so_far_that_the_sender_hears_the_answer(page):
    import asyncio

    from starlette.requests import Request

    from meru.page.reading import GENEROSITY, read_body

    received = []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": bytes(1_000), "more_body": True}

    with pytest.raises(Refused, match="more than 2,000 bytes"):
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 2_000, "it"))
    assert len(received) == 2 * GENEROSITY + 1


def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch):
    import asyncio

    from starlette.requests import Request

    from meru.page import reading

    monkeypatch.setattr(reading, "SECONDS", 0.05)

    async def receive():
        await asyncio.sleep(60)

    with pytest.raises(Refused, match="took more than") as caught:
        asyncio.run(reading.read_body(Request({"type": "http", "headers": []}, receive), 2_000, "it"))
    assert caught.value.status == 408


def test_a_body_that_breaks_off_is_no_upload():
    import asyncio

    from starlette.requests import Request

    from meru.page.reading import read_body

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(Refused, match="ended before its last byte"):
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 2_000, "it"))


def test_only_so_many_uploads_are_kept_and_those_used_last_stay():
    uploads = Uploads(most=3)
    names = [uploads.keep(Decoded(number, 1, None, b"")) for number in range(3)]
    assert uploads[names[0]].height == 0
    names.append(uploads.keep(Decoded(3, 1, None, b"")))
    assert len(uploads) == 3 and uploads[names[0]].height == 0
    with pytest.raises(Refused, match="upload the image again"):
        uploads[names[1]]
    assert len(set(names)) == 4 and all(len(name) >= 16 for name in names)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_decoder_that_takes_too_long_is_killed_and_replaced():
    worker = decoder()
    worker.decode(image_file())
    before = worker.process
    os.kill(before.pid, signal.SIGSTOP)
    worker.seconds, seconds = 0.2, worker.seconds
    try:
        with pytest.raises(Refused, match="takes more than"):
            worker.decode(image_file())
    finally:
        worker.seconds = seconds
    assert before.exitcode == -signal.SIGKILL
    assert worker.decode(image_file()).width == 40 and worker.process.pid != before.pid


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_a_decoder_that_dies_at_an_image_is_replaced():
    worker = decoder()
    worker.decode(image_file())
    os.kill(worker.process.pid, signal.SIGSTOP)  # so that it dies before it answers
    threading.Timer(0.1, worker.process.kill).start()
    with pytest.raises(Refused, match="within the limits"):
        worker.decode(image_file())
    assert worker.decode(image_file()).width == 40


def test_the_memory_of_a_decoder_is_limited(tmp_path):
    pytest.importorskip("resource")
    import subprocess
    import sys

    code = "from meru.page.decoding import limit_memory; limit_memory(2**26); bytearray(2**28)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MemoryError" in ended.stderr or not os.path.exists("/proc/self/statm")


def test_a_worker_ends_with_the_server(tmp_path):
    import subprocess
    import sys

    code = (
        "import os, sys\n"
        "from meru.page.decoding import Decoder\n"
        "if __name__ == '__main__':\n"
        "    decoder = Decoder(maximum_pixels=100); decoder.start()\n"
        "    print(decoder.process.pid, flush=True); os._exit(0)\n"
    )
    script = tmp_path / "server.py"
    script.write_text(code)
    pid = int(subprocess.run([sys.executable, str(script)], capture_output=True, text=True).stdout)
    until = time.monotonic() + 60
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(pid)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not os.path.exists(f"/proc/{pid}/stat") or open(f"/proc/{pid}/stat").read().split()[2] != "Z"


def test_a_closed_decoder_leaves_no_process():
    worker = Decoder(maximum_pixels=100)
    worker.start()
    process = worker.process
    worker.close()
    assert process.exitcode is not None and worker.process is None
