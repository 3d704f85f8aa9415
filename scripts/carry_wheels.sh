#!/usr/bin/env bash
# Collects wheels for gpu_check.sh on a Linux machine (x86-64, Python 3.12) without a network: the packages needed
# besides torch, torchvision, timm, SciPy, scikit-learn and Matplotlib.
#   bash scripts/carry_wheels.sh FOLDER [PACKAGE...]        PACKAGE: additional ones; FOLDER is usually .wheels
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [ $# -eq 0 ] || [[ $1 == -* ]]; then fail "Usage: bash scripts/carry_wheels.sh FOLDER [PACKAGE...]" 2; fi
folder=$1
shift
PYTHON=$(active_python)
if [ -z "$PYTHON" ]; then fail "carry_wheels: no Python here." 2; fi
mkdir -p "$folder"
packages=(hydra-core omegaconf PyYAML open_clip_torch ftfy wcwidth regex safetensors huggingface_hub tqdm
    pytest pluggy iniconfig packaging mpmath)
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
# No dependencies, because the machine has its own torch, torchvision and timm.
"$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --constraint "$project/constraints.txt" --dest "$folder" "${packages[@]}" "$@"
# Published as source only.
"$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$folder" \
    "$(grep '^antlr4-python3-runtime==' "$project/constraints.txt")"
total=$(cat "$folder"/*.whl | wc -c)
say "$folder: $((total / 1024 / 1024)) MiB of wheels"
if [ "$total" -gt $((60 * 1024 * 1024)) ]; then fail "More than 60 MiB: leave out some packages." 1; fi
