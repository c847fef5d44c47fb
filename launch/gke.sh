#!/usr/bin/env bash
# Trains on a GKE cluster with TPUs through XPK: builds and pushes an image, submits it, restarts it after preemptions.
# The cluster's nodes are billed whether a run goes on or not: `delete` ends the run, `xpk cluster delete` the bill.
# PROJECT=… ZONE=… CLUSTER=… TPU=v5p-128 IMAGE=… ./launch/gke.sh run -- --config=configs/paper_6_7b.py --workdir=gs://…
#
# run -- ARGUMENTS | status | delete, and --dry-run. ARGUMENTS go to rlhf-jax run on every worker. They and TPU are
# checked before an image is built, by the active environment or by .venv, which is made where it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

name=${NAME:-rlhf-jax}       # of the workload
slices=${SLICES:-1}          # of TPU each
restarts=${MAX_RESTARTS:-50} # then the run is given up

is_in_image() { # of which launch/Dockerfile.dockerignore keeps these two
    [[ ${1#./} != @(data|runs) && ${1#./} != @(data|runs)/* ]]
}

submit() {
    run docker build --file=launch/Dockerfile --build-arg=EXTRA=tpu --tag="$IMAGE" .
    run docker push "$IMAGE"
    # Exit status 3 says that another worker was lost; XPK restarts by itself after signals only.
    run xpk workload create --workload="$name" "${place[@]}" --tpu-type="$TPU" --num-slices="$slices" \
        --docker-image="$IMAGE" --max-restarts="$restarts" --restart-on-exit-codes=3 \
        --command="cd /rlhf_jax && $(quote rlhf-jax run "${arguments[@]}")"
}

split "$@"
need PROJECT my-project
need ZONE us-east5-a
need CLUSTER my-cluster
place=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")
need_words 1
case ${words[0]:-} in
    run)
        need TPU v5p-128
        need IMAGE us-docker.pkg.dev/my-project/images/rlhf_jax
        need_numbers SLICES MAX_RESTARTS
        need_slice
        need_run
        need_bucket
        need_copied is_in_image
        submit
        ;;
    status) run xpk workload list "${place[@]}" --filter-by-job="$name" ;;
    delete) run xpk workload delete --workload="$name" "${place[@]}" --force ;;
    *) fail "'${words[0]:-}' is not run, status or delete" ;;
esac
