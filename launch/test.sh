#!/usr/bin/env bash
# Style, types and tests, except tests marked slow, live, pod or reliability. Arguments go to pytest: -k checkpoint.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff check .
ruff format --check .
mypy
python -m pytest -q -n 2 --dist loadscope -m "not slow and not live and not pod and not reliability" "$@"
