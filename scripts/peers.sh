#!/bin/sh
# Installs what the benchmarks compare snapfs with: what Debian packages, and DVC from PyPI in an environment
# of its own.  Says what it does; safe to run again.
#   usage: peers.sh DIRECTORY      (gets DIRECTORY/bin, to be put behind PATH; PYTHON names the interpreter)
# S3QL is in neither place: where mkfs.s3ql, mount.s3ql and umount.s3ql are in PATH it takes part.
set -eu

place=$1
python=${PYTHON:-python3}
# fio measures; gcc compiles the tree of `sourcetree`.
packages='bindfs fio btrfs-progs git git-lfs git-annex borgbackup restic gcc libc6-dev'

say() {
    echo "peers: $*"
}

missing=
for package in $packages; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ]; then
        say "$package $(dpkg-query -W -f '${Version}' "$package") is here"
    else
        missing="$missing $package"
    fi
done
if [ -n "$missing" ]; then
    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
    fi
    if command -v apt-get >/dev/null && { [ -z "$as_root" ] || command -v sudo >/dev/null; }; then
        say "installing$missing"
        $as_root apt-get update --quiet
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $missing
    else
        say "these are left out, as they cannot be installed here (no apt-get, or no root):$missing"
    fi
fi

if [ -x "$place/bin/dvc" ] && "$place/bin/dvc" --version >/dev/null 2>&1; then
    say "DVC $("$place/bin/dvc" --version) is here"
else
    say "installing DVC into $place"
    "$python" -m venv --clear "$place/dvc"
    "$place/dvc/bin/python" -m pip install --disable-pip-version-check --quiet dvc
    mkdir -p "$place/bin"
    ln -sf ../dvc/bin/dvc "$place/bin/dvc"
    say "DVC $("$place/bin/dvc" --version)"
fi

if command -v mount.s3ql >/dev/null; then
    say "S3QL is here"
else
    say "S3QL is left out: no mount.s3ql in PATH (https://github.com/s3ql/s3ql)"
fi
