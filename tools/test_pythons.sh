#!/bin/sh
# Runs the tests that need no torch on every Python from 3.10 to 3.14 that is installed: on PATH, or by pyenv in the home directory.
# Each Python gets a small environment of its own, .venvs/3.x, without torch; the package is taken from this folder.
set -eu

cd "$(dirname "$0")/.."
packages="pytest hypothesis msgspec"
failed=""

is_version() { [ "$("$1" -c 'import sys; print("3.%d" % sys.version_info[1])' 2>/dev/null)" = "$2" ]; }

find_python() {
    for candidate in "$(command -v "python$1" || true)" "$HOME"/.pyenv/versions/"$1"*/bin/python; do
        if [ -x "$candidate" ] && is_version "$candidate" "$1"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

# prepare VENV PYTHON: done again when the list of packages changed.
prepare() {
    if [ -x "$1/bin/python" ] && [ "$(cat "$1/installed" 2>/dev/null)" = "$packages" ]; then return; fi
    rm -rf "$1"
    # shellcheck disable=SC2086
    "$2" -m venv "$1" && "$1/bin/python" -m pip --disable-pip-version-check install --quiet $packages && printf '%s' "$packages" >"$1/installed"
}

run_tests() {
    export PYTHONPATH=. PYTHONPYCACHEPREFIX="$1/pycache"
    "$1/bin/python" -m compileall -q nnsight_graph && "$1/bin/python" -m pytest -q -m torch_free -p no:cacheprovider tests
}

for version in 3.10 3.11 3.12 3.13 3.14; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        printf 'Python %s: not installed, skipped\n' "$version"
        continue
    fi
    printf 'Python %s: %s\n' "$version" "$("$python" --version)"
    (prepare ".venvs/$version" "$python" && run_tests ".venvs/$version") || failed="$failed $version"
done

[ -z "$failed" ] || { printf 'failed on Python%s\n' "$failed" >&2; exit 1; }
