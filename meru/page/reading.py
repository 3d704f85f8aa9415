"""Reads requests: bodies up to a limit, JSON of known keys, whole numbers, texts that a tokenizer can take."""

from __future__ import annotations

import json
import math
import time
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field

import anyio
from starlette.requests import ClientDisconnect, Request

from meru.page.answers import Refused

JSON_BYTES = 64 * 1024
SECONDS = 30.0  # that a body may take to arrive
_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
GENEROSITY = 4  # times the limit that are read and dropped, so that browsers see the answer instead of a broken line


@dataclass(frozen=True)
class Limits:
    """What a request may bring.

    Attributes:
        text_characters: Of a query.
        name_characters: Of the name of a cluster.
        upload_bytes: Of an image file.
        upload_pixels: Of an image, by its header.
        top: Results of a search.
    """

    text_characters: int = 500
    name_characters: int = 80
    upload_bytes: int = 20 * 2**20
    upload_pixels: int = 50_000_000
    top: int = 100


@dataclass(frozen=True)
class Question:
    """A request to search, checked. Exactly one of `text`, `upload` and `image` is not None.

    Attributes:
        index: Id of an index.
        text: The query.
        upload: Id of an uploaded image.
        image: Place of an image in the index.
        generality: Share of the way from the query to the root, in [0, 1].
        top: Number of results.
        cloud: Whether the answer has places of other images, too.
    """

    index: str
    text: str | None = None
    upload: str | None = None
    image: int | None = None
    generality: float = 0.0
    top: int = 20
    cloud: bool = False


@dataclass
class _Body:
    size: int = 0
    parts: list[bytes] = field(default_factory=list)


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The body of a request, which is refused as soon as it is longer than `limit` bytes, whatever its header says.

    Raises:
        Refused: 413 for too many bytes, 408 if they come too slowly, 400 if the connection ends before them.
    """
    stated = request.headers.get("content-length", "")
    too_long = Refused(413, f"{what} has more than {limit:,} bytes: send a smaller one", {"connection": "close"})
    if stated.isdecimal() and (len(stated) > 15 or int(stated) > GENEROSITY * limit):
        raise too_long
    body = _Body()
    try:
        with anyio.fail_after(SECONDS):
            async for part in request.stream():
                body.size += len(part)
                if body.size <= limit:
                    body.parts.append(part)
                else:
                    body.parts.clear()
                    if body.size > GENEROSITY * limit:
                        break
    except TimeoutError:
        raise Refused(408, f"{what} took more than {SECONDS:.0f} s to arrive", {"connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, f"{what} ended before its last byte") from None
    if body.size > limit:
        raise too_long
    return b"".join(body.parts)


async def read_json(request: Request, known: Collection[str]) -> dict[str, object]:
    """The JSON object in the body of a request, of which only `known` keys are taken.

    Raises:
        Refused: for anything else.
    """
    body = await read_body(request, JSON_BYTES, "the request")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_each_key_once)
    except Refused:
        raise
    except RecursionError:
        raise Refused(400, "the request is nested too deeply: send one JSON object") from None
    except ValueError as error:  # also UnicodeDecodeError, and numbers of more than 4,300 digits
        raise Refused(400, f"the request is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a JSON object")
    if unknown := sorted(set(found) - set(known)):
        named = printable(", ".join(unknown)[:100])
        raise Refused(400, f"unknown key {named}: this address takes {', '.join(known)}")
    return found


def _no_constant(name: str) -> None:
    raise Refused(400, f"the request has {name}, which is no JSON number")


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) < len(pairs):
        raise Refused(400, "the request has a key twice")
    return found


def question(asked: dict[str, object], limits: Limits) -> Question:
    """A request to search, with every value checked.

    Raises:
        Refused: for a missing key, or a value of the wrong type or out of its range.
    """
    subjects = [key for key in ("text", "upload", "image") if asked.get(key) is not None]
    if len(subjects) != 1:
        raise Refused(400, f"give exactly one of text, upload and image, not {len(subjects)} of them")
    cloud = asked.get("cloud", False)
    if not isinstance(cloud, bool):
        raise Refused(400, "cloud is neither true nor false")
    return Question(
        index=name_in(asked, "index"),
        text=text_in(asked, "text", limits.text_characters) if subjects == ["text"] else None,
        upload=name_in(asked, "upload") if subjects == ["upload"] else None,
        image=whole_in(asked, "image") if subjects == ["image"] else None,
        generality=share_in(asked, "generality"),
        top=whole_in(asked, "top", low=1, high=limits.top) if "top" in asked else min(20, limits.top),
        cloud=cloud,
    )


def text_in(asked: dict[str, object], key: str, longest: int) -> str:
    """A text of one line: control characters become spaces, and spaces are not repeated.

    Raises:
        Refused: if it is missing, empty, longer than `longest` characters, or no valid Unicode.
    """
    text = asked.get(key)
    if not isinstance(text, str):
        raise Refused(400, f"{key} is missing or no text")
    if len(text) > longest:
        raise Refused(422, f"{key} has {len(text):,} characters, more than {longest:,}: shorten it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Refused(422, f"{key} has half of a surrogate pair, which is no character")
    if not (plain := printable(text)):
        raise Refused(422, f"{key} is empty: write something")
    return plain


def printable(text: str) -> str:
    """The text on one line, without characters that control terminals or the direction of other text."""
    kept = (" " if unicodedata.category(each) in ("Cc", "Cs") or each in _DIRECTIONS else each for each in text)
    return " ".join("".join(kept).split())


def name_in(asked: dict[str, object], key: str) -> str:
    """An id.

    Raises:
        Refused: if it is missing or no short text.
    """
    name = asked.get(key)
    if not isinstance(name, str) or not 0 < len(name) <= 100:
        raise Refused(400, f"{key} is missing or no short text")
    return name


def whole_in(asked: dict[str, object], key: str, *, low: int = 0, high: int = 10**12) -> int:
    """A whole number from `low` to `high`.

    Raises:
        Refused: for anything else.
    """
    number = asked.get(key)
    if type(number) is not int or not low <= number <= high:
        raise Refused(400, f"{key} is missing or no whole number from {low} to {high}")
    return number


def share_in(asked: dict[str, object], key: str) -> float:
    """A number in [0, 1], by default 0.

    Raises:
        Refused: for anything else.
    """
    share = asked.get(key, 0.0)
    if type(share) not in (int, float) or not math.isfinite(share) or not 0 <= share <= 1:
        raise Refused(400, f"{key} is no number from 0 to 1")
    return float(share)


def whole_number(text: str, what: str, *, low: int = 0, high: int = 10**12) -> int:
    """A whole number from an address.

    Raises:
        Refused: for anything else.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 13 and low <= int(text) <= high):
        raise Refused(400, f"{what} is no whole number from {low} to {high}")
    return int(text)


def milliseconds_since(start: float) -> float:
    """Time since a reading of `time.perf_counter`, in milliseconds with one decimal."""
    return round(1000 * (time.perf_counter() - start), 1)
