"""Uploaded images: in memory only, a bounded number, the oldest dropped first."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from meru.page.answers import Refused
from meru.page.decoding import Decoded

MOST = 32


class Uploads:
    """Images by ids that cannot be guessed.

    Args:
        most: Images that are kept.
    """

    def __init__(self, most: int = MOST):
        self._most, self._images = most, OrderedDict[str, Decoded]()
        self._turn = threading.Lock()

    def keep(self, image: Decoded) -> str:
        """The id under which an image is kept from now on."""
        name = secrets.token_urlsafe(12)
        with self._turn:
            self._images[name] = image
            while len(self._images) > self._most:
                self._images.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Decoded:
        """An image that is kept.

        Raises:
            Refused: 404 if it is not.
        """
        with self._turn:
            if name not in self._images:
                raise Refused(404, "this upload is not kept any more: upload the image again")
            self._images.move_to_end(name)
            return self._images[name]

    def __len__(self) -> int:
        return len(self._images)
