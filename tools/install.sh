#!/bin/sh
# Makes the virtual environment VENV with all that the Makefile needs. Usage: install.sh VENV [REQUIREMENT...]   (PYTHON: the interpreter to
# make it with). Requirements narrow what is chosen: 'transformers>=4.57,<5'.
# A CPU build of torch goes in first, because plain `pip install torch` brings gigabytes of CUDA on Linux.
set -eu

venv=${1:?usage: install.sh VENV [REQUIREMENT...]}
shift
python=${PYTHON:-python3}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { printf '%s\n' "$*" >&2; }

make_venv() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        say "error: $python is missing or older than Python 3.10; choose another one: make PYTHON=python3.12 ..."
        exit 1
    }
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# try_torch WHAT PIP_ARGUMENTS...: quiet, and quick to give up; what went wrong is kept for the end.
try_torch() {
    say "installing torch: $1"
    shift
    pip install --quiet --retries 1 "$@" >>"$log" 2>&1
}

install_torch() {
    try_torch "CPU build 2.13.0 from the configured index" 'torch==2.13.0+cpu' && return
    try_torch "CPU build from download.pytorch.org" --timeout 20 --index-url https://download.pytorch.org/whl/cpu 'torch>=2.6' && return
    try_torch "default build" 'torch>=2.6' && return
    say "error: torch could not be installed in $venv. What pip said:"
    cat "$log" >&2
    exit 1
}

has_torch() { "$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; }

[ -x "$venv/bin/python" ] || make_venv
has_torch || install_torch
say "installing nnsight_graph for development${*:+, with $*}"
pip install --quiet --editable '.[dev]' "$@" || {
    say "error: 'pip install --editable .[dev] $*' failed in $venv"
    exit 1
}
