"""The cache of the frozen part of a run's image tower."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from meru.data.cache_files import cache_folder, digest_of, image_facts
from meru.data.cached_rows import ViewsOfImages, stored_rows, transform_facts
from meru.data.loading import collate, reading_options
from meru.data.records import Images
from meru.data.views import Window
from meru.data.workers import Loader, loader_options, worker_options


class CachedViews:
    """Rows of a model's frozen part for views of images, from `data.cache`.

    Args:
        section: The configuration's section `data`.
        model: Has `frozen_part`, `frozen_output`, `pixel_mean` and `pixel_std`; with its pretrained weights.
        device: Of the model.

    Raises:
        UserError: if the tower has no frozen part, or cannot be split.
    """

    def __init__(self, section: Mapping, model: nn.Module, *, device: torch.device):
        self.section, self.model, self.device = section, model, device
        self.views = section["cached_views"]
        self._found: dict[str, Tensor] = {}
        pixels = [each.flatten().tolist() for each in (model.pixel_mean, model.pixel_std)]
        self.facts = (model.frozen_part.fingerprint(), model.frozen_part.shapes, pixels)

    @classmethod
    def of(cls, section: Mapping, model: nn.Module, *, device: torch.device) -> CachedViews | None:
        """The cache of a run; None if `data.cached_views` is 0 or missing, as in older runs."""
        return cls(section, model, device=device) if section.get("cached_views") else None

    def rows(
        self,
        images: Images,
        transform: nn.Module,
        *,
        what: str,
        views: int = 1,
        window: Callable[[int, int, int, int], Window] | None = None,
        window_facts: object = None,
    ) -> Tensor:
        """Rows `(n, views, F)`, float16, found or computed.

        Args:
            images: Files, or uint8 `(n, 3, H, W)`.
            transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`.
            what: Kind of the images, for the log.
            views: Views of each image; 1 for a transform without randomness.
            window: As for `ViewsOfImages`.
            window_facts: All that `window` depends on.
        """
        facts = digest_of((self.facts, image_facts(images), transform_facts(transform), window_facts))
        if facts in self._found:
            return self._found[facts]
        reading = {**reading_options(self.section), "on_error": "raise"}
        data = ViewsOfImages(images, transform=transform, views=views, window=window, **reading)
        shape = (len(images), views, self.model.frozen_part.width)
        described = f"{views} views of {len(images)} {what}" if views > 1 else f"{len(images)} {what}"
        self._found[facts] = stored_rows(
            cache_folder(self.section.get("cache")),
            facts,
            shape=shape,
            compute=lambda: self._computed(data, described),
            what=described,
        )
        return self._found[facts]

    @torch.no_grad()
    def _computed(self, data: ViewsOfImages, described: str) -> Iterator[Tensor]:
        was_training = self.model.training
        self.model.eval()
        loader = Loader(
            data,
            batch_size=max(1, 16 // data.views),  # small batches fit a CPU's cache; a GPU waits for the images anyway
            collate_fn=collate,
            **loader_options(**worker_options(self.section)),
        )
        # In a log file, a line that changes all the time would be a megabyte.
        every = 0.1 if sys.stderr.isatty() else 20.0
        with tqdm(total=len(data), desc=f"caching {described}", unit="image", mininterval=every) as progress:
            for batch in loader:
                images = batch["image"].flatten(0, 1).to(self.device, non_blocking=True)
                yield self.model.frozen_output(images).unflatten(0, (-1, data.views)).cpu()
                progress.update(len(batch["image"]))
        self.model.train(was_training)
