# Sourced by the other scripts. `prepare_python` sets PYTHON to an interpreter that can run meru,
# `prepare_python test` to one that can also run its tests: the active one if it has all packages
# (nothing is ever installed into it), else the one in .venv, which the first run creates.

project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
check=$project/scripts/check_environment.py
venv=$project/.venv
# Fingerprint of the last install; "unfinished" until the last step, so that an interrupted install starts over.
stamp=$venv/meru-installed

say() { echo "$1" >&2; }

fail() { # MESSAGE EXIT_CODE
    say "$1"
    exit "$2"
}

prepare_python() { # [test]
    PYTHON=$(active_python)
    if [ -n "$PYTHON" ] && lacking=$("$PYTHON" "$check" "$@" 2>/dev/null); then return; fi
    PYTHON=$venv/bin/python
    if ! venv_is_ready; then install_venv; fi
}

active_python() {
    local prefix
    for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        if [ -n "$prefix" ] && [ -x "$prefix/bin/python" ]; then
            echo "$prefix/bin/python"
            return
        fi
    done
    command -v python3 || command -v python || true
}

fingerprint() { cat "$project/pyproject.toml" "$project/constraints.txt" | cksum; }

venv_is_ready() {
    local installed
    installed=$(cat "$stamp" 2>/dev/null || true)
    # Without a stamp, the user made it, and it is used if complete. The check also detects a moved checkout.
    if [ -n "$installed" ] && [ "$installed" != "$(fingerprint)" ]; then return 1; fi
    "$PYTHON" "$check" test >/dev/null 2>&1
}

base_python() {
    local candidate wanted='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))'
    for candidate in python3.13 python3.12 python3.11 python3.10 python3; do
        # Run the candidate, because version managers put names on PATH without an interpreter behind them.
        if "$candidate" -c "$wanted" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "No Python >= 3.10 with venv and pip on PATH: install one (Debian: apt install python3-venv; conda:\
 conda create -n meru python=3.12, then activate it) and run this again." 2
}

install_venv() {
    local base
    base=$(base_python) || exit
    # One install at a time. The lock belongs to the open file 9, so it is released when this shell ends.
    exec 9>>"$project/constraints.txt"
    "$base" - <<'EOF' || say "No locks on this file system: start nothing else until this has installed."
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another command is installing: waiting for it ...", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    sys.exit(1)
EOF
    if ! venv_is_ready; then fill_venv "$base"; fi
    exec 9>&-
}

fill_venv() { # BASE_PYTHON
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        say "The active environment is left as it is; it lacks: ${lacking:-Python >= 3.10}."
    fi
    SECONDS=0
    if [ "$(cat "$stamp" 2>/dev/null)" = unfinished ] || ! "$PYTHON" -c '' 2>/dev/null; then
        rm -rf "$venv"
    fi
    mkdir -p "$venv"
    echo unfinished >"$stamp"
    if [ -x "$PYTHON" ]; then
        say "Bringing $venv up to date ..."
    else
        say "Setting up $venv (only once): downloading PyTorch and other packages, about 3 GB (7 GB on disk); this takes minutes ..."
        logged "$1" -m venv "$venv"
    fi
    logged "$PYTHON" -m pip install --no-input -c "$project/constraints.txt" -e "$project[test]"
    fingerprint >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "Installed in $SECONDS s with $("$PYTHON" --version)."
}

logged() { # COMMAND...
    if ! "$@" >"$venv/install.log" 2>&1 </dev/null; then
        grep -v '^WARNING' "$venv/install.log" | tail -n 15 >&2 || true
        say "Installing failed as shown above; more in $venv/install.log."
        fail "Check the network and the free disk space, then run this again." 1
    fi
}
