#!/usr/bin/env bash
# Runs meru's GPU tests and benchmarks in at most nine minutes on one GPU; installs nothing:
#   bash scripts/gpu_check.sh OUT [--smoke] [--wheels FOLDER]
# Results: OUT/results.json, OUT/results.md, OUT/log.txt. --smoke: the same on the CPU, at tiny sizes.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
PYTHON=""
active=$(active_python)
for candidate in "$active" "$venv/bin/python"; do
    if [ -n "$candidate" ] && "$candidate" "$check" >/dev/null 2>&1; then
        PYTHON=$candidate
        break
    fi
done
PYTHON=${PYTHON:-$active} # in this case, wheels are needed
if [ -z "$PYTHON" ]; then fail "gpu_check: no Python here: install Python >= 3.10 with torch >= 2.6." 2; fi
exec "$PYTHON" "$project/scripts/gpu_check.py" "$@"
