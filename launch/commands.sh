# shellcheck shell=bash
# Sourced by the scripts beside it: their command line, commands that --dry-run only shows, errors of one line.
fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old: 4.4 or newer is needed"
exec 3>&1 # where commands are shown, also from within $(…)

# split WORD… -- ARGUMENT…: fills `words` and `arguments`, and takes --dry-run out of the words.
split() {
    dry_run='' words=() arguments=()
    while [[ $# != 0 && $1 != -- ]]; do
        if [[ $1 == --dry-run ]]; then dry_run=yes; else words+=("$1"); fi
        shift
    done
    arguments=("${@:2}")
}

# need VARIABLE EXAMPLE: a variable of the environment that has no default.
need() {
    [[ -n ${!1:-} ]] || fail "$1 is not set: for example $1=$2 $0 …"
}

need_arguments() {
    [[ ${#arguments[@]} != 0 ]] || fail "nothing stands after --: for example $0 … -- --config=configs/mini.py"
}

# quote WORD…: one line that a shell reads back as the same words.
quote() {
    local word line='' mark="'" escaped="'\\''"
    for word; do
        [[ -n $word && $word != *[!A-Za-z0-9_./:=,@%+-]* ]] || word=$mark${word//$mark/$escaped}$mark
        line+=${line:+ }$word
    done
    echo "$line"
}

say() {
    [[ -n $dry_run ]] || echo "$*"
}

# run COMMAND…: shows a command, then runs it unless this is a dry run.
run() {
    quote "$@" >&3
    [[ -z $dry_run ]] || return 0
    command -v "$1" >/dev/null || fail "$1 is not installed or not on PATH"
    "$@"
}
