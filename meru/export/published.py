"""Checkpoints in the layout of the published models: `{"model": state dict}` under their parameter names.

The code of MERU (facebookresearch/meru) loads them by its `CheckpointManager`, and HyCoCLIP's, which is derived from
it, too: the file must hold exactly the names of the model there. Both know CLIP (`CLIPBaseline`) and MERU, whose class
at inference is also HyCoCLIP's.

    model here           there
    clip                 CLIPBaseline
    meru, hycoclip       MERU, HyCoCLIP
    uncha                MERU; the temperatures of its other contrasts are left out
    meru_patches, gahr   MERU or, on the sphere, CLIPBaseline: the embeddings of whole images and captions; the modules
                         of words and patches are left out

What is computed otherwise there is refused: flat space, bent norms, towers of open_clip, category discovery.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from meru.errors import UserError
from meru.files import write_atomically
from meru.models.dual_encoder import DualEncoder
from meru.models.meru import MERU
from meru.sources.opened import Opened

log = logging.getLogger("meru")

_PARTS = ("visual.", "textual.")
_OF_CLIP = ("visual_proj.weight", "textual_proj.weight", "logit_scale", "pixel_mean", "pixel_std")
_OF_MERU = ("curv", "visual_alpha", "textual_alpha")
_TIMM = "meru.encoders.image.timm_image_encoder"
_TEXT = "meru.encoders.text.text_transformer"


def checkpoint_file(opened: Opened) -> str:
    """Name of the file: of the class that reads it, in lower case, such as `meru.pth`."""
    return f"{_class_there(opened.pretrained.model).lower()}.pth"


def write_published(opened: Opened, path: Path) -> None:
    """Write the checkpoint; one log line says how to build the model there, and what is left out.

    Raises:
        UserError: for a model that their code would compute otherwise.
    """
    model, config = opened.pretrained.model, opened.config
    require_published(model, config)
    weights = published_weights(model)
    write_atomically(path, lambda file: torch.save({"model": weights}, file))
    left = sorted({name.partition(".")[0] for name in model.state_dict().keys() - weights.keys()})
    log.info(
        "%s: for %s of facebookresearch/meru or hycoclip with timm's %s, a text transformer %s and embed_dim=%d%s",
        path.name,
        "CLIPBaseline" if _class_there(model) == "CLIP" else "MERU",
        config.encoder.image.name,
        config.encoder.text.architecture,
        model.visual_proj.out_features,
        f"; left out: {', '.join(left)}" if left else "",
    )


def published_weights(model: DualEncoder) -> dict[str, Tensor]:
    """The weights under the names of `CLIPBaseline` or `MERU`, and no others."""
    names = {*_OF_CLIP, *(_OF_MERU if _class_there(model) == "MERU" else ())}
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if name in names or name.startswith(_PARTS)
    }


def require_published(model: nn.Module, config: DictConfig) -> None:
    """Raise a `UserError` for a model that the published code would compute otherwise; it says what differs."""
    if not isinstance(model, DualEncoder):
        _refuse(f"{type(model).__name__} discovers classes, which the published code does not know")
    if isinstance(model, MERU) and model.space.has_cones and not model.space.curved:
        _refuse("model.space=euclidean: the published code has the hyperboloid and the sphere only")
    if model.space.curved and model.norm_exponent != 1:
        _refuse(f"model.norm_exponent={model.norm_exponent}: the published code does not bend norms (it would be 1)")
    for tower, known, why in (("image", _TIMM, "a tower of timm"), ("text", _TEXT, "MERU's text transformer")):
        target = OmegaConf.select(config, f"encoder.{tower}._target_")
        if target != known:
            _refuse(f"encoder.{tower} is {str(target).rpartition('.')[2]}, and the published code needs {why}")


def _class_there(model: nn.Module) -> str:
    return "MERU" if isinstance(model, MERU) and model.space.curved else "CLIP"


def _refuse(why: str) -> None:
    raise UserError(f"format=meru: {why}; choose format=safetensors, hub or onnx")
