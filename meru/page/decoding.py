"""Decodes uploaded images in a process of its own, which is killed when it takes too long or too much memory.

Decoders of images are large programs in C that read what strangers send. The worker decodes one image at a time; the
limits on pixels are checked in the header first, so that a small file cannot become a huge picture.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch
from torch import Tensor

from meru.page.answers import Refused

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SIDE = 768  # of what is kept: more than any tower reads
THUMBNAIL_SIDE = 256
STARTING_SECONDS = 120.0


class Decoded(NamedTuple):
    """An uploaded image.

    Attributes:
        height, width: Of the image as viewers show it.
        image: uint8 `(3, H, W)`, no side above `SIDE`.
        thumbnail: A JPEG file, no side above `THUMBNAIL_SIDE`.
    """

    height: int
    width: int
    image: Tensor
    thumbnail: bytes


class Decoder:
    """A worker process, started again whenever it had to be killed. Its methods may be called from several threads.

    Args:
        maximum_pixels: Of an image, by its header.
        seconds: That decoding one image may take.
        memory: Bytes that the worker may take beyond those it has after its start.
    """

    def __init__(self, *, maximum_pixels: int, seconds: float = 10.0, memory: int = 2**30):
        self.maximum_pixels, self.seconds, self.memory = maximum_pixels, seconds, memory
        self.process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._ready = False
        self._turn = threading.Lock()

    def start(self) -> None:
        """Start the worker, without waiting until it is ready."""
        with self._turn:
            self._start()

    def decode(self, content: bytes) -> Decoded:
        """Decode an image file.

        Raises:
            Refused: 422 if it is no image of a known kind, damaged, or has too many pixels; 422 if it takes too long or
                too much memory, which ends the worker.
        """
        with self._turn:
            answer = self._answer(content)
        if isinstance(answer, str):
            raise Refused(422, answer)
        height, width, shape, pixels, thumbnail = answer
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(shape)
        return Decoded(height, width, image, thumbnail)

    def close(self) -> None:
        """End the worker."""
        with self._turn:
            self._kill()

    def _answer(self, content: bytes):
        """What the worker says of a file: the parts of `Decoded`, or why there are none."""
        try:
            self._start()
            if not self._ready:
                if not self._connection.poll(STARTING_SECONDS):
                    raise EOFError
                self._connection.recv()
                self._ready = True
            self._connection.send_bytes(content)
            if self._connection.poll(self.seconds):
                return self._connection.recv()
            self._kill()
            return f"the image takes more than {self.seconds:.0f} s to decode: send it as an ordinary JPEG or PNG file"
        except (EOFError, OSError):  # it has died: of its limit of memory, or of a fault in a decoder
            self._kill()
            return "the image cannot be decoded within the limits: send it as an ordinary JPEG or PNG file"

    def _start(self) -> None:
        if self.process is not None and self.process.is_alive():
            return
        self._kill()
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may stand still
        self._connection, theirs = context.Pipe()
        limits = (self.maximum_pixels, self.memory)
        self.process = context.Process(target=decode_until_closed, args=(theirs, *limits), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self._connection.close()
        self.process, self._connection, self._ready = None, None, False


@contextlib.contextmanager
def _without_interrupts():
    """Start a process that Ctrl-C in the terminal does not reach: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def decode_until_closed(connection: Connection, maximum_pixels: int, memory: int) -> None:
    """The worker: answer each file until the other end of the connection is closed, as it is when the server dies."""
    from PIL import Image

    from meru.data import images  # noqa: F401 (before the memory is limited)

    Image.init()  # else `Image.open` does not know all kinds by name
    torch.set_num_threads(1)
    limit_memory(memory)
    connection.send("ready")
    while True:
        try:
            content = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send(_decoded_or_reason(content, maximum_pixels))


def limit_memory(more: int) -> None:
    """Let this process take at most `more` bytes beyond what it has, where the system can count that."""
    try:
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):  # not Linux
        pass


def _decoded_or_reason(content: bytes, maximum_pixels: int):
    from meru.errors import UserError

    try:
        return _decoded(bytearray(content), maximum_pixels)
    except UserError as error:
        from meru.data.images import OR_SKIP

        return str(error).removesuffix(OR_SKIP).removeprefix("image ")
    except MemoryError:
        return "the image takes too much memory to decode: send a smaller one"
    except Exception as error:  # decoders raise any kind of error for damaged files
        return f"the upload does not decode ({type(error).__name__})"


def _decoded(content: bytearray, maximum_pixels: int) -> tuple[int, int, tuple[int, ...], bytes, bytes]:
    import numpy
    from PIL import Image

    from meru.data.images import decode_content, image_size
    from meru.errors import UserError

    try:
        with Image.open(io.BytesIO(content), formats=[kind for kind in KINDS if kind in Image.OPEN]) as opened:
            pixels = opened.width * opened.height
    except Image.DecompressionBombError:
        pixels = maximum_pixels + 1
    except Image.UnidentifiedImageError:
        raise UserError(f"the upload is no image of a known kind: send one of {', '.join(KINDS)}") from None
    if pixels > maximum_pixels:
        raise UserError(f"the upload has more than {maximum_pixels:,} pixels: make it smaller")
    height, width = image_size("the upload", content=content, maximum_pixels=maximum_pixels)
    decoded = decode_content(content, "the upload", maximum_pixels=maximum_pixels)
    picture = Image.fromarray(decoded.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((SIDE, SIDE))
    pixels = numpy.asarray(picture).transpose(2, 0, 1)
    return height, width, pixels.shape, pixels.tobytes(), jpeg(picture, THUMBNAIL_SIDE)


def jpeg(picture, side: int) -> bytes:
    """A picture of Pillow as a JPEG file, no side above `side`."""
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
