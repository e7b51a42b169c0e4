# The batch script of a session's job: checks, start, signals and clean-up.
#
#   sbatch … session.sh SESSION_DIRECTORY SUBMISSION
#
# `not-ready REASON` after that, by the script itself: the last run did not become ready, and the job waits for another.
#
# All else comes from SESSION_DIRECTORY/run/job.env and SESSION_DIRECTORY/volumes.json. The script runs again as `namespace
# STATE`, in a user and mount namespace where the user is root, and as `container STATE`, as process 1 of the container.
# docs/reference/session-job.md has the keys, the files, the comment and the exit codes in full.

readonly CANCEL_TIMEOUT_S=60 # slurmctld may be busy, or down

clean_up() { # EXIT: ends the container, saves the system volume, removes the node directories
  local code=$? returns=''
  trap '' TERM USR1 USR2
  if has_to_return "$code"; then
    returns=yes
    trap 'STOPPING=yes' TERM
  fi
  end_run
  release_volumes
  [[ -z $returns || -n ${STOPPING:-} ]] || wait_again "$code"
  log "ended with $code"
  # Without its slurmstepd, Slurm would believe until the time limit that the job runs.
  [[ -z ${ORPHANED:-} ]] || timeout "$CANCEL_TIMEOUT_S" "${BERTH_SCONTROL%scontrol}scancel" "$SLURM_JOB_ID" || :
}

end_run() { # ends what this run of the session has started, saves the system volume, and removes the node directories
  local job pause end=$((SECONDS + ACCEPT_S + STOP_GRACE_S + 2))
  for job in $(jobs -p); do kill "$job" 2>/dev/null || :; done
  if [[ -n ${CONTAINER:-} ]] && kill -TERM "$CONTAINER" 2>/dev/null; then
    # Not by a shell in the background: as this one, it would ignore TERM by now, and outlive the job's script. And a
    # shell that is forked while signals come may run a trap that it no longer has ("run_pending_traps: bad value").
    exec {pause}<> <(:)
    while kill -0 "$CONTAINER" 2>/dev/null && ((SECONDS <= end)); do read -rt 0.05 -u "$pause" || :; done
    exec {pause}>&-
    kill -KILL "$CONTAINER" 2>/dev/null || :
    wait "$CONTAINER" || :
  fi
  CONTAINER=''
  save_at_end
  remove_job_dirs
  [[ -z ${LOG:-} ]] || exec {LOG}<&-
  LOG='' NODE_DIR='' TMP_DIR='' LISTENS='' PORT='' GENERATION='' END_ANNOUNCED='' REPORTED_TERMINALS='' LOOKS_SOON=0
}

handle_sigterm() { # TERM: scancel, preemption, requeue or the time limit; Slurm kills the job KillWait seconds later
  local WHY RETURN
  log "received SIGTERM, shutting down"
  if [[ -z ${STOPPING:-} && -n ${LISTENS:-} ]]; then
    read_ending
    announce_end "${WHY:-Slurm ends job $SLURM_JOB_ID of this session (scancel, preemption or a requeue)}" \
      "${RETURN:-Its files are kept. \`berth explain $BERTH_SESSION_NAME\` shows the cause and the next command.}"
  fi
  stop_container
}

stop_container() { # ends the session; the job ends with its container
  STOPPING=yes
  if [[ -n ${CONTAINER:-} ]]; then kill -TERM "$CONTAINER" 2>/dev/null || :; else exit 0; fi
}

node_main() {
  [[ ($# -eq 2 || ($# -eq 4 && $3 == "$NOT_READY_COMMENT")) && $1 =~ ^/[^,:]*$ && -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
    die "$USAGE" "usage: sbatch … session.sh SESSION_DIRECTORY SUBMISSION"
  readonly DIRECTORY=$1 LAYERS=${1%/*/*}/layers OWNER_UID=$UID OWNER_GID=${GROUPS[0]}
  HOLDING='' KILL_AT=0 BERTH_SUBMISSION='' NOT_READY_REASON=${4:-}
  trap clean_up EXIT
  trap handle_sigterm TERM
  trap 'TIME_CHECK_AT=0' USR1 # Slurm says that the time limit is near: it may be nearer than we thought
  trap handle_usr2 USR2
  # --export=NIL leaves Slurm's own variables only; what a site's prolog adds must not add mounts, nor hide jobs.
  unset "${!BERTH_@}" "${!APPTAINER_@}" "${!SINGULARITY_@}" "${!SQUEUE_@}"
  export PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  umask 077
  cd /
  log "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, on $SLURMD_NODENAME"

  load_job_env
  [[ $BERTH_SUBMISSION == "$2" || $BERTH_JOB == "$SLURM_JOB_ID" ]] ||
    die "$SUPERSEDED" "this is submission $2, and the session is at $BERTH_SUBMISSION"
  ENDS_AT=${SLURM_JOB_END_TIME:-$NEVER} WARNED_ABOUT=''
  [[ $ENDS_AT =~ ^[0-9]+$ ]] || ENDS_AT=$NEVER
  TIME_CHECK_AT=$((ENDS_AT - WARN_EARLY_S[0]))
  read_hold_request # a requeued job may have given up the volumes in its last run
  [[ -n $HOLDING$NOT_READY_REASON || $BERTH_JOB != "$SLURM_JOB_ID" ]] || write_hold_outcome begun "$BERTH_SUBMISSION"
  while :; do
    [[ -n $HOLDING$NOT_READY_REASON ]] || run_session
    hold_job
  done
}

run_session() { # one run of the session; returns when the job has to give up the volumes, else ends the job
  local code=0
  READY_BY='' FAILURE='' LAST_LINE=''
  [[ -z $BERTH_READY_LIMIT || ${BERTH_JOB:-$SLURM_JOB_ID} != "$SLURM_JOB_ID" ]] || READY_BY=$((SECONDS + BERTH_READY_LIMIT))
  check_files
  check_node
  lock_volumes
  read_volumes
  make_node_dir
  [[ -z $ON_NODE ]] || claim_system
  export BERTH_SESSION_ID BERTH_SESSION_NAME BERTH_OWNER BERTH_PROFILE BERTH_PROFILE_VERSION BERTH_BEFORE BERTH_TMP=$TMP_KIND
  export APPTAINER_CONFIGDIR=$NODE_DIR/apptainer
  start_container
  read_host_key
  trim_log
  find_oom_counter /sys/fs/cgroup </proc/self/cgroup
  count_oom_kills
  USAGE_CHECK_AT=0 REPORTED_USAGE='' ANNOUNCED_STOP=$(tail -n +2 "$DIRECTORY/run/idle" 2>/dev/null) || : # of an earlier job
  SHOWN_MESSAGE=$(sed -n 2p "$DIRECTORY/run/message" 2>/dev/null) || : # of an earlier run
  watch_container
  until wait "$CONTAINER" || code=$?; ((code <= 128)) || ! kill -0 "$CONTAINER" 2>/dev/null; do code=0; done
  CONTAINER=''
  [[ -n $HOLDING || -e $NODE_DIR/held ]] || report_no_namespace
  check_memory
  [[ -z ${STOPPING:-} ]] || exit 0
  [[ -n $HOLDING ]] || exit "$code"
}

# Tests and the probe read the functions without running them.
[[ ${BASH_SOURCE[0]} != "$0" ]] || node_main "$@"
