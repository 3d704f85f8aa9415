#!/usr/bin/env bash
# Trains MERU with patches on CUB-200-2011, or on synthetic birds; `bash train_patches_cub.sh --help` says more.
set -euo pipefail

usage() {
    cat <<'EOT'
Usage: bash train_patches_cub.sh [OVERRIDE...]
Trains and evaluates MERU with patches, in which words of a caption attend to patches of its image, and prints the path
of the results. The first run installs the required packages.

  bash train_patches_cub.sh data=birds                      synthetic birds: nothing to download
  bash train_patches_cub.sh data.root=/data/CUB_200_2011    CUB in its official folder layout
  bash train_patches_cub.sh data=birds model.top=8          any Hydra overrides, see configs/
  bash train_patches_cub.sh resume=RUN_FOLDER               resume an interrupted run
  NGPU=2 bash train_patches_cub.sh                          two processes; 0: the CPU (default: every visible GPU)

用法：bash train_patches_cub.sh [Hydra 覆盖参数……]
训练并评测带图像块的 MERU，最后给出结果所在目录；首次运行自动安装依赖。没有 CUB 数据时可用 data=birds；
NGPU= 指定进程数，0 为 CPU。
EOT
}

. "$(dirname -- "${BASH_SOURCE[0]}")/scripts/launch.sh"

train meru_patches "$@"
