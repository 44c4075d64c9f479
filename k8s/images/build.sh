#!/bin/sh
# What the image build does in Python; a test runs it without Docker.
#   build.sh packages LOCK TARGET    a virtual environment at TARGET with exactly the lock's packages
#   build.sh raymill SOURCE TARGET   raymill itself into it, then everything is checked and trimmed
set -eu

pip() {
    "$target/bin/python" -m pip --no-input --disable-pip-version-check "$@"
}

case "$1" in
packages)
    lock=$2 target=$3
    python3 -m venv "$target"
    if grep -q '^vllm==' "$lock"; then
        # torch names exactly the CUDA packages that it was built with; they are not the lock's to choose.
        pip install --quiet --no-cache-dir --constraint "$lock" "$(grep '^torch==' "$lock")"
    fi
    # --no-deps: the lock is complete; see requirements/install.sh.
    pip install --quiet --no-cache-dir --no-deps --requirement "$lock"
    ;;
raymill)
    source=$2 target=$3
    pip install --quiet --no-cache-dir --no-deps --no-build-isolation "$source"
    # From elsewhere: the source folder would be imported in place of what was installed.
    (cd / && "$target/bin/python" -m k8s.images.contents && "$target/bin/raymill" --version)
    pip uninstall --quiet --yes pip
    find "$target" -type d \( -name tests -o -name __pycache__ \) -path '*/site-packages/*' \
        -prune -exec rm -rf {} +
    ;;
*)
    echo "build.sh: packages LOCK TARGET | raymill SOURCE TARGET" >&2
    exit 2
    ;;
esac
