"""Advice for weights that could not be fetched from the model hub."""

from __future__ import annotations

import os


def other_ways(hub_id: str, *, key: str) -> str:
    """The ways around a hub that cannot be reached, as the end of a message.

    Args:
        hub_id: The repository on the hub, such as `timm/vit_base_patch16_clip_224.openai`.
        key: The key or argument that takes a local file.
    """
    tried = os.environ.get("HF_ENDPOINT")
    mirror = f"HF_ENDPOINT={tried} was used" if tried else "set HF_ENDPOINT=<address of a mirror> in the environment"
    return (
        f"{mirror}, or fetch {hub_id} elsewhere (ModelScope has many of the hub's models under the same id: modelscope "
        f"download --model {hub_id}) and give the file by {key}=<file>"
    )
