"""What the server answers: JSON in UTF-8, and refusals of one line."""

from __future__ import annotations

import json

from starlette.responses import Response


class Refused(Exception):
    """A request that is not served, in one line.

    Args:
        status: The HTTP status, 400 or above.
        message: What is wrong with the request, and what to do; no paths of the server's machine.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, " ".join(message.split()), headers or {}


class Json(Response):
    """JSON that browsers do not keep; names of files that are no text get a question mark for what is not."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200, headers: dict[str, str] | None = None):
        super().__init__(content, status_code, {"cache-control": "no-store", **(headers or {})})

    def render(self, content: object) -> bytes:
        """The bytes of the body; NaN and infinity, which JSON lacks, raise ValueError."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def refusal(refused: Refused) -> Json:
    """The answer that says why a request is not served."""
    return Json({"error": refused.message}, refused.status, refused.headers)
