"""The text tower: CLIP's causal transformer on packed tokens, and CLIP's byte-pair tokenizer.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4.
Parameter names are those of the published MERU and CLIP checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meru.configuration.kinds import text_sizes
from meru.encoders.packing import PackedLayout
from meru.errors import UserError
from meru.layers.low_rank import LowRank

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


@cache
def _clip_vocabulary() -> SimpleTokenizer:
    """CLIP's merges, read once for all tokenizers of a process."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class CaptionTokenizer:
    """CLIP's byte-pair encoding of one caption, between a start-of-text and an end-of-text token.

    A caption longer than the context is cut after the last whole word that fits; the end token stays.

    Args:
        context_length: Most tokens kept, both special tokens included; at least 3.
    """

    def __init__(self, *, context_length: int = 77):
        self.context_length = context_length

    @property
    def _vocabulary(self) -> SimpleTokenizer:
        return _clip_vocabulary()

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens; end-of-text is the last one."""
        return self._vocabulary.vocab_size

    def __call__(self, caption: str | list[str]) -> Tensor:
        """Token ids, int64, of a caption `(L,)` with `2 <= L <= context_length`; of several captions see `batch`."""
        if not isinstance(caption, str):
            captions = list(caption)
            if not captions or not all(isinstance(each, str) for each in captions):
                raise UserError("captions: give a text, or a list of at least one")
            return self.batch(captions)
        vocabulary = self._vocabulary
        words = vocabulary.encode(caption)
        if len(words) > self.context_length - 2:
            words = words[: self.context_length - 2]
            whole = [i for i, word in enumerate(words) if vocabulary.decoder[word].endswith("</w>")]
            words = words[: whole[-1] + 1] if whole else words
        start, end = vocabulary.all_special_ids[:2]
        return torch.tensor([start, *words, end])

    def check(self, tokens: Tensor) -> None:
        """Refuse what is no batch of this tokenizer's ids, `(B, L)` with `L <= context_length`.

        Raises:
            UserError: the message says what is wrong.
        """
        if tokens.dim() != 2 or tokens.is_floating_point() or not tokens.numel():
            raise UserError(f"token ids are {tokens.dtype} of shape {tuple(tokens.shape)}: give whole numbers (B, L)")
        if tokens.shape[1] > self.context_length:
            raise UserError(f"{tokens.shape[1]} token ids a caption: this model reads {self.context_length}")
        least, most = int(tokens.min()), int(tokens.max())
        if least < 0 or most >= self.vocabulary_size:
            raise UserError(f"token ids from {least} to {most}: use the model's own tokenizer")

    def words(self, tokens: Tensor) -> list[tuple[str, int]]:
        """The words of token ids `(L,)`, in lower case, each with the position of its last token, which under causal
        attention is the first to depend on the whole word."""
        words, begun = [], ""
        letters = self._vocabulary.byte_decoder
        for position, token in enumerate(tokens.tolist()):
            piece = self._vocabulary.decoder[token]
            if token in self._vocabulary.all_special_ids:
                begun = ""
            elif piece.endswith("</w>"):
                whole = bytes(letters[letter] for letter in begun + piece.removesuffix("</w>"))
                words.append((whole.decode("utf-8", "replace"), position))
                begun = ""
            else:
                begun += piece
        return words

    def encoded(self, caption: str) -> list[int]:
        """Token ids of a whole caption, however long, without special tokens."""
        return self._vocabulary.encode(caption)

    def count_cut(self, captions: Iterable[str]) -> int:
        """The number of captions that are longer than the context and lose words."""
        room = self.context_length - 2
        # Every token has at least one character, so most captions need not be encoded for this.
        return sum(len(caption) > room and len(self._vocabulary.encode(caption)) > room for caption in captions)

    def batch(self, captions: list[str]) -> Tensor:
        """Token ids of several captions, int64, shape `(B, L)`, padded with 0 to the longest."""
        return nn.utils.rnn.pad_sequence([self(caption) for caption in captions], batch_first=True)


class ResidualBlock(nn.Module):
    """Pre-norm self-attention and MLP. `nn.MultiheadAttention` only holds the parameters, under CLIP's names.

    `dropout` is the share of attention weights set to 0 in training.
    """

    def __init__(self, *, width: int, heads: int, activation: nn.Module, dropout: float = 0.0):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=activation, c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, layout: PackedLayout) -> Tensor:
        """Every packed token attends to the tokens before it in its own caption: `(T, W)` → `(T, W)`."""
        projected = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        query, key, value = layout.unpack(projected).unflatten(-1, (3, self.attn.num_heads, -1)).unbind(2)
        # Padding is to the right of every real token, so the causal mask is sufficient.
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            dropout_p=self._dropout,
            is_causal=True,
        )
        x = x + self.attn.out_proj(layout.pack(attended.transpose(1, 2).flatten(2)))
        return x + self.mlp(self.ln_2(x))

    def forward_last(self, x: Tensor, layout: PackedLayout) -> Tensor:
        """The same for the end-of-text tokens alone, `(T, W)` → `(B, W)`: the block's other outputs are unused."""
        width, heads = x.shape[-1], self.attn.num_heads
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        normed = self.ln_1(x)
        query = F.linear(normed[layout.last], weight[:width], bias[:width]).unflatten(-1, (1, heads, -1))
        key_value = layout.unpack(F.linear(normed, weight[width:], bias[width:]))
        key, value = key_value.unflatten(-1, (2, heads, -1)).unbind(2)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=layout.real[:, None, None],
            dropout_p=self._dropout,
        )
        x = x[layout.last] + self.attn.out_proj(attended.transpose(1, 2).flatten(1))
        return x + self.mlp(self.ln_2(x))

    @property
    def _dropout(self) -> float:
        return self.attn.dropout if self.training else 0.0


class TextTransformer(nn.Module):
    """CLIP's causal text transformer; the caption's feature is taken at the end-of-text token.

    Args:
        architecture: Layers, width and heads as `L12_W512_A8`; without `A…` a head is 64 wide.
        vocabulary_size: Number of token ids.
        context_length: Number of positions.
        activation: `gelu`, or `quick_gelu` for the towers that OpenAI released.
        dropout: Share of attention weights set to 0 in training, in [0, 1).
        gradient_checkpointing: Save memory at the cost of a second forward pass.

    Raises:
        UserError: if the architecture string cannot be read, or for a dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        architecture: str = "L12_W512_A8",
        vocabulary_size: int = 49408,
        context_length: int = 77,
        activation: str = "gelu",
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        sizes = text_sizes(architecture)
        if sizes is None:
            raise UserError(
                f"encoder.text.architecture={architecture}: expected layers, width and heads like L12_W512_A8, "
                "the width a multiple of the heads, or of 64 without A…"
            )
        layers, self.width, heads = sizes
        if not 0 <= dropout < 1:
            raise UserError(f"encoder.text.dropout={dropout}: it must be at least 0 and below 1")
        self.context_length = context_length
        self.gradient_checkpointing = gradient_checkpointing
        self.token_embed = nn.Embedding(vocabulary_size, self.width)
        self.posit_embed = nn.Parameter(torch.empty(context_length, self.width))
        self.resblocks = nn.ModuleList(
            ResidualBlock(width=self.width, heads=heads, activation=_activation(activation), dropout=dropout)
            for _ in range(layers)
        )
        self.ln_final = nn.LayerNorm(self.width)
        # Attention uses `is_causal`; the mask is kept because published checkpoints contain it.
        mask = torch.ones(context_length, context_length, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("attn_mask", mask)
        self._initialise()

    def _initialise(self) -> None:
        """CLIP's initialisation: residual branches start small, and smaller in deeper towers."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.posit_embed, std=0.01)
        branch = (2 * self.width * len(self.resblocks)) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=self.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=branch)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=branch)

    def forward(self, tokens: Tensor, embeddings: Tensor | None = None, count: int | None = None) -> Tensor:
        """Features of whole captions: token ids `(B, L)` → `(B, W)`.

        `embeddings`, here and in `forward_tokens`, is `token_embed(tokens)` if it was already computed: each call
        costs a gradient as large as the vocabulary. `count` is that of `PackedLayout`.
        """
        layout = PackedLayout(tokens, count)
        x = self._run(tokens, layout, self.resblocks[:-1], embeddings)
        return self.ln_final(self.resblocks[-1].forward_last(x, layout))

    def forward_tokens(
        self, tokens: Tensor, embeddings: Tensor | None = None, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of whole captions `(B, W)` and of every token `(B, L, W)`, zeros at padding."""
        layout = PackedLayout(tokens, count)
        x = self.ln_final(self._run(tokens, layout, self.resblocks, embeddings))
        return x[layout.last], layout.unpack(x)

    def _run(self, tokens: Tensor, layout: PackedLayout, blocks: nn.ModuleList, embeddings: Tensor | None) -> Tensor:
        x = self.token_embed(layout.pack(tokens)) if embeddings is None else layout.pack(embeddings)
        x = x + self.posit_embed[layout.position]
        for block in blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, layout, use_reentrant=False)
            else:
                x = block(x, layout)
        return x


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _activation(name: str) -> nn.Module:
    activations = {"gelu": nn.GELU, "quick_gelu": QuickGELU}
    if name not in activations:
        raise UserError(f"encoder.text.activation={name}: choose one of {', '.join(activations)}")
    return activations[name]()


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A text tower with the properties that models use.

    Attributes:
        network: The tower, `(B, L)` token ids → `(B, width)`.
        tokenizer: Caption → token ids.
        projection: Pretrained projection to the shared space, `(embedding, width)`, or None.
        logit_scale: Inverse temperature that the weights were trained with, or None.
        low_rank: Updates to train instead of the tower's weights, or None.
    """

    network: TextTransformer
    tokenizer: CaptionTokenizer
    projection: Tensor | None = None
    logit_scale: float | None = None
    low_rank: LowRank | None = None


def text_transformer(
    *,
    architecture: str = "L12_W512_A8",
    context_length: int = 77,
    dropout: float = 0.0,
    gradient_checkpointing: bool = False,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_norms: bool = False,
    random_weights: bool = True,
) -> TextEncoder:
    """A text tower with random weights. Arguments as in `TextTransformer` and `timm_image_encoder`."""
    if not random_weights:
        raise UserError("encoder.text.random_weights=false: this tower has no pretrained weights")
    tokenizer = CaptionTokenizer(context_length=context_length)
    network = TextTransformer(
        architecture=architecture,
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=context_length,
        dropout=dropout,
        gradient_checkpointing=gradient_checkpointing,
    )
    low_rank = LowRank.of(lora_rank, lora_alpha, lora_norms)
    return TextEncoder(network=network, tokenizer=tokenizer, low_rank=low_rank)
