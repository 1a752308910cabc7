#!/usr/bin/env bash
# Installs Baton into one folder, as an image holds it: DIR/bin, the model that Baton ships, the health check.
# Run by the Dockerfile, and by hand where no Docker runs:
#
#   helm/images/install.sh control /opt/baton
#
# Arguments: control, cpu or gpu; a folder that is not there yet, at the path where it will be used.
# Reads: PYTHON (optional; a Python 3.11). Needs an index that pip can reach. Exit status 2: wrong usage.
set -euo pipefail

if [ $# -ne 2 ] || [ -e "$2" ]; then
    echo "usage: install.sh control|cpu|gpu DIR (not there yet)" >&2
    exit 2
fi
target="$1"
folder="$2"
source="$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)"

"${PYTHON:-python3.11}" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check --no-input install --no-compile)

case "$target" in
    control) "${pip[@]}" --no-deps --require-hashes --requirement "$source/.ci/lock/control.txt" ;;
    cpu) "${pip[@]}" --no-deps --require-hashes --requirement "$source/.ci/lock/engine.txt" ;;
    # The CUDA packages are not locked here: pip resolves them, with what both sides share held to the lock.
    gpu)
        sed -n 's/^\([a-z0-9-]*==[^ ]*\) .*/\1/p' "$source/.ci/lock/control.txt" > "$folder/constraints.txt"
        "${pip[@]}" --requirement "$folder/constraints.txt" --constraint "$folder/constraints.txt"
        "${pip[@]}" --constraint "$folder/constraints.txt" "$source[gpu]"
        ;;
    *)
        echo "install.sh: no target '$target'" >&2
        exit 2
        ;;
esac
# Built from a copy: a build leaves folders beside the sources.
copy="$(mktemp -d)"
cp -r "$source"/{pyproject.toml,README.md,LICENSE,services,planner} "$copy"
"${pip[@]}" --no-deps --no-build-isolation --force-reinstall "$copy"
rm -rf "$copy"
"$folder/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes pip

model="$("$folder/bin/python" -I -c 'import pathlib, services.tinymodel as m; print(pathlib.Path(m.__file__).parent / "weights")')"
mkdir -p "$folder/models"
ln -s "$model" "$folder/models/baton-tiny"
install -m 0644 "$source/helm/images/healthcheck.py" "$folder/healthcheck.py"
echo "install.sh: $target is in $folder"
