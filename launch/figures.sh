#!/usr/bin/env bash
# Every figure of docs/results.md from nothing, in runs/figures. Started again, it resumes.
# RUNS=FOLDER and OUT=FOLDER name other places for the runs and the page. A verdict takes three seeds, SEEDS="0 1 2";
# the reward model of few comparisons is of the first alone.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"
usage "$@"
[[ $# == 0 ]] || fail "'$*': it takes variables, no arguments"
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

runs=${RUNS:-runs/figures} out=${OUT:-docs} seeds=${SEEDS:-0 1 2}
mkdir -p "$runs"
# Runs that differ in numbers alone share their compiled programs.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(realpath "$runs")/compiled}

page() { rlhf-jax results --runs="$runs" --out="$out"; }

# experiment COMMAND RUN OPTION…: makes the figures of rlhf-jax COMMAND, unless they are there.
experiment() {
    if [[ -f $runs/$2/${1#metric-}.json ]]; then return; fi
    rlhf-jax "$1" --workdir="$runs/$2" "${@:3}"
    page
}

for seed in $seeds; do
    rlhf-jax run --config=configs/mini.py --workdir="$runs/seed$seed" --config.seed="$seed"
    for name in probes transfer overoptimization methods; do experiment "$name" "seed$seed"; done
done
# Beside each run's reward model that of the run before it, against which its policies were not trained.
before=${seeds##* }
for seed in $seeds; do
    another=()
    if [[ $before != "$seed" ]]; then another=(--another="$runs/seed$before"); fi
    experiment metric-agreement "seed$seed" "${another[@]}"
    before=$seed
done
for seed in $seeds; do experiment feedback "seed$seed"; done
# Over-optimization once more, against a reward model that saw an eighth of the comparisons.
first=${seeds%% *}
for stage in sft collect reward; do
    if [[ -f $runs/weak$first/overoptimization.json ]]; then break; fi
    rlhf-jax run --config=configs/mini.py --config.data.mini_pairs=4000 --config.sft.bigger_pretrained= \
        --config.seed="$first" --workdir="$runs/weak$first" --stage="$stage"
done
experiment overoptimization "weak$first"
for seed in $seeds; do experiment scaling "seed$seed" --policies; done
page
