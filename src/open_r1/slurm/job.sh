# What every job does; the values above are its own.
set -uo pipefail

restarts=${SLURM_RESTART_COUNT:-0}
job_id=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    job_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    command+=(--share "$SLURM_ARRAY_TASK_ID/$num_shares")
fi
attempt_log=$folder/$job_name-$job_id/attempt-$restarts.log

# Two kinds of output: a line on each attempt to Slurm's own file, and all else to the attempt's.
say() {
    printf '%s %s\n' "$(date --iso-8601=seconds)" "$*" | tee -a "$attempt_log" >&3
}
exec 3>&1
if ! mkdir -p "${attempt_log%/*}" || ! : >>"$attempt_log"; then
    echo "the log $attempt_log cannot be written from $(hostname); does this node see log_directory of the site file?"
    exit 1
fi
exec >>"$attempt_log" 2>&1
say "attempt $restarts of job $job_id on ${SLURM_JOB_NODELIST:-$(hostname)}: $attempt_log"

# A run that was interrupted goes on from its checkpoint, in the same job, if Slurm has not ended this job for good. The
# job has to ask for that itself: one that ends, even in the time it is given to make way, counts as failed.
end_interrupted() {
    local state
    state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
    if [ "$state" != RUNNING ]; then
        say "interrupted; Slurm says that the job is ${state:-gone}, so it is not queued again from here"
        exit 75
    fi
    if [ "$restarts" -ge "$max_restarts" ]; then
        say "interrupted, and not queued again: it was $restarts times, as often as max_restarts of the site file allows"
        say "submit it again to go on from its last checkpoint"
        exit 75
    fi
    say "interrupted; queueing it again, to go on from its last checkpoint"
    trap 'exit 75' TERM # with which Slurm ends this attempt
    if ! scontrol requeue "$SLURM_JOB_ID"; then
        say "Slurm would not queue it again; submit it again to go on from its last checkpoint"
        exit 75
    fi
    sleep 600 3>&- &
    wait $!
    exit 75
}

if [ "$restarts" -gt "$max_restarts" ]; then
    say "not begun again: it was $restarts times already, and max_restarts of the site file is $max_restarts"
    exit 1
fi
cd "$repository" || exit 1
set_up
set_up_status=$? # with `set_up || …` bash would go on after a line that failed
set +e -uo pipefail
if [ "$set_up_status" -ne 0 ]; then
    say "modules or setup of the site file failed (exit code $set_up_status); see $attempt_log"
    exit 2
fi
if [ -n "$asked_to_stop" ]; then
    end_interrupted
fi

"${command[@]}" 3>&- &
launcher=$!
if [ -n "$asked_to_stop" ]; then # just before it had its number
    kill -s "$asked_to_stop" "$launcher" 2>/dev/null
fi
while kill -0 "$launcher" 2>/dev/null; do
    wait "$launcher" # which a signal to this script ends as well
done
wait "$launcher"
status=$?

case $status in
    0) say "done" ;;
    # 75: it says so itself. 138, 143: a signal came before it could answer.
    75 | 138 | 143) end_interrupted ;;
    *) say "failed with exit code $status; see $attempt_log" ;;
esac
exit "$status"
