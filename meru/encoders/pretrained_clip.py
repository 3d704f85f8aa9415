"""Both towers of a CLIP model of open_clip, with weights from a pretrained tag or a local file."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from meru.encoders.hub_advice import other_ways
from meru.encoders.image import ImageEncoder
from meru.encoders.text import CaptionTokenizer, QuickGELU, TextEncoder, TextTransformer
from meru.encoders.weights import first_cause, fit, quietly, read_weights
from meru.errors import UserError

# Sizes that OpenAI's archives store among the weights, and a bias that only the sigmoid loss uses.
_SURPLUS = ("input_resolution", "context_length", "vocab_size", "logit_bias")


@lru_cache(maxsize=1)
def _load(name: str, pretrained: str | None, weights: str | None, random_weights: bool) -> nn.Module:
    """The whole model, cached because both towers come from one file."""
    import open_clip

    if name not in open_clip.list_models():
        raise UserError(f"encoder.image.name={name}: open_clip has no such model; see open_clip.list_models()")
    # Read first, so that an unreadable file is reported before the model is built.
    content = read_weights(weights, what="encoder.image.weights") if weights and not random_weights else None
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in tags and not weights and not random_weights:
        known = ", ".join(tags) or "no weights"
        raise UserError(f"encoder.image.pretrained={pretrained}: open_clip has {known} for {name}")
    try:
        with quietly():
            # OpenAI's towers were trained with QuickGELU, so a local copy of them needs it as well.
            model = open_clip.create_model(
                name,
                pretrained=None if random_weights or weights else pretrained,
                force_quick_gelu=pretrained == "openai",
                weights_only=True,
            )
    except Exception as error:  # open_clip and the hub raise anything from OSError to RuntimeError here
        if weights or random_weights or not pretrained:
            raise
        source = open_clip.get_pretrained_cfg(name, pretrained)
        place = (source.get("hf_hub") or source.get("url")).strip("/")
        raise UserError(
            f"encoder: no weights of {name}, tag {pretrained!r}: looked for {place} on the model hub and in its local "
            f"cache ({first_cause(error)}); {other_ways(place, key='encoder.image.weights')}, or choose another "
            "encoder, such as encoder=vit_small"
        ) from error
    if content is not None:
        _resize_positions(model, content)
        what = f"encoder.image.weights of {name}"
        fit(model, content, source=str(weights), what=what, surplus=_SURPLUS, finite=True)
    return model


def _resize_positions(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Interpolate positions for another image size and cut those for longer texts, as open_clip does."""
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    with quietly():
        resize_pos_embed(weights, model)
        resize_text_pos_embed(weights, model)


def clip_image_encoder(
    *,
    name: str = "ViT-B-16",
    pretrained: str | None = "openai",
    weights: str | None = None,
    pixel_mean: tuple[float, float, float] | None = None,
    pixel_std: tuple[float, float, float] | None = None,
    train_last_blocks: int | None = None,
    gradient_checkpointing: bool = False,
    random_weights: bool = False,
) -> ImageEncoder:
    """The image tower of an open_clip model.

    Args:
        name: open_clip's model name.
        pretrained: open_clip's tag; None for random weights.
        weights: A local file with the whole model's weights, used instead of the tag's download: open_clip's, or the
            TorchScript archive that OpenAI published.
        pixel_mean, pixel_std: Normalisation; by default the values that the weights were trained with.
        train_last_blocks: Number of last blocks to train; 0 freezes all, None trains all.
        gradient_checkpointing: Save memory at the cost of a second forward pass.
        random_weights: Ignore `pretrained` and `weights`, because a checkpoint is loaded afterwards.

    Raises:
        UserError: for an unknown name, a tower that is not a vision transformer, or weights that cannot be obtained.
    """
    model = _load(name, pretrained, weights, random_weights)
    network = copy.deepcopy(model.visual)  # the cached model may be used again
    if not hasattr(network, "output_tokens") or network.proj is None:
        raise UserError(f"encoder.image.name={name}: only open_clip's vision transformers are supported; see timm's")
    projection = network.proj.detach().t().contiguous()
    network.proj, network.output_tokens = None, True
    if train_last_blocks is not None:
        blocks = [*network.transformer.resblocks, network.ln_post]
        network.requires_grad_(False)
        for block in blocks[len(blocks) - 1 - train_last_blocks :] if train_last_blocks else []:
            block.requires_grad_(True)
    if gradient_checkpointing:
        network.set_grad_checkpointing()
    return ImageEncoder(
        network=network,
        width=projection.shape[1],
        image_size=network.image_size[0],
        pixel_mean=tuple(pixel_mean or network.image_mean),
        pixel_std=tuple(pixel_std or network.image_std),
        projection=projection,
        class_token=network.attn_pool is None and network.pool_type == "tok",
        logit_scale=_logit_scale(model, bool(pretrained or weights) and not random_weights),
    )


def clip_text_encoder(
    *,
    name: str = "ViT-B-16",
    pretrained: str | None = "openai",
    weights: str | None = None,
    dropout: float = 0.0,
    gradient_checkpointing: bool = False,
    random_weights: bool = False,
) -> TextEncoder:
    """The text tower of an open_clip model as a `TextTransformer`.

    Arguments as in `clip_image_encoder`; `dropout` as in `TextTransformer`.

    Raises:
        UserError: for an unknown name, a tower of another kind, or weights that cannot be obtained.
    """
    model = _load(name, pretrained, weights, random_weights)
    if not isinstance(getattr(model, "text_projection", None), nn.Parameter) or model.attn_mask is None:
        raise UserError(f"encoder.text.name={name}: not a causal CLIP text transformer; choose another encoder")
    blocks = model.transformer.resblocks
    context_length, width = model.positional_embedding.shape
    quick = type(blocks[0].mlp.gelu).__name__ == QuickGELU.__name__
    network = TextTransformer(
        architecture=f"L{len(blocks)}_W{width}_A{blocks[0].attn.num_heads}",
        vocabulary_size=model.token_embedding.num_embeddings,
        context_length=context_length,
        activation="quick_gelu" if quick else "gelu",
        dropout=dropout,
        gradient_checkpointing=gradient_checkpointing,
    )
    network.load_state_dict(
        {
            "token_embed.weight": model.token_embedding.weight,
            "posit_embed": model.positional_embedding,
            "attn_mask": network.attn_mask,
            **{f"resblocks.{key}": value for key, value in blocks.state_dict().items()},
            **{f"ln_final.{key}": value for key, value in model.ln_final.state_dict().items()},
        }
    )
    return TextEncoder(
        network=network,
        tokenizer=CaptionTokenizer(context_length=context_length),
        projection=torch.clone(model.text_projection.detach().t()),
        logit_scale=_logit_scale(model, bool(pretrained or weights) and not random_weights),
    )


def _logit_scale(model: nn.Module, trained: bool) -> float | None:
    """The inverse temperature of trained weights; None for random ones."""
    return model.logit_scale.exp().item() if trained else None
