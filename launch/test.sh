#!/usr/bin/env bash
# Style, types and tests, except tests marked slow, live, pod or reliability. Arguments go to pytest: -k checkpoint.
# NEWEST=1 runs the tests alone, with the newest version of every package; see docs/testing.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"
usage "$@"
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [[ -z ${NEWEST:-} ]]; then
    ruff check .
    ruff format --check .
    mypy
fi
python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder --durations=25 --durations-min=5 \
    -m "not slow and not live and not pod and not reliability" "$@"
