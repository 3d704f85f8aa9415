"""The real server over indexes of tiny runs, and a real browser that watches what a page does behind its back."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import torch
from conftest import composed
from PIL import Image, ImageDraw

from meru.index.building import Wanted, build_index
from meru.runs.train import train

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 40), "blue": (40, 40, 200)}
MARKUP = "<img src=x onerror=alert(1)>.png"  # a file name that must stay a name
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # no sandbox for root in a container, no picture on a screen, no call to the maker's services
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def make_indexes(folder: Path) -> list[Path]:
    """Indexes of a MERU run and of a HypGCD run on 24 drawn images of three classes, all of which HypGCD finds."""
    photos = folder / "photos"
    for number in range(24):
        name = list(COLOURS)[number % 3]
        path = photos / name / (MARKUP if number == 0 else f"{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (60, 44 + number % 4), "white")
        ImageDraw.Draw(image).ellipse([8 + number % 5, 6, 40, 36], fill=COLOURS[name])
        image.save(path)
    small = ("data.batch_size=8", "data.workers=0", "logger=none")
    runs = {
        "meru": (
            "experiment=own_meru", f"data.path={photos}", "data.kind=class_folders", "data.test_fraction=0",
            "encoder.text.architecture=L1_W16_A2", "encoder.image.image_size=96",
            "trainer.epochs=1",
        ),
        "groups": (
            "experiment=own_hypgcd", f"data.root={photos}", "data.old_classes=[red,blue]", "model.projection_width=16",
            "model.projection_dimension=8", "encoder.image.image_size=32", "trainer.epochs=8",
            "optim.learning_rate=0.02",
        ),
    }  # fmt: skip
    for name, words in runs.items():
        train(composed(*words, *small, f"folder={folder / 'runs' / name}"), device=torch.device("cpu"))
        run, output = str(folder / "runs" / name), str(folder / name)
        build_index(Wanted(run=run, images=str(photos), output=output, workers=0))
    return [folder / name for name in runs]


@contextlib.contextmanager
def served(folders: list[Path]) -> Iterator[str]:
    """The address of a server of these indexes, in a thread of this process."""
    import uvicorn

    from meru.page.app import Page, make_app
    from meru.page.decoding import Decoder
    from meru.page.reading import Limits
    from meru.page.serving import listening_socket, open_engines

    limits = Limits()
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        engines = open_engines([str(folder) for folder in folders])
        page = Page(engines, limits=limits, decoder=Decoder(maximum_pixels=10**6))
        page.decoder.start()
        app = make_app(page, hosts=("127.0.0.1",), token=None, port=port)
        config = uvicorn.Config(app, http="h11", ws="none", log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(10)
            page.close()


def browser_path() -> str | None:
    """The program of an installed browser; Ubuntu's `chromium-browser` may only say how to install one."""
    paths = [path for name in BROWSERS if (path := shutil.which(name))]
    works = (path for path in paths if subprocess.run([path, "--version"], capture_output=True).returncode == 0)
    return next(works, None)


class Watched:
    """A tab of the browser that remembers errors of its console, requests to other hosts, and breaches of the policy.

    Args:
        browser: Of playwright.
        address: Of the page.
        width: Of the window, in pixels.
        options: Of the context, such as `locale`.
    """

    def __init__(self, browser, address: str, width: int, **options):
        self.address, self.wrong = address, []
        self.context = browser.new_context(viewport={"width": width, "height": 800}, **{"locale": "en-US", **options})
        self.context.set_default_timeout(8_000)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda line: line.type in ("error", "warning") and self.wrong.append(line.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.wrong.append("a script of a name ran"), dialog.dismiss()))
        self.tab.on("request", self._check_host)
        self.tab.add_init_script(
            "addEventListener('securitypolicyviolation', event => console.error('policy', event.violatedDirective))"
        )

    def _check_host(self, request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and address.netloc != urlsplit(self.address).netloc:
            self.wrong.append(f"request to {request.url}")

    def open(self, query: str = "") -> Watched:
        """Open the page and wait for its first results."""
        self.tab.goto(self.address + query)
        self.tab.locator("li[data-image]").first.wait_for()
        return self

    def images(self) -> list[int]:
        """The images in the grid, best first."""
        return [int(item.get_attribute("data-image")) for item in self.tab.locator(".results > li").all()]

    def wait_for_images(self, images: list[int]) -> None:
        """Wait until the grid shows exactly these images, in this order."""
        self.tab.wait_for_function(
            "wanted => JSON.stringify([...document.querySelectorAll('.results > li')].map(li => +li.dataset.image))"
            " === JSON.stringify(wanted)",
            arg=images,
        )

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.tab.evaluate("document.scrollingElement.scrollWidth - innerWidth")
