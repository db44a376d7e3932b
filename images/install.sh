#!/bin/sh
# Installs what an image of videojob holds, at PREFIX (/opt/videojob in the images):
#
#   install.sh packages PREFIX GROUP    the locked packages, in a virtual environment
#   install.sh code PREFIX GROUP        videojob itself and the models' templates, PREFIX/model_repo
#
# GROUP is videojob (operator and runner) or triton. The two steps are two layers of an image, so that a new version of the code
# does not bring gigabytes of packages again. $PYTHON makes the environment, and needs pip; it is python3 by default.
set -eu

usage() {
    echo "usage: install.sh packages|code PREFIX videojob|triton" >&2
    exit 2
}
[ $# -eq 3 ] || usage
step=$1 prefix=$2 group=$3
python=${PYTHON:-python3}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ -f "$here/$group.lock" ] || usage

case $step in
packages)
    # pip stays outside: nothing in a running container installs anything.
    "$python" -m venv --without-pip "$prefix"
    "$python" -m pip --python "$prefix/bin/python" --disable-pip-version-check install --quiet --no-cache-dir --no-deps \
        --require-hashes --only-binary :all: --requirement "$here/$group.lock"
    ;;
code)
    packages=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rm -rf "$packages/videojob" "$prefix/model_repo"
    cp -R "$here/../operator/videojob" "$packages/videojob"
    cp -R "$here/../model_repo" "$prefix/model_repo"
    find "$packages/videojob" "$prefix/model_repo" -name __pycache__ -prune -exec rm -r {} +
    # The root is read-only in a pod: what is not compiled here is compiled at every start.
    "$prefix/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$packages/videojob"
    if [ "$group" = triton ]; then
        cp "$here/videojob-triton" "$prefix/bin/videojob-triton"
        chmod 755 "$prefix/bin/videojob-triton"
    fi
    ;;
*) usage ;;
esac
