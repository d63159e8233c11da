#!/bin/bash
# A search on a SLURM cluster: sbatch docker/slurm.sh NAME CONFIG [OPTION...]
# A job that is preempted, or whose time is over, is queued again and goes on. All nodes see the
# folder that the job is submitted from, which has the virtual environment .venv.
#SBATCH --job-name=detkds
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

source .venv/bin/activate
export WORK=${WORK:-$PWD/runs}
# Only this user's processes may use the cluster.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (umask 077 && mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")" \
        && openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH")
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_HEAD=${nodes[0]}:$port

srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
    ray start --head --block --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --dashboard-host=127.0.0.1 --disable-usage-stats &
until ray health-check --address "$RAY_HEAD" 2>/dev/null; do
    sleep 2
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" \
        ray start --block --address="$RAY_HEAD" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats &
done

# SLURM signals this script alone. An interrupted search says how to go on; here the queue does.
docker/search.sh "$@" &
search=$!
trap 'kill -TERM "$search"' TERM
code=0
wait "$search" || code=$?
trap - TERM
if [ "$code" -gt 128 ]; then
    wait "$search" || code=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
