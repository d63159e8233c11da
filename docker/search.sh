#!/bin/sh
# Starts a search, or goes on with it: a container, a pod or a job may be started again at any time.
#   search.sh NAME CONFIG [OPTION...]      options of `detkds search`
# The database stands in DETKDS_STORAGE, the head of the Ray cluster in RAY_HEAD, as host:port.
set -eu
name=$1
config=$2
shift 2
if detkds trials "$name" --work-dir "${WORK:-/runs}/$name" >/dev/null 2>&1; then
    set -- "$@" --resume
fi
exec detkds search "$config" --name "$name" --work-dir "${WORK:-/runs}/$name" \
    --cfg-options "resources.address=$RAY_HEAD" "$@"
