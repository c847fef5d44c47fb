#!/usr/bin/env bash
# Trains on the GPUs of this machine, in .venv or in a container; started again, it resumes.
# A rented machine is billed until you give it back, which this script does not do. The run stays in its work folder.
# ./launch/gpu.sh [--docker] [--dry-run] -- --config=configs/tldr_pythia_1b.py --workdir=runs/pythia
#
# What stands after -- goes to rlhf-jax run, and is checked before anything is built or started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

image=${IMAGE:-rlhf_jax}

split "$@"
[[ ${words[*]} == @(|--docker) ]] ||
    fail "'${words[*]}' is not --docker or --dry-run; what goes to rlhf-jax run stands after --"
need_run
case ${words[*]} in
    '')
        run nvidia-smi --list-gpus || fail "no GPU answers: nvidia-smi --list-gpus should name them"
        run env EXTRA=cuda bash launch/install.sh
        run .venv/bin/rlhf-jax run "${arguments[@]}"
        ;;
    --docker)
        [[ ${workdir#./} == @(data|runs|gs:/)/* && $workdir != *../* ]] ||
            fail "--workdir=$workdir ends with the container, which keeps data/ and runs/ of this folder alone"
        need_copied true
        run docker build --file=launch/Dockerfile --build-arg=EXTRA=cuda --tag="$image" .
        run mkdir -p data runs
        # The IPC of the host: NCCL passes data between GPUs through shared memory, of which a container has little.
        run docker run --rm --gpus=all --ipc=host --env=HF_TOKEN \
            --volume="$PWD/data:/rlhf_jax/data" --volume="$PWD/runs:/rlhf_jax/runs" "$image" \
            rlhf-jax run "${arguments[@]}"
        ;;
esac
