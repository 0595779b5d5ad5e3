#!/bin/bash
# Runs a command on several machines over ssh, once on each, for machines without Slurm:
#
#   scripts/on_hosts.sh "host1 host2" COMMAND [ARGUMENT …]
#
# open_r1.launch does so if OPEN_R1_HOSTS names machines. ssh must reach them without a password (OPEN_R1_SSH is its
# command, `ssh -o BatchMode=yes` by default), and they must see the same files under the same paths. The command gets
# its arguments as they are, this directory, the variables of PASSED_ON, and OPEN_R1_MACHINE_RANK: 0, 1, … in the order
# of the hosts. TERM and USR1 are sent on to all. When it fails on one host it is asked to end (TERM) on the others;
# the exit code is that of the first to fail. If this script or its connection is gone, the command is ended as well.
set -uo pipefail

PASSED_ON='CUDA_VISIBLE_DEVICES|LD_LIBRARY_PATH|PATH|(ACCELERATE|CUDA|E2B|GLOO|HF|NCCL|OMP|OPEN_R1|PISTON|PYTHON|TOKENIZERS|TORCH|TRANSFORMERS|VLLM|WANDB|XDG)_?[A-Z0-9_]*'
SECONDS_TO_END=60 # after TERM

if [ $# -lt 2 ]; then
    echo "usage: $0 \"host1 host2\" COMMAND [ARGUMENT …]" >&2
    exit 2
fi
read -r -d '' -a hosts <<<"$1"
shift
read -r -a ssh <<<"${OPEN_R1_SSH:-ssh -o BatchMode=yes}"

# What runs there. Its standard input tells it all: first, up to a zero byte, the shell's words that start the command;
# then a signal a line. At its end nobody is there any more who would wait. No single quote may stand in it.
# shellcheck disable=SC2016
there='
IFS= read -r -d "" start || exit 1
eval "$start" || exit 1
"$@" </dev/null &
command=$!
(
    while read -r signal; do
        kill -s "$signal" "$command"
    done
    kill -s TERM "$command"
    for ((second = 0; second < seconds_to_end; second++)); do
        sleep 1
        kill -0 "$command" || exit
    done
    kill -s KILL "$command"
) <&0 >/dev/null 2>&1 &
listener=$!
disown "$listener" # or bash tells of its end
while kill -0 "$command" 2>/dev/null; do
    wait "$command"
done
wait "$command"
status=$?
kill -s KILL "$listener" 2>/dev/null
exit "$status"
'

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
pipes=() # open ends, by which the hosts are told something

tell_all() {
    local pipe
    for pipe in "${pipes[@]}"; do
        echo "$1" >&"$pipe"
    done 2>/dev/null
}
trap '' PIPE # a host that has ended listens no more
asked_to=''
trap 'asked_to=TERM; tell_all TERM' TERM
trap 'asked_to=USR1; tell_all USR1' USR1

# $1 is the host's number. Everything is quoted by printf %q, for the bash that reads it there.
start_of() {
    local name
    printf 'cd %q || exit; seconds_to_end=%q; ' "$PWD" "$SECONDS_TO_END"
    while read -r name; do
        [[ $name =~ ^($PASSED_ON)$ ]] && printf 'export %s=%q; ' "$name" "${!name}"
    done < <(compgen -e)
    printf 'export OPEN_R1_MACHINE_RANK=%q; set --' "$1"
    shift
    printf ' %q' "$@"
    printf '\0'
}

for rank in "${!hosts[@]}"; do
    mkfifo "$scratch/$rank"
    (
        trap : TERM USR1 # it goes on until ssh has ended
        for pipe in "${pipes[@]}"; do
            exec {pipe}>&- # or no host would see the end of its own
        done
        "${ssh[@]}" "${hosts[rank]}" "bash -c '$there'" <"$scratch/$rank"
        echo "$? ${hosts[rank]}" >>"$scratch/ended"
    ) &
    exec {pipe}>"$scratch/$rank"
    pipes+=("$pipe")
    start_of "$rank" "$@" >&"$pipe"
done

touch "$scratch/ended"
if [ -n "$asked_to" ]; then # when not all of them could hear it
    tell_all "$asked_to"
fi
failed=''
while [ "$(wc -l <"$scratch/ended")" -lt "${#hosts[@]}" ]; do
    wait -n
    if [ -z "$failed" ]; then
        failed=$(grep -v -m 1 '^0 ' "$scratch/ended")
        if [ -n "$failed" ]; then
            echo "on_hosts.sh: exit code ${failed%% *} on ${failed#* }; asking the other hosts to end" >&2
            tell_all TERM
        fi
    fi
done
failed=$(grep -v -m 1 '^0 ' "$scratch/ended")
failed=${failed:-0}
exit "${failed%% *}"
