# shellcheck shell=bash
# Sourced by the scripts beside it: enters the repository and its .venv, made where it is missing or out of date.
# EXTRA=cuda or EXTRA=tpu adds the accelerator's packages. NEWEST=1 takes, into .venv-newest, the newest version
# of every package in the place of that in requirements.txt.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "rlhf_jax needs Python 3.11 or newer, '$python' is not: set PYTHON, for example PYTHON=python3.11 $0" >&2
    exit 1
fi

venv=.venv${NEWEST:+-newest}
stamp=$(cat requirements.txt pyproject.toml | cksum)${EXTRA:+ $EXTRA}
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$stamp" ]]; then
    echo "setup: installing into $PWD/$venv"
    [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
    packages=requirements.txt
    if [[ -n ${NEWEST:-} ]]; then
        packages=$venv/requirements.txt
        sed 's/==[^ ]*//' requirements.txt >"$packages"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$packages" -e ".${EXTRA:+[$EXTRA]}"
    echo "$stamp" >"$venv/stamp"
fi
# Large buffers are reused instead of returned to the system, and lie in huge pages: on a CPU this spares
# page faults and misses of its table of pages, 5% of an update's time and 9% of sampling's.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}
PATH=$PWD/$venv/bin:$PATH
