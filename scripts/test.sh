#!/usr/bin/env bash
# Runs the tests, from any directory, with one process per core; arguments are passed to pytest: `bash scripts/test.sh -k lorentz -n 0`.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_python test
cd "$project"
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
