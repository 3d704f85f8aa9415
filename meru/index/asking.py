"""Questions to an index: its model embeds texts and images, and shows what a word looks at."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from meru import distributed
from meru.assemble import Pretrained
from meru.data.inputs import Picture, image_tensor
from meru.encoders.sizes import grid_of
from meru.errors import UserError
from meru.evaluation.examples import attention_of_words
from meru.index.embedding import Embedding
from meru.index.folder import Index
from meru.sources.opening import load


class Asker:
    """Embeds queries for an index by the model that made it.

    Args:
        index: The index.
    """

    def __init__(self, index: Index):
        self.index = index
        self._lock = Lock()

    @cached_property
    def embedding(self) -> Embedding:
        """The model, loaded at the first use.

        Raises:
            UserError: if it cannot be loaded, or is not the one that made the index.
        """
        source = self.index.facts.source
        embedding = Embedding.of(load(source))
        if embedding.fingerprint != self.index.facts.fingerprint:
            raise UserError(
                f"index={self.index.folder} was made by another model than {source} is now: make it again with "
                f"scripts/index.py run={source}"
            )
        embedding.pretrained.to(distributed.start())
        return embedding

    def load(self) -> Pretrained:
        """The model, its tokenizer and transforms; safe to call from several threads."""
        with self._lock:
            return self.embedding.pretrained

    def embed_text(self, text: str) -> Tensor:
        """The point `(D,)` of a sentence.

        Raises:
            UserError: if the model has no text tower, or there is no word in the sentence.
        """
        self._require_text()
        if not self.words(text):
            raise UserError("the query holds no word")
        return self.embedding.texts([text])[0]

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Points `(n, D)` of sentences."""
        self._require_text()
        return self.embedding.texts(texts)

    def embed_image(self, image: Picture) -> Tensor:
        """The point `(D,)` of an image: a path, an image of Pillow, or uint8 `(3, H, W)`."""
        prepared = self.load().transforms.evaluation(image_tensor(image))
        return self.embedding.images(prepared[None])[0][0]

    def words(self, text: str) -> list[str]:
        """The words of a sentence as the model reads them, without those beyond its context."""
        tokenizer = self.load().tokenizer
        return [word for word, _ in tokenizer.words(tokenizer(text))]

    def count_cut(self, text: str) -> int:
        """Number of words of a sentence that are beyond the context, and therefore not read."""
        tokenizer = self.load().tokenizer
        if not tokenizer.count_cut([text]):
            return 0
        return max(1, len(tokenizer.words(torch.tensor(tokenizer.encoded(text)))) - len(self.words(text)))

    def word_attention(self, image: Picture, text: str) -> tuple[list[str], Tensor]:
        """Relevance of each patch of an image to each word; only the order of the values has a meaning.

        Returns:
            The words, and their values `(K, rows, columns)`.

        Raises:
            UserError: if the model has no text tower, or gives no features of patches.
        """
        self._require_text()
        pretrained = self.load()
        if not hasattr(pretrained.model, "word_attention"):
            raise UserError(f"{type(pretrained.model).__name__} has no attention of words")
        picture, words, weights = attention_of_words(pretrained, image_tensor(image), text)
        rows, columns = grid_of(weights.shape[-1], tuple(picture.shape[1:]))
        return words, weights.float().cpu().unflatten(1, (rows, columns))

    def _require_text(self) -> None:
        if self.load().tokenizer is None:
            raise UserError(f"index={self.index.folder}: its model has no text tower, so it is searched by images only")
