"""Write a finished model into files that other programs read.

    python scripts/export.py run=SOURCE format=safetensors output=FOLDER
    python scripts/export.py run=SOURCE format=onnx        output=FOLDER [opset=18] [pixels=uint8]
    python scripts/export.py run=SOURCE format=hub         output=FOLDER [license=ID]
                                                           [push_to_hub=ORGANISATION/NAME [private=true]]
    python scripts/export.py run=SOURCE format=meru        output=FOLDER

SOURCE is a run folder or whatever else `meru.load` takes; FOLDER is made, or empty.

safetensors  model.safetensors and config.json; `meru.load(FOLDER)` gives the same embeddings
onnx         image.onnx and text.onnx with projection and lift, compared with PyTorch; pixels: uint8 | float in [0, 1]
hub          as safetensors, with a model card; nothing is uploaded without push_to_hub
meru         a .pth in the layout of the published MERU and HyCoCLIP checkpoints, for their code
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage

MEANINGS = {
    "run": "a run folder or another source of a model",
    "format": "safetensors, onnx, hub or meru",
    "output": "the path of a new folder",
    "opset": "the version of ONNX's operators",
    "pixels": "uint8 or float",
    "push_to_hub": "organisation/name",
    "private": "true or false",
    "license": "an id such as mit or cc-by-nc-4.0",
}


def main() -> None:
    """Read `key=value` words, export the model and print the folder."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)

        from meru.export.formats import export  # imports PyTorch: only after other mistakes are ruled out

        print(export(given))


if __name__ == "__main__":
    main()
