# Sourced by the train_*.sh commands, each of which defines `usage`.
# Checks the overrides, chooses the recipe, counts the GPUs and starts the training.

. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

wrong_usage() { # MESSAGE
    say "$1"
    usage >&2
    exit 2
}

check_overrides() { # OVERRIDE...
    local override
    for override in "$@"; do
        case $override in
            -h | --help)
                usage
                exit 0
                ;;
            *=* | '~'?* | -m | --multirun | --cfg | job | --resolve | --info) ;; # `--cfg job` prints all keys
            *) wrong_usage "'$override' is not a Hydra override (key=value)." ;;
        esac
    done
    case ${NGPU:-} in
        *[!0-9]*) wrong_usage "NGPU=$NGPU is not a number of processes: give 0 (CPU), 1, 2, ... or leave it out." ;;
    esac
}

train() { # MODEL OVERRIDE...
    local model=$1 data=cub recipe="" override
    shift
    check_overrides "$@"
    for override in "$@"; do
        case ${override#--} in # agents of wandb's sweeps write --key=value
            experiment=*) recipe=$override ;;
            data=*) data=${override#*data=} ;;
        esac
    done
    if [ -z "$recipe" ]; then
        if [ ! -f "$project/configs/experiment/${data}_$model.yaml" ]; then data=cub; fi
        set -- "experiment=${data}_$model" "$@"
    fi
    prepare_python
    launch "$project/scripts/train.py" "$@"
}

launch() { # SCRIPT ARGUMENT...
    local gpus=0 processes=${NGPU:-}
    if [ -n "$processes" ] && [ "$processes" -eq 0 ]; then
        export CUDA_VISIBLE_DEVICES=""
    elif command -v nvidia-smi >/dev/null; then # importing torch is slow: only if there may be a GPU
        gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
    fi
    processes=${processes:-$gpus}
    if [ "$gpus" -eq 0 ]; then
        say "No GPU${NGPU:+ (NGPU=$NGPU)}: training on the CPU."
    elif [ "$processes" -gt "$gpus" ]; then
        fail "NGPU=$NGPU, but only $gpus GPU(s) are available: give at most $gpus, or 0 for the CPU." 2
    fi

    # exec passes signals to Python and its exit code to the caller. The working directory does not change, because
    # relative paths in overrides start there.
    if [ "$processes" -gt 1 ]; then
        local cores
        cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}"
        exec "$PYTHON" "$project/scripts/torchrun.py" --standalone --nproc-per-node="$processes" "$@"
    fi
    exec "$PYTHON" "$@"
}
