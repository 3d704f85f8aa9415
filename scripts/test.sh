#!/usr/bin/env bash
# Runs the tests, from any directory, one process a core; arguments go to pytest: `bash scripts/test.sh -k lorentz -n 0`.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_python test
cd "$project"
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
