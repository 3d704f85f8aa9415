"""Published checkpoints of MERU, CLIP, HyCoCLIP and UNCHA: the architecture is read from names and shapes.

Their parameters have one set of names (facebookresearch/meru): `visual.*` as in timm, `textual.*`, `visual_proj`,
`textual_proj`, `logit_scale`; in hyperbolic space also `curv`, `visual_alpha` and `textual_alpha`, all logarithms.
UNCHA (jeeit17/UNCHA) adds three scales. HyCoCLIP has the names of MERU, and embeds as MERU does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from omegaconf import DictConfig
from torch import Tensor, nn

from meru.assemble import Pretrained, build
from meru.encoders.weights import fit
from meru.errors import UserError
from meru.sources.composed import composed_config
from meru.sources.opened import Opened

log = logging.getLogger("meru")

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORM_EPSILON = 1e-5  # the published towers use PyTorch's layer norm with its default
VOCABULARY = 49408  # of CLIP's tokenizer
# Width of an image tower → timm's name; the small one is that of MoCo-v3 with 12 heads.
_NAMES = {192: "vit_tiny", 384: "vit_small", 768: "vit_base", 1024: "vit_large"}
_HEADS = {384: 12}
# What has to be there to know the architecture.
_TELLING = (
    "visual.patch_embed.proj.weight", "visual.pos_embed", "visual.blocks.0.mlp.fc1.weight", "visual_proj.weight",
    "textual.token_embed.weight", "textual.posit_embed", "textual.resblocks.0.mlp.c_fc.weight", "textual_proj.weight",
)  # fmt: skip
_CONSTANTS = ("pixel_mean", "pixel_std", "textual.attn_mask")  # the same in every file; some converters drop buffers
_HYPERBOLIC = ("curv", "visual_alpha", "textual_alpha")
# UNCHA's names of its scales → those of our model; its plain `logit_scale` is not trained.
_OF_UNCHA = {
    "global_logit_scale": "logit_scale",
    "local_logit_scale": "part_logit_scale",
    "global_local_logit_scale": "part_whole_logit_scale",
}


@dataclass(frozen=True)
class Architecture:
    """What names and shapes tell of a checkpoint.

    Attributes:
        model: A file of `configs/model`.
        width, depth, heads: Of the image tower, a vision transformer.
        mlp_ratio: Of the image tower.
        patch_size, image_size: In pixels.
        text: The text tower's layers, width and heads, as `L12_W512_A8`.
        context_length: Most tokens of a caption.
        dimension: D of the embedding.
    """

    model: str
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    patch_size: int
    image_size: int
    text: str
    context_length: int
    dimension: int

    def config(self) -> DictConfig:
        """The training configuration."""
        arguments = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        name = _NAMES.get(self.width, "vit_base")
        return composed_config(
            "encoder=vit_small",
            f"model={self.model}",
            encoder__image__name=f"{name}_patch16_224",
            encoder__image__image_size=self.image_size,
            encoder__image__arguments=arguments | {"patch_size": self.patch_size, "mlp_ratio": self.mlp_ratio},
            encoder__image__norm_epsilon=NORM_EPSILON,
            encoder__image__fixed_positions=False,  # the file has them, fixed or learned
            encoder__image__pixel_mean=IMAGENET_MEAN,
            encoder__image__pixel_std=IMAGENET_STD,
            encoder__text__architecture=self.text,
            encoder__text__context_length=self.context_length,
            encoder__embedding_dimension=self.dimension,
        )

    def __str__(self) -> str:
        return (
            f"{self.model}: images {self.image_size} px, ViT of {self.depth} blocks, width {self.width}, {self.heads} "
            f"heads, patches {self.patch_size} px; text {self.text}, {self.context_length} tokens; D = {self.dimension}"
        )


def is_published(weights: Iterable[str]) -> bool:
    """Whether names are those of a published checkpoint, perhaps of a part of one."""
    names = [f".{name}" for name in weights]
    if any(mark in name for name in names for mark in (".visual.blocks.", ".visual.patch_embed.")):
        return True
    others = any(mark in name for name in names for mark in (".textual.", ".visual_proj.", ".textual_proj."))
    return others and not any(".visual." in name for name in names)


def open_published(weights: dict[str, Tensor], *, source: str, name: str) -> Opened:
    """A published checkpoint as a source.

    Args:
        weights: By name, perhaps all behind one prefix such as `module.`.
        source: Origin of the weights, for messages.
        name: The source's name in titles.

    Raises:
        UserError: if names are missing, the architecture cannot be told, or the tokenizer is another one.
    """
    weights = _renamed(_without_prefix(weights))
    if missing := [each for each in _TELLING if each not in weights]:
        raise UserError(f"run: {source} is only a part of a published checkpoint: it lacks {_listed(missing)}")
    found = architecture(weights, source=source)
    config = found.config()
    log.info("%s is %s", name, found)
    return Opened(config, name, None, has_data=False, load=lambda: _load(config, weights, source=source))


def architecture(weights: Mapping[str, Tensor], *, source: str) -> Architecture:
    """Read the architecture from a published checkpoint with all names of `_TELLING`.

    Heads are not visible in shapes: 12 for ViT-S, as published, and one for 64 channels otherwise.

    Raises:
        UserError: if shapes make no sense or do not tell the heads, or the vocabulary is not that of CLIP's tokenizer.
    """
    kernel, positions = weights["visual.patch_embed.proj.weight"], weights["visual.pos_embed"]
    vocabulary, context = weights["textual.token_embed.weight"], weights["textual.posit_embed"]
    projection, hidden = weights["visual_proj.weight"], weights["visual.blocks.0.mlp.fc1.weight"]
    wanted = ((kernel, 4), (positions, 3), (vocabulary, 2), (context, 2), (projection, 2), (hidden, 2))
    if any(tensor.dim() != number for tensor, number in wanted) or not all(kernel.shape):
        raise UserError(f"run: {source} has the names of a published checkpoint, but not its shapes: use another file")
    if len(vocabulary) != VOCABULARY:
        raise UserError(f"run: {source} knows {len(vocabulary)} tokens, but CLIP's tokenizer has {VOCABULARY}")
    patches = positions.shape[1] - ("visual.cls_token" in weights)
    side = round(patches**0.5)
    if side**2 != patches or kernel.shape[2] != kernel.shape[3]:
        raise UserError(f"run: {source} has positions for {patches} patches, which are no square grid")
    width, text_width = len(kernel), vocabulary.shape[1]
    layers = _count(weights, r"textual\.resblocks\.(\d+)\.")
    return Architecture(
        model=_model(weights),
        width=width,
        depth=_count(weights, r"visual\.blocks\.(\d+)\."),
        heads=_HEADS.get(width) or _heads(width, tower="image", source=source),
        mlp_ratio=len(hidden) / width,
        patch_size=kernel.shape[2],
        image_size=side * kernel.shape[2],
        text=f"L{layers}_W{text_width}_A{_heads(text_width, tower='text', source=source)}",
        context_length=len(context),
        dimension=len(projection),
    )


def _heads(width: int, *, tower: str, source: str) -> int:
    """One head for 64 channels; of other widths no file tells the number, and a wrong one gives other features."""
    if not width or width % 64:
        raise UserError(
            f"run: {source} has a {tower} tower of width {width}, no multiple of 64, so its attention heads are not "
            "known: name the run folder, or export it with format=safetensors"
        )
    return width // 64


def _model(weights: Mapping[str, Tensor]) -> str:
    if "part_logit_scale" in weights:
        return "uncha"
    return "meru" if any(name in weights for name in _HYPERBOLIC) else "clip"


def _count(weights: Iterable[str], pattern: str) -> int:
    numbers = [int(found[1]) for name in weights if (found := re.match(pattern, name))]
    return max(numbers) + 1


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefix of `visual_proj.weight`, or else of the first tower, if there is one."""
    for mark in ("visual_proj.weight", "textual_proj.weight", "visual.patch_embed.proj.weight"):
        for name in weights:
            if name == mark:
                return weights
            if name.endswith(f".{mark}"):
                prefix = name.removesuffix(mark)
                return {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """UNCHA's scales under our names; a flat or plain hyperbolic model of that repository does not use them."""
    if not all(name in weights for name in _OF_UNCHA):
        return weights
    plain = {name: value for name, value in weights.items() if name not in _OF_UNCHA}
    if "curv" not in weights:
        return plain
    return plain | {ours: weights[theirs] for theirs, ours in _OF_UNCHA.items()}


def _load(config: DictConfig, weights: dict[str, Tensor], *, source: str) -> Pretrained:
    pretrained = build(config)
    fit_all(pretrained.model, weights, source=source)
    pretrained.model.eval()
    return pretrained


def fit_all(model: nn.Module, weights: dict[str, Tensor], *, source: str) -> None:
    """Load weights that must be a model's own, one by one; constants may be missing.

    Raises:
        UserError: with the number and the first few of the names that are missing and that are too many, or for
            shapes and values that do not fit.
    """
    own = model.state_dict()
    constants = {name: own[name] for name in _CONSTANTS if name in own and name not in weights}
    missing = [name for name in own if name not in weights and name not in constants]
    unexpected = [name for name in weights if name not in own]
    said = [f"lacks {_listed(missing)}"] if missing else []
    said += [f"also has {_listed(unexpected)}"] if unexpected else []
    if said:
        raise UserError(f"run: {source} is not a whole checkpoint of {type(model).__name__}: it {' and '.join(said)}")
    fit(model, weights | constants, source=source, what="run", finite=True)


def _listed(names: list[str]) -> str:
    """`3 names (a, b, c)`, with at most four of them."""
    number = f"{len(names)} name{'s' if len(names) > 1 else ''}"
    return f"{number} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
