#!/usr/bin/env bash
# Does on one machine what tpu_pod.sh asks of every worker: install, start or stop the run, say how it stands.
# Costs what its machine costs. The run outlives the ssh session; its log, process id and exit status are in runs/.
# ./launch/worker.sh install | status | stop | start --config=configs/mini.py --workdir=gs://BUCKET/mini
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

# none: never started; running; exit N; gone: ended without a word, as after a reboot.
standing() {
    if [[ -f runs/worker.exit ]]; then
        echo "exit $(<runs/worker.exit)"
    elif [[ ! -f runs/worker.pid ]]; then
        echo none
    elif kill -0 "$(<runs/worker.pid)" 2>/dev/null; then
        echo running
    else
        echo gone
    fi
}

usage "${1:-}"
action=${1:-}
[[ $# == 0 ]] || shift
[[ $action == start || $# == 0 ]] || fail "'$1': only start takes arguments"
case $action in
    install) # the image's Python is older than ours: uv, from PyPI, fetches one
        python3 -m pip install --quiet --user uv
        python3 -m uv python install --quiet 3.11
        PYTHON=$(python3 -m uv python find --system 3.11) EXTRA=${EXTRA:-tpu} bash launch/install.sh
        ;;
    start)
        if [[ $(standing) == running ]]; then
            fail "a run goes on here since $(date -r runs/worker.pid), nothing was started"
        fi
        .venv/bin/python -Ic 'import rlhf_jax' || fail ".venv is not whole here: worker.sh install makes it"
        mkdir -p runs
        rm -f runs/worker.exit
        # shellcheck disable=SC2016  # expanded by the inner shell
        nohup setsid bash -c '.venv/bin/rlhf-jax run "$@"; echo $? >runs/worker.exit' run "$@" \
            >>runs/worker.log 2>&1 </dev/null 3>&- & # 3 is the session's output as well
        echo $! >runs/worker.pid
        ;;
    stop) # the run saves its step and ends with status 143; the shell around it stays to write that down
        [[ $(standing) != running ]] || pkill -TERM --parent "$(<runs/worker.pid)"
        ;;
    status) echo "rlhf_jax: $(standing)" ;;
    *) fail "'$action' is not install, start, stop or status" ;;
esac
