"""What every request passes first: the names that the server answers to, other sites' pages, the token; and headers.

A browser sends requests for any page that it shows, so a page of another site could talk to a server on this machine.
Such requests are known by their headers `Host` (when the other site's name was pointed at this machine), `Origin` and
`Sec-Fetch-Site`, which pages cannot set.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meru.page.answers import Refused, refusal

SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD")


class Guard:
    """Refuses what must not reach the application, and adds the headers of security to every answer.

    Args:
        app: The application.
        hosts: Names that requests may call the server by; None: any.
        token: What requests must show, in a cookie or in `?token=`; None: nothing.
        port: Of the server. Cookies are shared between the ports of a machine, so it is in the cookie's name.
    """

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...] | None, token: str | None, port: int):
        self.app, self.hosts, self.token, self.cookie = app, hosts, token, f"meru_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers, cookies = Headers(scope=scope), []

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    answer[name] = value
                for cookie in cookies:
                    answer.append("set-cookie", cookie)
            await send(message)

        answer: ASGIApp = self.app
        try:
            self._check_names(scope, headers)
            if self.token is not None:
                answer = self._with_token(scope, headers, cookies) or self.app
        except Refused as refused:
            answer = refusal(refused)
        await answer(scope, receive, secured)

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise Refused(421, f"this server is not called so: open it as {self.hosts[0]}")
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if scope["method"] in _SAFE and not scope["path"].startswith("/api/"):
            return  # a link on another page may lead here
        if site not in (None, "same-origin", "none"):
            raise Refused(403, "a page of another site sent this request: use the server's own page")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise Refused(403, "a page of another origin sent this request: use the server's own page")

    def _with_token(self, scope: Scope, headers: Headers, cookies: list[str]) -> Response | None:
        """Check the token; a new one is kept in a cookie, and the page's address is opened again without it."""
        try:
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise Refused(400, "the address has too many parameters") from None
        given = [value for name, value in query if name == "token"]
        if given and self._is_token(given[-1]):
            cookies.append(f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            if scope["method"] in _SAFE and scope["path"] == "/":
                rest = urlencode([(name, value) for name, value in query if name != "token"])
                return RedirectResponse(f"/?{rest}" if rest else "/", status_code=303)
            return None
        if given or not self._is_token(_cookie(headers, self.cookie)):
            raise Refused(401, "open the address that the server printed at its start, which ends with ?token=…")
        return None

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), str(self.token).encode())


def _name(host: str) -> str:
    """The name in a `Host` header without port, in lower case; of an IPv6 address without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _cookie(headers: Headers, name: str) -> str:
    """The value of a cookie, or ""; those of other programs on the same machine may have any form."""
    pairs = (pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
    return next((value for key, _, value in pairs if key == name), "")
