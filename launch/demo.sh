#!/usr/bin/env bash
# The whole pipeline on the miniature, into runs/mini. Started again, it resumes.
# Arguments go to rlhf-jax run, for example --config.seed=1 --workdir=runs/seed1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"
usage "$@"
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

rlhf-jax run --config=configs/mini.py --workdir=runs/mini "$@"
