"""Starts the server: opens the indexes and the address, prints where the page is, and ends with Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from meru.errors import UserError
from meru.files import os_error_message, user_path

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

TOKEN = r"[A-Za-z0-9_-]{16,200}"  # what a cookie and an address can hold as it is
_LEAVING_SECONDS = 5  # for answers that are being sent


def serve(
    folders: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    hide_heads: str | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        folders: Of indexes.
        host: The address to listen at. Beyond this machine, requests need a token.
        port: 0 takes a free one.
        token: None: none on this machine, a random one beyond it.
        hide_heads: As for `meru.page.thumbnails.Thumbnails`.

    Raises:
        UserError: if a package is missing, the address cannot be used, or an index does not fit its model.
    """
    require_packages()

    from meru.page.app import Page, make_app
    from meru.page.decoding import Decoder
    from meru.page.guard import LOOPBACK
    from meru.page.reading import Limits

    here = is_loopback(host)
    if token is not None and not re.fullmatch(TOKEN, token):
        raise UserError("token: give at least 16 letters, digits, - or _; without token= the server makes one")
    token = token or (None if here else secrets.token_urlsafe(24))
    with listening_socket(host, port) as listener:
        limits = Limits()
        decoder = Decoder(maximum_pixels=limits.upload_pixels)
        page = Page(open_engines(folders), limits=limits, decoder=decoder, hide_heads=hide_heads)
        page.decoder.start()
        port = listener.getsockname()[1]
        app = make_app(page, hosts=(*LOOPBACK, host.lower()) if here else None, token=token, port=port)
        print(f"search page: {address(host, port, token)} (Ctrl-C ends it)", flush=True)
        try:
            with suppress(KeyboardInterrupt), _sigterm_as_interrupt():
                server_of(app).run(sockets=[listener])
        finally:
            page.close()
    print("search page: ended", flush=True)


def server_of(app: ASGIApp) -> uvicorn.Server:
    """The server of an application."""
    import uvicorn

    from meru.page.connections import Connection

    config = uvicorn.Config(
        app, http=Connection, ws="none", log_level="error", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=2_000, timeout_graceful_shutdown=_LEAVING_SECONDS,
    )  # fmt: skip
    return uvicorn.Server(config)


def require_packages() -> None:
    """Raise `UserError` if a package of the server is missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"the search page needs {error.name}: pip install starlette uvicorn") from None


def open_engines(folders: Sequence[str]) -> list:
    """The indexes with their models, loaded and compared with the indexes.

    Raises:
        UserError: if an index cannot be opened, or its model is not the one it was made with.
    """
    from meru.index.asking import Asker
    from meru.index.folder import open_index
    from meru.page.engine import Engine

    engines: list[Engine] = []
    for folder, identifier in zip(folders, identifiers(folders), strict=True):
        index = open_index(user_path(folder))
        engine = Engine(identifier, index, Asker(index))
        engine.warm_up()
        engines.append(engine)
    return engines


def identifiers(folders: Sequence[str]) -> list[str]:
    """A short name for each folder, all different, of characters that addresses hold as they are."""
    found: list[str] = []
    for folder in folders:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(user_path(folder)).name)[:60] or "index"
        number, name = 2, plain
        while name in found:
            name, number = f"{plain}_{number}", number + 1
        found.append(name)
    return found


def is_loopback(host: str) -> bool:
    """Whether an address is reached only from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        UserError: if another program does, or the address is not this machine's.
    """
    where = f"host={host} port={port}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{where}: {host} is no address: {_short(error)}") from None
    try:
        if os.name == "posix":  # so that a server can start again at once; elsewhere it would share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        advice = "choose another port, or end the program that has it" if port else "choose another host"
        raise UserError(f"{where}: cannot listen there: {_short(error)}: {advice}") from None
    return listener


def _short(error: Exception) -> str:
    return os_error_message(error) if isinstance(error, OSError) else str(error)


def address(host: str, port: int, token: str | None) -> str:
    """The page's address as it is pasted into a browser."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C: uvicorn answers what it has begun, then raises the signal again."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
