#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster; preempted or near its time limit, the job is queued again and resumes.
# Whole nodes are held, and charged to your account, until the run ends or `scancel JOB`.
# NODES=4 GPUS=8 ./launch/slurm.sh --partition=gpu -- --config=configs/paper_6_7b.py --workdir=/shared/paper
#
# Options before -- go to sbatch (except --dry-run), the others to rlhf-jax run. One task a GPU: JAX takes the task's
# rank on its node as the GPU's number, so every task must see all GPUs (no --gpus-per-task). This folder with its
# .venv, and the work folder, must be on storage that all nodes share.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # in a job this file is a copy elsewhere
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

name=${NAME:-rlhf-jax}
nodes=${NODES:-1}
gpus=${GPUS:-8}         # of one node
warning=${WARNING:-300} # seconds before the time limit at which it goes back to the queue

submit() {
    run mkdir -p runs
    run env EXTRA=cuda bash -e launch/setup.sh
    run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gres="gpu:$gpus" --exclusive \
        --requeue --signal="B:USR1@$warning" --open-mode=append --output=runs/slurm-%j.log "${words[@]}" \
        launch/slurm.sh -- "${arguments[@]}"
}

# Inside the job. Before the time limit SLURM warns this shell, which tells the tasks to end and puts the job back
# in the queue. A preemption tells the tasks by itself, and --requeue puts the job back.
train() {
    local status=0 warned=
    trap 'warned=yes; run scancel --signal=TERM "$SLURM_JOB_ID"' USR1
    run srun --cpu-bind=none .venv/bin/rlhf-jax run "${arguments[@]}" &
    wait $! || status=$?
    if [[ -n $warned ]]; then # which cut the waiting short
        wait $! || true
        run scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$status"
}

split "$@"
need_arguments
if [[ -n ${SLURM_JOB_ID:-} ]]; then train; else submit; fi
