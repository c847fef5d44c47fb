#!/usr/bin/env bash
# The whole pipeline on the miniature, into runs/mini. Started again, it resumes.
# Arguments go to rlhf_jax.main, for example --config.seed=1 --workdir=runs/seed1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

python -m rlhf_jax.main --config=configs/mini.py --workdir=runs/mini "$@"
