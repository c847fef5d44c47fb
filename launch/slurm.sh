#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster; preempted or near its time limit, the job is queued again and resumes.
# Whole nodes are held, and charged to your account, until the run ends or `scancel JOB`.
# PARTITION=gpu NODES=4 ./launch/slurm.sh -- --config=configs/paper_6_7b.py --workdir=/shared/paper
#
# Variables, or lines NAME=VALUE of launch/slurm.env, over which variables win: PARTITION, ACCOUNT, TIME (limit of
# the job, such as 12:00:00), MODULES (loaded here and in the job, split at spaces), NODES, GPUS (of one node), NAME,
# WARNING (seconds before the limit at which the job goes back to the queue). Options before -- go to sbatch (except
# --dry-run), the others to rlhf-jax run; they are checked before anything is submitted. One task a GPU: JAX takes the
# task's rank on its node as the GPU's number, so every task must see all GPUs (no --gpus-per-task). This folder with
# its .venv, and the work folder, must be on storage that all nodes share.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
[[ -f $here/commands.sh ]] || here=$SLURM_SUBMIT_DIR/launch # in a job this file is a copy elsewhere
cd "$here/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

# Variables from launch/slurm.env, where they are not set.
settings() {
    local line name number=0
    [[ -f launch/slurm.env ]] || return 0
    while read -r line || [[ -n $line ]]; do
        ((++number))
        [[ -n $line && $line != '#'* ]] || continue
        name=${line%%=*}
        [[ $line == *=* && " PARTITION ACCOUNT TIME MODULES NODES GPUS NAME WARNING " == *" $name "* ]] ||
            fail "launch/slurm.env, line $number: '$line' is not PARTITION=, ACCOUNT=, TIME=, MODULES=, NODES=, GPUS=," \
                "NAME= or WARNING="
        [[ -n ${!name:-} ]] || printf -v "$name" %s "${line#*=}"
    done <launch/slurm.env
}

load() {
    local status
    [[ $# != 0 ]] || return 0
    # A batch job does not read what gives a login shell its `module`.
    # shellcheck disable=SC1091
    command -v module >/dev/null || [[ ! -f ${MODULESHOME:-}/init/bash ]] || source "$MODULESHOME/init/bash"
    set +u # which the modules of some clusters do not bear
    run module load "$@" || status=$?
    set -u
    return "${status:-0}"
}

submit() {
    local modules options=()
    settings
    need_numbers NODES GPUS WARNING
    read -ra modules <<<"${MODULES:-}"
    load "${modules[@]}"
    need_run
    [[ -z ${PARTITION:-} ]] || options+=("--partition=$PARTITION")
    [[ -z ${ACCOUNT:-} ]] || options+=("--account=$ACCOUNT")
    [[ -z ${TIME:-} ]] || options+=("--time=$TIME")
    run mkdir -p runs
    run env EXTRA=cuda bash launch/install.sh
    run sbatch --job-name="${NAME:-rlhf-jax}" --nodes="${NODES:-1}" --ntasks-per-node="${GPUS:-8}" \
        --gres="gpu:${GPUS:-8}" --exclusive --requeue --signal="B:USR1@${WARNING:-300}" --open-mode=append \
        --output=runs/slurm-%j.log "${options[@]}" "${words[@]}" launch/slurm.sh "${modules[@]}" -- "${arguments[@]}"
}

# Inside the job, where modules stand before --. Before the time limit SLURM warns this shell, which tells the tasks to
# end and puts the job back in the queue. A preemption tells the tasks by itself, and --requeue puts the job back.
train() {
    local status=0 warned=
    [[ ${words[*]} != *--* ]] || fail "'${words[*]}': this is job $SLURM_JOB_ID already, only -- ARGUMENTS can be given"
    load "${words[@]}"
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
if [[ -n ${SLURM_JOB_ID:-} ]]; then train; else submit; fi
