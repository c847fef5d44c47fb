# shellcheck shell=bash
# Sourced by the scripts beside it: enters the repository and its .venv, which install.sh makes or brings up to date,
# and says how memory is given out. In a shell of your own: source launch/setup.sh
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && bash launch/install.sh || return 2 2>/dev/null || exit 2

# Large buffers are reused instead of returned to the system, and lie in huge pages: on a CPU this spares
# page faults and misses of its table of pages, 5% of an update's time and 9% of sampling's.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}
PATH=$PWD/.venv${NEWEST:+-newest}/bin:$PATH
