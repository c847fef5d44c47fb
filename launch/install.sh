#!/usr/bin/env bash
# Makes .venv, or brings it up to date, and does nothing where it is whole; setup.sh calls it at every start.
# It costs gigabytes of disk and of network where it installs. One start installs at a time, the others wait.
# PYTHON=python3.11 EXTRA=cuda ./launch/install.sh
#
# PYTHON is what an environment is made of; without it, one that is there stays as it is. EXTRA=cuda or EXTRA=tpu adds
# the accelerator's packages. NEWEST=1 takes, into .venv-newest, the newest version of every package. A virtual
# environment that is half made, was moved or copied, or whose Python has gone or is another, is made anew.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source-path=SCRIPTDIR source=commands.sh
source launch/commands.sh

python=${PYTHON:-python3}
venv=$PWD/.venv${NEWEST:+-newest}

version_of() {
    "$1" -Ic 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null
}

is_of_that_python() {
    [[ -z ${PYTHON:-} || $(version_of "$PYTHON") == "$(version_of "$venv/bin/python")" ]]
}

# What is installed, and where. Differs from the stamp where the lists have changed, where the environment was moved or
# copied, and where its Python, or the package in it, has gone or is another.
identity() {
    cat requirements.txt pyproject.toml | cksum
    "$venv/bin/python" -Ic '
import importlib.metadata, platform, sys
places = [found.read_text("direct_url.json") for found in importlib.metadata.distributions(name="rlhf-jax")]
print(sys.prefix, *sys.version_info[:2], platform.machine(), *places)' 2>/dev/null
}

is_whole() {
    [[ $was == "extra=$extra"$'\n'"$(identity)" ]] && is_of_that_python
}

# Whether pip works there and installs into this folder, not into the one of which this is a copy.
has_pip() {
    local told place
    told=$("$venv/bin/pip" --version 2>/dev/null) || return 1
    place=${told#* from } place=${place% (python*}
    place=$(cd -P "$place" 2>/dev/null && pwd) && [[ $place == "$(cd -P "$venv" && pwd)"/* ]]
}

read_stamp() {
    was='' extra=${EXTRA:-}
    if [[ -f $venv/stamp ]]; then was=$(<"$venv/stamp"); fi
    if [[ -z $extra && $was == extra=* ]]; then # what was added stays
        extra=${was%%$'\n'*} extra=${extra#extra=}
    fi
}

refuse() {
    [[ ! -L $venv || -e $venv ]] || fail "$venv is a link that leads nowhere: remove it"
    [[ ! -e $venv || -f $venv/pyvenv.cfg || (-d $venv && -z $(ls -A "$venv")) ]] ||
        fail "$venv is not a virtual environment: move it away"
    [[ -w . && (! -e $venv || -w $venv) ]] ||
        fail "$venv is missing or out of date and cannot be written: copy the repository to where you may write"
}

give_up() { # pip and venv do not always say that the disk is full
    local free
    read -r _ _ _ free _ < <(df -Pk "$venv" | tail -n 1)
    fail "$1: see above; $((free / 1024)) MiB are free there. Then start again"
}

make() {
    local version
    [[ ! -L $venv ]] || fail "$venv is a link to an environment that is not whole here: remove the link"
    version=$(version_of "$python") || fail "no Python answers to '$python': set PYTHON, for example PYTHON=python3.11"
    ((${version%.*} * 100 + ${version#*.} >= 311)) ||
        fail "Python 3.11 or newer is needed, '$python' is $version: set PYTHON, for example PYTHON=python3.11"
    if [[ $(dirname "$(command -v "$python")") -ef $venv/bin ]]; then # it would be removed with the rest
        python=$("$python" -Ic 'import sys; print(sys._base_executable)')
    fi
    mkdir -p "$venv"
    # These two stay to the last: they say that the folder may be removed, and that it is not whole.
    : >>"$venv/pyvenv.cfg"
    echo interrupted >"$venv/stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name pyvenv.cfg ! -name stamp -exec rm -rf {} +
    "$python" -m venv "$venv" || give_up "$python -m venv cannot make $venv"
}

install() {
    local packages=requirements.txt
    echo "setup: installing into $venv"
    if [[ $was == interrupted ]] || ! has_pip || ! is_of_that_python; then make; fi
    echo interrupted >"$venv/stamp"
    if [[ -n ${NEWEST:-} ]]; then
        packages=$venv/requirements.txt
        sed 's/==[^ ]*//' requirements.txt >"$packages"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$packages" -e ".${extra:+[$extra]}" ||
        give_up "the installation into $venv has failed"
    was="extra=$extra"$'\n'$(identity) || fail "$venv/bin/python does not run"
    echo "$was" >"$venv/stamp"
}

split "$@"
[[ $# == 0 ]] || fail "'$*': it takes variables, no arguments"
read_stamp
if is_whole; then exit; fi
refuse
exec {lock}>>"$venv.lock"
if command -v flock >/dev/null && ! flock --nonblock "$lock"; then # macOS has no flock
    echo "setup: another start installs into $venv, waiting for it"
    flock "$lock"
    read_stamp
    if is_whole; then exit; fi
fi
install
