#!/usr/bin/env bash
# Runs the tests, from any directory; arguments go to pytest: `bash scripts/test.sh -k lorentz`.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_python test
cd "$project"
exec "$PYTHON" -m pytest "$@"
