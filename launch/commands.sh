# shellcheck shell=bash
# Sourced by the scripts beside it: their command line, what they check before anything costs, commands that --dry-run
# only shows, errors of one line.
fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old: 4.4 or newer is needed"
exec 3>&1 # where commands are shown, also from within $(…)

# usage WORD…: where one of them asks for help, shows the head of the script and ends.
usage() {
    local word line
    for word; do
        case $word in
            --) return ;;
            -h | --help)
                while read -r line && [[ $line == '#'* ]]; do
                    [[ $line == '#!'* ]] || echo "${line#'#'}"
                done <"${BASH_SOURCE[0]%/*}/${0##*/}" | sed 's/^ //'
                exit
                ;;
        esac
    done
}

# split WORD… -- ARGUMENT…: fills `words` and `arguments`, and takes --dry-run out of the words.
split() {
    usage "$@"
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

# need_numbers VARIABLE…: where they are set, they are whole numbers.
need_numbers() {
    local variable
    for variable; do
        [[ ${!variable:-0} =~ ^[0-9]+$ ]] || fail "$variable is '${!variable}', not a whole number"
    done
}

# need_words N: no more than N words stand before --.
need_words() {
    ((${#words[@]} <= $1)) || fail "'${words[$1]}' is not an option; what goes to rlhf-jax run stands after --"
}

# need_slice: TPU is an accelerator type that there is, as Google's pages of TPU versions list them: of two cores a chip
# parts of a cube of 64 chips, or whole cubes. Of a version that is not known here RUNTIME must be given.
need_slice() {
    local count=${TPU##*-} most=12288
    case $TPU in
        v5litepod-* | v6e-*)
            [[ " 1 4 8 16 32 64 128 256 " == *" $count "* ]] ||
                fail "TPU is '$TPU': of ${TPU%-*} there are 1, 4, 8, 16, 32, 64, 128 and 256 chips"
            ;;
        v4-* | v5p-* | tpu7x-*)
            case $TPU in v4-*) most=8192 ;; tpu7x-*) most=18432 ;; esac
            [[ " 8 16 32 64 " == *" $count "* ]] ||
                { [[ $count =~ ^[1-9][0-9]{2,4}$ ]] && ((count % 128 == 0 && count <= most)); } ||
                fail "TPU is '$TPU': of ${TPU%-*} there are 8, 16, 32, 64 and multiples of 128 cores, up to $most"
            ;;
        *)
            [[ -n ${RUNTIME:-} ]] ||
                fail "TPU is '$TPU': not v4-N, v5litepod-N, v5p-N, v6e-N or tpu7x-N; set RUNTIME to its software version"
            ;;
    esac
}

# need_run: what stands after -- is a run that can be. Sets `workdir` to its work folder. The active environment says
# it, of the code of this repository; where none is active, .venv.
need_run() {
    local rlhf_jax
    [[ ${#arguments[@]} != 0 ]] || fail "nothing stands after --: for example $0 … -- --config=configs/mini.py"
    if ! rlhf_jax=$(command -v rlhf-jax); then
        bash launch/install.sh >&2 || exit 2
        rlhf_jax=.venv/bin/rlhf-jax
    fi
    workdir=$(PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} "$rlhf_jax" run "${arguments[@]}" --check) || exit 2
    workdir=${workdir##*$'\n'} workdir=${workdir%: *} # of the line WORKDIR: STAGES
}

# need_copied COMMAND…: files and folders of this machine that stand after -- are such that COMMAND says they will be
# where the run is. On other machines a path from elsewhere than this folder leads nowhere.
need_copied() {
    local word
    for word in "${arguments[@]}"; do
        word=${word#--*=} word=${word/#\~/$HOME}
        [[ -e $word ]] || continue
        { [[ $word != /* && $word/ != *../* ]] && "$@" "$word"; } ||
            fail "$word of this machine is not where the run is: git add it to this repository, or copy it to gs://BUCKET"
    done
}

need_bucket() {
    [[ $workdir == gs://?* ]] || fail "--workdir=$workdir is of one machine alone: --workdir=gs://BUCKET/… is of all"
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
