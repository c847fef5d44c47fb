#!/usr/bin/env bash
# Trains on a Cloud TPU slice from a queued resource; `all` goes from nothing to the end, through preemptions.
# A slice is billed from ACTIVE until it is deleted: `all` deletes it at the end, otherwise `delete` is yours.
# PROJECT=… ZONE=… TPU=v5p-128 ./launch/tpu_pod.sh all -- --config=configs/paper_6_7b.py --workdir=gs://BUCKET/paper
#
# create | wait | install | run -- ARGUMENTS | logs [WORKER|all] | status | stop | delete | all -- ARGUMENTS, and --dry-run.
# ARGUMENTS go to rlhf-jax run on every worker. Tracked files are copied there, with uncommitted changes. Slice and
# ARGUMENTS are checked before anything is asked of Google, by the active environment or by .venv, made where it is not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

name=${NAME:-rlhf-jax}     # of the queued resource and of its node
capacity=${CAPACITY:-spot} # spot (cheap, can be taken away), on-demand or reserved
pause=${PAUSE:-60}         # seconds between two looks
max_starts=5               # on one slice; a run that loses a machine more often than that is given up

# Sets what a slice is created with: `tier` and `image`.
choose_slice() {
    need TPU v5p-128
    need_slice
    case $capacity in
        spot | reserved) tier=("--$capacity") ;;
        on-demand) tier=() ;;
        *) fail "CAPACITY is '$capacity': spot, on-demand or reserved" ;;
    esac
    image=${RUNTIME:-}
    [[ -n $image ]] || case $TPU in
        v6e-*) image=v2-alpha-tpuv6e ;;
        v5p-*) image=v2-alpha-tpuv5 ;;
        v5litepod-*) image=v2-alpha-tpuv5-lite ;;
        v4-*) image=tpu-ubuntu2204-base ;;
    esac
    [[ -n $image ]] || fail "TPU is '$TPU': set RUNTIME to its software version"
}

is_tracked() {
    git ls-files --error-unmatch -- "$1" >/dev/null 2>&1
}

check_run() {
    need_run
    need_bucket
    need_copied is_tracked
}

create() {
    run "${queued[@]}" create "$name" --node-id="$name" "${place[@]}" --accelerator-type="$TPU" \
        --runtime-version="$image" "${tier[@]}"
    dry_state=ACTIVE
}

delete() {
    run "${queued[@]}" delete "$name" "${place[@]}" --force --quiet
}

# Sets `now` to the state of the queued resource, NONE where there is no such one. The first look must get an answer;
# later ones are repeated, since a night without network is no reason to leave a slice alone.
look() {
    local answer
    if answer=$(run "${queued[@]}" list "${place[@]}" --filter="name~/$name\$" --format='value(state.state)'); then
        now=${answer:-NONE}
    elif [[ -n $now ]]; then
        now=UNKNOWN
    else
        fail "gcloud does not tell the state of $name"
    fi
    [[ -z $dry_run ]] || now=$dry_state
}

wait_until_active() {
    look
    until [[ $now == ACTIVE ]]; do
        case $now in
            NONE) fail "there is no queued resource $name: create it first" ;;
            FAILED | SUSPENDED) fail "$name is $now: status tells why; delete it and create it again" ;;
        esac
        pause
        look
    done
    say "$name is ACTIVE, and billed until it is deleted"
}

pause() {
    say "$(date '+%F %T') $name is $now${standing:+, the run is $standing}; looking again in $pause s"
    [[ -n $dry_run ]] || sleep "$pause"
}

# on WORKER|all COMMAND [FLAG]: a shell command on one worker or on all.
on() {
    run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2" "${@:3}"
}

install() {
    local commit
    run mkdir -p runs
    commit=$(run git stash create) # a commit of the changes, which touches nothing; without any, no name
    run git archive --format=tar.gz --output="runs/$name.tar.gz" "${commit:-HEAD}"
    run gcloud compute tpus tpu-vm scp "runs/$name.tar.gz" "$name:rlhf_jax.tar.gz" "${place[@]}" --worker=all
    on all 'mkdir -p rlhf_jax && tar -xzf rlhf_jax.tar.gz -C rlhf_jax && rlhf_jax/launch/worker.sh install'
}

start() {
    on all "$(quote rlhf_jax/launch/worker.sh start "${arguments[@]}")"
}

# Sets `standing` to that of the run on all workers together: running, finished, failed, stopped, or nothing
# where no worker answers. Stopped is a run that lost a machine (exit status 3 on the others), was told to end by
# a machine that shuts down (143), or never began.
look_at_run() {
    local lines
    standing=
    lines=$(on all 'test ! -d rlhf_jax || rlhf_jax/launch/worker.sh status') || return 0
    [[ -z $dry_run ]] || lines='rlhf_jax: exit 0'
    lines=$(sed -n 's/^rlhf_jax: //p' <<<"$lines" | sort -u)
    if grep -qx running <<<"$lines"; then
        standing=running
    elif [[ $lines == 'exit 0' ]]; then
        standing=finished
    elif grep -Eqvx 'none|gone|exit (0|3|143)|' <<<"$lines"; then
        standing=failed
    else
        standing=stopped
    fi
}

# Ends everything: with the reason of a failure, or with none.
finish() {
    run mkdir -p "runs/$name"
    on all 'cat rlhf_jax/runs/worker.log' --output-directory="runs/$name" || echo "the logs could not be fetched" >&2
    delete
    trap - EXIT
    [[ -z ${1:-} ]] || fail "$1; the logs are in runs/$name"
    say "the run is finished, the logs are in runs/$name"
    exit
}

# The next step of an ACTIVE slice. What an earlier run left there counts for nothing: `begun` is empty at first.
tend() {
    look_at_run
    case $standing${begun:+, begun} in
        running*) begun=yes ;;
        'finished, begun') finish ;;
        'failed, begun') finish "the run failed" ;;
        ', begun') ;; # nobody answers: the run needs nobody to watch it
        *)
            ((++starts <= max_starts)) || finish "the run lost a machine $max_starts times on this slice"
            install
            start
            begun=yes
            ;;
    esac
}

# Every turn looks where things stand and takes the next step, so that it may be interrupted and called again.
follow() {
    begun='' starts=0 dry_state=NONE
    trap 'echo "not watching $name any more; if it is there it is billed: all watches again, delete ends it" >&2' EXIT
    while true; do
        look
        standing=
        case $now in
            NONE) create ;;
            ACTIVE) tend ;;
            FAILED | SUSPENDED) # preempted, or not provisioned: the next turn creates it again
                delete
                starts=0
                ;;
        esac
        pause
    done
}

split "$@"
need PROJECT my-project
need ZONE us-east5-a
place=(--project="$PROJECT" --zone="$ZONE")
queued=(gcloud compute tpus queued-resources)
now='' standing='' dry_state=ACTIVE
need_numbers PAUSE
case ${words[0]:-} in
    logs) need_words 2 ;;
    *) need_words 1 ;;
esac
case ${words[0]:-} in
    create | all) choose_slice ;;&
    run | all) check_run ;;&
    create) create ;;
    wait) wait_until_active ;;
    install) install ;;
    run) start ;;
    logs) on "${words[1]:-0}" 'tail -n 100 -F rlhf_jax/runs/worker.log' ;;
    status)
        run "${queued[@]}" describe "$name" "${place[@]}"
        look
        [[ $now != ACTIVE ]] || on all 'test ! -d rlhf_jax || rlhf_jax/launch/worker.sh status'
        ;;
    stop) on all 'rlhf_jax/launch/worker.sh stop' ;;
    delete) delete ;;
    all) follow ;;
    *) fail "'${words[0]:-}' is not create, wait, install, run, logs, status, stop, delete or all" ;;
esac
