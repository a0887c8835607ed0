#!/bin/sh
# Makes a machine ready: Debian packages, a virtual environment, snapfs installed in it (editable) with
# all extras at the pinned versions.  Safe to run again.
#   usage: setup.sh VENV LOCKFILE      (PYTHON names the interpreter; python3 unless told)
set -eu

venv=$1
lock=$2
python=${PYTHON:-python3}
# pyfuse3 is compiled at install time; Debian's python3 makes no virtual environment without python3-venv.
# fio and stress-ng are suites that the tests run on a mount.
packages='fuse3 libfuse3-dev pkg-config gcc libc6-dev python3 python3-dev python3-venv git ca-certificates fio stress-ng'

fail() {
    echo "setup: $*" >&2
    exit 1
}

missing_packages() {
    for package in $packages; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

# Debian keeps the tests of its Python, which are run on a mount too, in a package of their own.
python_tests() {
    [ "$(command -v "$python")" = /usr/bin/python3 ] || return 0
    tests=$("$python" -c 'import sys; print("libpython%d.%d-testsuite" % sys.version_info[:2])')
    apt-cache show "$tests" >/dev/null 2>&1 && echo "$tests" || true
}

install_packages() {
    packages="$packages $(python_tests)"
    missing=$(missing_packages)
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null; then
        as_root=sudo
    elif [ -z "$missing" ]; then
        return
    else
        fail "these packages are missing and there is no sudo; as root: apt-get install" $missing
    fi
    if [ -n "$missing" ]; then
        $as_root apt-get update
    fi
    # With nothing missing this only says so: --no-upgrade leaves the machine's versions alone.
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends --no-upgrade $packages
}

if command -v apt-get >/dev/null; then
    install_packages
else
    pkg-config --exists fuse3 2>/dev/null ||
        fail "no apt-get here: install fuse3 with its headers, pkg-config, gcc, Python's headers and git, then again"
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1), Python 3.11 or later is needed: make setup PYTHON=python3.11"

# An environment that no longer runs (Python upgraded, directory moved) is made anew.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear "$venv"
fi
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "$lock" \
    --editable '.[bench,demo,test,dev]'
# A command is felt at every commit; compiling its modules would be the larger part of it, each time, where Python may not
# write beside the sources.
"$venv/bin/python" -m compileall -q snapfs cli
"$venv/bin/snap" --version
