#!/usr/bin/env bash
# Trains MERU or CLIP on CUB-200-2011, or on synthetic birds; `bash train_cub.sh --help` says more.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: bash train_cub.sh meru|clip [OVERRIDE...]
Trains and evaluates the model, and prints the path of the results. The first run installs the required packages.

  bash train_cub.sh meru data=birds                    synthetic birds: nothing to download
  bash train_cub.sh clip data.root=/data/CUB_200_2011  CUB in its official folder layout
  bash train_cub.sh meru data=birds seed=1             any Hydra overrides, see configs/
  bash train_cub.sh meru resume=RUN_FOLDER             resume an interrupted run
  NGPU=2 bash train_cub.sh meru                        two processes; 0: the CPU (default: every visible GPU)

用法：bash train_cub.sh meru|clip [Hydra 覆盖参数……]
训练并评测模型，最后给出结果所在目录；首次运行自动安装依赖。没有 CUB 数据时可用 data=birds；NGPU= 指定进程数，0 为 CPU。
EOF
}

. "$(dirname -- "${BASH_SOURCE[0]}")/scripts/launch.sh"

case ${1:-} in
    meru | clip) train "$@" ;;
    -h | --help) usage ;;
    "") wrong_usage "Which model?" ;;
    *) wrong_usage "Unknown model '$1': meru or clip." ;;
esac
