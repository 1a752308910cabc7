#!/usr/bin/env bash
# Tries an installation made by install.sh as a pod would run it: no rights, nothing of the caller's environment,
# no place to write but a temporary folder. Starts a whole cluster, asks one question, ends it.
#
#   helm/images/smoke.sh /opt/baton              simulated engines: any target
#   helm/images/smoke.sh /opt/baton vllm         real engines on the CPU: target cpu
#
# Exit status 0: it answered.
set -euo pipefail
folder="$1"
engine="${2:-simulated}"

home="$(mktemp -d)"
trap 'rm -rf "$home"' EXIT
as=()
if [ "$(id -u)" = 0 ]; then
    chown 10001:10001 "$home"
    as=(setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all)
fi
cd "$home"
"${as[@]}" env -i PATH="$folder/bin:/usr/bin:/bin" HOME="$home" TMPDIR="$home" PYTHONDONTWRITEBYTECODE=1 \
    baton demo --engine "$engine" < /dev/null
"${as[@]}" env -i PATH="$folder/bin:/usr/bin:/bin" nats-server --version
[ -r "$folder/models/baton-tiny/tokenizer.json" ]
echo "smoke.sh: $folder serves"
