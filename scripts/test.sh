#!/usr/bin/env bash
# Runs the tests, from any directory, with one process per core; arguments are passed to pytest: `bash scripts/test.sh -k lorentz -n 0`.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# The search page is tested in a browser. Without one, those tests are skipped.
prepare_browser() {
    local name
    for name in chromium chromium-browser google-chrome; do
        if command -v "$name" >/dev/null; then return; fi
    done
    if [ "$EUID" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
    say "Installing Debian's chromium, for the tests of the search page (only once, at most 5 minutes) ..."
    if ! { timeout 60 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -y \
        --no-install-recommends chromium; } >/dev/null 2>&1 </dev/null; then
        say "chromium cannot be installed: those tests are skipped."
    fi
}

prepare_python test
prepare_browser
cd "$project"
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
