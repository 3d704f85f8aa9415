# Sourced by the train_*.sh commands, each of which defines `usage`.
# Checks the overrides, chooses the recipe, counts the GPUs and starts the training.

. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

wrong_usage() { # MESSAGE
    say "$1"
    usage >&2
    exit 2
}

is_task_of_srun() {
    [ -n "${SLURM_PROCID:-}" ] && [ "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ] && [ -z "${SLURM_PTY_PORT:-}" ]
}

check_overrides() { # OVERRIDE...
    local override where=()
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
    is_task_of_srun || rendezvous
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

# Several machines: each runs the same command with NNODES and either MASTER_ADDR and its own NODE_RANK, from 0,
# or RDZV_ENDPOINT (host:port of one of them) and RDZV_ID, a name of the job. MAX_RESTARTS: start lost processes again.
rendezvous() { # sets `where`
    local name port
    for name in NNODES NODE_RANK MAX_RESTARTS; do
        case ${!name:-} in
            *[!0-9]* | ??????*) wrong_usage "$name=${!name} is not a number from 0 to 99999." ;;
        esac
    done
    if [ "${NODE_RANK:-0}" -ge "${NNODES:-1}" ] && [ "${NNODES:-1}" -gt 1 ]; then # torchrun would wait for ever
        wrong_usage "NODE_RANK=$NODE_RANK: with NNODES=$NNODES it must be from 0 to $((NNODES - 1))."
    fi
    where=()
    if [ "${MAX_RESTARTS:-0}" -gt 0 ]; then where+=(--max-restarts="$MAX_RESTARTS"); fi
    if [ "${NNODES:-1}" -le 1 ]; then
        where+=(--standalone)
    elif [ -n "${RDZV_ENDPOINT:-}" ]; then
        where+=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$RDZV_ENDPOINT" --rdzv-id="${RDZV_ID:-meru}")
    elif [ -n "${MASTER_ADDR:-}" ] && [ -n "${NODE_RANK:-}" ]; then
        port=${MASTER_PORT:-29500}
        if ! { [ "$port" -ge 1 ] && [ "$port" -le 65535 ]; } 2>/dev/null; then
            wrong_usage "MASTER_PORT=$MASTER_PORT is not a port: give a number from 1 to 65535."
        fi
        where+=(--nnodes="$NNODES" --node-rank="$NODE_RANK")
        where+=(--master-addr="$MASTER_ADDR" --master-port="$port")
    else
        wrong_usage "NNODES=$NNODES: give MASTER_ADDR (the first machine) and NODE_RANK (0, 1, ...), or RDZV_ENDPOINT."
    fi
}

launch() { # SCRIPT ARGUMENT...
    local gpus=0 processes=${NGPU:-} where=()
    if is_task_of_srun; then
        exec "$PYTHON" "$@" # a task of `srun`, which is one of the processes
    fi
    rendezvous
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
    if [ "$processes" -eq 0 ]; then processes=1; fi
    if [ "$processes" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ] || [ "${MAX_RESTARTS:-0}" -gt 0 ]; then
        local cores
        cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}"
        exec "$PYTHON" "$project/scripts/torchrun.py" "${where[@]}" --nproc-per-node="$processes" "$@"
    fi
    exec "$PYTHON" "$@"
}
