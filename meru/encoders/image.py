"""Image towers from timm: any backbone, with timm's weights or a local file, optionally partly frozen.

The towers keep timm's own parameter names, so a model's `visual.*` is timm's state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from meru.encoders.hub_advice import other_ways
from meru.encoders.sizes import ImageSize, grid_of, image_size_of, require_whole_patches, sides
from meru.encoders.weights import first_cause, load_weights, quietly
from meru.errors import UserError
from meru.layers.low_rank import LowRank


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """An image tower with the properties that models use.

    Attributes:
        network: The tower, with its library's parameter names.
        width: Channels of pooled features and tokens.
        image_size: Side of the square input, or height and width, pixels.
        pixel_mean, pixel_std: Normalisation of RGB values in [0, 1] that the weights expect.
        projection: Pretrained projection to the shared space, `(embedding, width)`, or None.
        logit_scale: Inverse temperature that the weights were trained with, or None.
        patch_level: Index of the feature map that gives the patches, see `encode_image`; None: the last.
        patch_width: Channels of that map.
        low_rank: Updates to train instead of the tower's weights, or None.
        class_token: Whether the pooled features are those of a class token.
    """

    network: nn.Module
    width: int
    image_size: ImageSize
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    projection: Tensor | None = None
    logit_scale: float | None = None
    patch_level: int | None = None
    patch_width: int | None = None
    class_token: bool = False
    low_rank: LowRank | None = None


def encode_image(network: nn.Module, images: Tensor, *, patch_level: int | None = None) -> tuple[Tensor, Tensor]:
    """Pooled and token features of a tower from timm or open_clip.

    Args:
        network: `ImageEncoder.network`.
        images: Normalised RGB images, shape `(B, 3, H, W)`.
        patch_level: Take the patches from this one of timm's feature maps, counted from the input, instead of the
            last: earlier maps of a convolutional network are finer, with smaller receptive fields.

    Returns:
        Pooled features `(B, W)` and patch tokens `(B, N, W)`, row by row from the top left, class token left out.
        The tokens of a convolutional network are the positions of a feature map.
    """
    if hasattr(network, "output_tokens"):  # open_clip; output_tokens is set when the tower is built
        return network(images)
    if patch_level is None:
        features = patches = network.forward_features(images)
    else:
        # Without the final norm, which belongs to the last map.
        features, (patches,) = network.forward_intermediates(images, indices=[patch_level], output_fmt="NCHW")
    pooled = network.forward_head(features, pre_logits=True)
    if patches.dim() == 4:
        return pooled, patches.flatten(2).transpose(1, 2)
    return pooled, patches[:, network.num_prefix_tokens :]


@torch.no_grad()
def patch_offset(network: nn.Module, image_size: ImageSize, *, patch_level: int | None = None) -> float:
    """The offset of a convolutional network's receptive fields from the centres of its patches.

    A strided 3 × 3 convolution that pads both sides is centred on every second pixel from the first; TensorFlow's,
    which pads one side, from the second. After five of them, the centre of a position's receptive field lies half a
    square beside the centre of its square in the grid. Computed by receptive field arithmetic (Araujo et al.,
    "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019) along the first path through every
    change of resolution; along the height, which the width equals if both are multiples of the
    network's stride.

    Returns:
        The distance to the right and down, as a share of a square; 0 for a vision transformer.
    """
    if hasattr(network, "output_tokens") or hasattr(network, "patch_embed"):
        return 0.0  # a vision transformer
    steps: dict[int, float] = {}  # height of the input → shift in input pixels of the first layer that shrinks it

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = inputs[0].shape[2], output.shape[2]
        kernel, stride, padding, dilation = (
            value[0] if isinstance(value, tuple) else value
            for value in (module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1))
        )
        if after >= before or before in steps:
            return
        reach = dilation * (kernel - 1)
        left = padding if padding else max((after - 1) * stride + reach + 1 - before, 0) // 2
        # From the centre of the square of `stride` pixels to the centre of the kernel.
        steps[before] = (reach / 2 - left) - (stride - 1) / 2

    layers = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, layers)]
    was_training = network.training
    _, patches = encode_image(network.eval(), torch.zeros(1, 3, *sides(image_size)), patch_level=patch_level)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    height, _ = sides(image_size)
    rows, _ = grid_of(patches.shape[1], image_size)
    pixels = sum(shift * height / size for size, shift in steps.items() if size > rows)
    return pixels * rows / height


def fix_frozen_statistics(network: nn.Module) -> None:
    """Put batch norms with frozen parameters into evaluation mode; call this after `train()`.

    Otherwise their statistics would still follow the batches.
    """
    for module in _batch_norms(network):
        if module.affine and not module.weight.requires_grad:
            module.eval()


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def timm_image_encoder(
    *,
    name: str,
    image_size: int | Sequence[int] | None,
    pretrained: bool = False,
    weights: str | None = None,
    arguments: Mapping | None = None,
    pixel_mean: tuple[float, float, float] | None = None,
    pixel_std: tuple[float, float, float] | None = None,
    norm_epsilon: float | None = None,
    fixed_positions: bool = False,
    train_last_blocks: int | None = None,
    train_final_layers: bool | None = None,
    freeze_batch_norm: bool = False,
    gradient_checkpointing: bool = False,
    patch_level: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_norms: bool = False,
    random_weights: bool = False,
) -> ImageEncoder:
    """Build a backbone of timm.

    Args:
        name: timm's model name, optionally followed by a dot and a pretrained tag.
        image_size: Side of the input, or `[height, width]`, pixels; None: that of timm's weights. The positions of a
            vision transformer's weights are resampled.
        pretrained: Whether to download timm's weights for the name.
        weights: A local file with timm's parameter names to use instead, see `read_weights`; a classifier is left out.
        arguments: Passed to `timm.create_model`.
        pixel_mean, pixel_std: Normalisation; by default the values that timm gives for the weights.
        norm_epsilon: Epsilon of every layer norm, if not timm's (published MERU towers: 1e-5).
        fixed_positions: Fixed 2-D sine–cosine positions in a vision transformer instead of learned ones
            (Chen et al., "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021).
        train_last_blocks: Number of last blocks to train; 0 freezes all, None trains all.
        train_final_layers: Whether to train layers after the last block; None: unless all blocks are frozen.
        freeze_batch_norm: Fix the gains and biases of batch norms, and with them their statistics.
        gradient_checkpointing: Save memory at the cost of a second forward pass.
        patch_level: Which of timm's feature maps (`network.feature_info`) gives the patches; None: the last.
        lora_rank, lora_alpha, lora_norms: Low-rank updates to train instead of the weights, see `LowRank.of`.
        random_weights: Ignore `pretrained` and `weights`, because a checkpoint is loaded afterwards.

    Raises:
        UserError: for an unknown name, unusable arguments, or weights that cannot be obtained or do not fit.
    """
    _require_known(name)
    fetch = pretrained and not weights and not random_weights
    size = image_size_of(image_size or timm.get_pretrained_cfg(name).input_size[1:])
    network = _create(name, size, pretrained=fetch, arguments=dict(arguments or {}))
    if not random_weights and hasattr(network, "patch_embed"):
        require_whole_patches(size, network.patch_embed.patch_size)
    if weights and not random_weights:
        _load_without_classifier(network, weights)
    _settle(network, norm_epsilon, fixed_positions, freeze_batch_norm)
    if gradient_checkpointing:
        network.set_grad_checkpointing()
    if train_last_blocks is not None:
        _freeze_all_but_last(network, train_last_blocks, final_layers=train_final_layers)
    described = _described(network, name=name, size=size, mean=pixel_mean, std=pixel_std, patch_level=patch_level)
    return replace(described, low_rank=LowRank.of(lora_rank, lora_alpha, lora_norms))


def _settle(network: nn.Module, norm_epsilon: float | None, fixed_positions: bool, freeze_batch_norm: bool) -> None:
    if norm_epsilon is not None:
        _set_norm_epsilon(network, norm_epsilon)
    if fixed_positions:
        _fix_positions(network)
    if freeze_batch_norm:
        for module in _batch_norms(network):
            module.requires_grad_(False)


def _require_known(name: str) -> None:
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"encoder.image.name={name}: timm has no such model; {near} …")


def _described(
    network: nn.Module,
    *,
    name: str,
    size: ImageSize,
    mean: Sequence | None,
    std: Sequence | None,
    patch_level: int | None,
) -> ImageEncoder:
    """The tower with the properties that models and transforms use; None: timm's values."""
    if patch_level is not None and not 0 <= patch_level < len(network.feature_info):
        last = len(network.feature_info) - 1
        raise UserError(f"encoder.image.patch_level={patch_level}: {name} has the feature maps 0 to {last}")
    width = getattr(network, "head_hidden_size", None) or network.num_features
    return ImageEncoder(
        # Convolutions are fastest with channels last, on CPUs by two thirds; the features are the same.
        network=network.to(memory_format=torch.channels_last),
        width=width,
        image_size=size,
        pixel_mean=tuple(mean or network.pretrained_cfg["mean"]),
        pixel_std=tuple(std or network.pretrained_cfg["std"]),
        patch_level=patch_level,
        patch_width=width if patch_level is None else network.feature_info[patch_level]["num_chs"],
        class_token=getattr(network, "global_pool", None) == "token",
    )


def _create(name: str, size: ImageSize, *, pretrained: bool, arguments: dict) -> nn.Module:
    transformer = issubclass(_network_class(name), timm.models.VisionTransformer)
    # timm takes as many positions for the same grid, so a rectangle of as many patches is set afterwards.
    afterwards = transformer and pretrained and not isinstance(size, int) and "img_size" not in arguments
    if transformer and not afterwards:
        arguments = {"img_size": size, **arguments}
    try:
        with quietly():
            network = timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
            if afterwards:
                network.set_input_size(img_size=size)
            return network
    except (TypeError, AssertionError, ArithmeticError) as error:  # such as a width that the heads do not divide
        raise UserError(f"encoder.image.arguments={arguments}: timm's {name} does not accept them: {error}") from error
    except Exception as error:  # hubs pass on the errors of their network libraries, which have no common base
        if not pretrained:
            raise
        raise UserError(
            f"encoder.image.pretrained: looked for timm's weights of {name} on the model hub and in its local cache "
            f"({first_cause(error)}); {other_ways(_hub_id(name), key='encoder.image.weights')}, set "
            "encoder.image.pretrained=false, or choose another encoder"
        ) from error


def _hub_id(name: str) -> str:
    described = timm.get_pretrained_cfg(name)
    return getattr(described, "hf_hub_id", None) or f"timm/{name}"


def _network_class(name: str) -> type:
    """The class that timm builds for a name, found without allocating its weights."""
    with torch.device("meta"):
        return type(timm.create_model(name, num_classes=0))


def _load_without_classifier(network: nn.Module, weights: str) -> None:
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = [classifier] if isinstance(classifier, str) else classifier
    load_weights(network, weights, what="encoder.image.weights", surplus=heads, resample=True)


def _set_norm_epsilon(network: nn.Module, epsilon: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = epsilon


def _fix_positions(network: nn.Module) -> None:
    if getattr(network, "pos_embed", None) is None:
        raise UserError("encoder.image.fixed_positions: this backbone has no position embedding; set it to false")
    height, width = network.patch_embed.grid_size
    channels = network.pos_embed.shape[-1]
    if channels % 4:
        raise UserError(f"encoder.image.fixed_positions: needs a width divisible by 4, got {channels}")
    frequencies = 10000.0 ** -(torch.arange(channels // 4) / (channels // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]  # each (N, W/4)
    positions = torch.cat([function(angle) for angle in angles for function in (torch.sin, torch.cos)], dim=1)
    with torch.no_grad():
        network.pos_embed.zero_()
        network.pos_embed[0, -height * width :] = positions  # prefix tokens keep zeros
    network.pos_embed.requires_grad_(False)


def _freeze_all_but_last(network: nn.Module, blocks: int, *, final_layers: bool | None) -> None:
    """Freeze all but the last blocks. timm orders parameters by depth; later layers belong to the last block."""
    layer_of = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    last = max(layer_of.values())
    for name, parameter in network.named_parameters():
        in_block = not hasattr(network, "blocks") or name.startswith("blocks.")
        trained = layer_of[name] > last - blocks
        if not in_block and layer_of[name] == last and final_layers is not None:
            trained = final_layers
        elif not in_block and final_layers is False:
            trained = False
        if not trained:
            parameter.requires_grad_(False)
