# Locks the session's volumes. run/lock.owner names the job that has them, since some locks stay on the node (ADR 144).

readonly OWNER_RECORD_BYTES=400 # bytes that are read of run/lock.owner, in which the user may write anything
readonly OWNER_READ_S=5 # seconds for that
readonly OWNER_CHECK_MAX_S=5 # seconds between two looks at it
readonly OWNER_PATTERN=$'^JOB=([1-9][0-9]{0,9})\nRUN=[A-Za-z0-9._-]{1,80}\nNODE=([A-Za-z0-9._-]{1,253})$'
readonly OWNER_QUERY_TIMEOUT_S=20
# States of jobs without processes: those of slurm/state.py that wait or have ended. Any other word may be of one with some.
readonly STATES_WITHOUT_PROCESSES='PENDING|REQUEUED|REQUEUE_FED|REQUEUE_HOLD|SPECIAL_EXIT|RESV_DEL_HOLD|COMPLETED|CANCELLED|FAILED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY|REVOKED'

lock_volumes() { # LOCK: the descriptor that holds run/lock: one job at a time writes to the volumes
  local LOCKED_REASON='another job has the volumes of this session open'
  exec {LOCK}<>"$DIRECTORY/run/lock" # for reading and writing, as NFS wants it: flock(2)
  if ! flock -n "$LOCK"; then
    wait_for_volumes wait_for_lock
  elif ! is_without_owner; then
    wait_for_volumes wait_for_owner
  fi
  write_owner_record
}

wait_for_volumes() { # WAIT: a function that returns 0 when the volumes are free
  local code=0 submission=$BERTH_SUBMISSION
  log "$LOCKED_REASON; waiting up to $BERTH_LOCK_WAIT s for its lock"
  write_job_comment "$WAITS_COMMENT" & # the controller may end the other job now (ADR 144)
  COMMENT_UPDATE=$!
  "$1" || code=$?
  end_comment_update
  ((code == 0)) || die "$LOCKED" "$LOCKED_REASON"
  load_job_env # meanwhile the session may have been given another submission
  [[ $BERTH_SUBMISSION == "$submission" ]] ||
    die "$SUPERSEDED" "this is submission $submission, and the session is at $BERTH_SUBMISSION"
}

wait_for_lock() { # until the kernel grants the lock: then the job that had it is over, whatever run/lock.owner says
  local waiter code
  flock -w "$BERTH_LOCK_WAIT" "$LOCK" & # in the background, so that a signal can end the job
  waiter=$!
  until code=0 && wait "$waiter" || code=$?; ((code == 0)) || ! kill -0 "$waiter" 2>/dev/null; do :; done
  return "$code"
}

wait_for_owner() { # until no other job has the volumes by run/lock.owner and Slurm
  local end=$((SECONDS + BERTH_LOCK_WAIT)) code=0 interval=1 pause
  exec {pause}<> <(:)
  until is_without_owner; do
    if ((SECONDS >= end)); then code=1 && break; fi
    read -rt "$interval" -u "$pause" || :
    interval=$((interval * 2 < OWNER_CHECK_MAX_S ? interval * 2 : OWNER_CHECK_MAX_S))
  done
  exec {pause}>&-
  return "$code"
}

is_without_owner() { # whether no other job has the volumes by run/lock.owner and Slurm; else LOCKED_REASON says which may
  local file=$DIRECTORY/run/lock.owner record owner='another job of this session' jobs=--name=berth-$BERTH_SESSION_ID
  ls -- "$DIRECTORY/run" >/dev/null || : # has NFS ask the server which files there are
  [[ -e $file || -L $file ]] || return 0
  record=$(read_owner_record)
  if [[ $record =~ $OWNER_PATTERN ]]; then
    [[ ${BASH_REMATCH[1]} != "$SLURM_JOB_ID" ]] || return 0 # an earlier run of this job
    owner="job ${BASH_REMATCH[1]} on ${BASH_REMATCH[2]} (run/lock.owner)" jobs=--jobs=${BASH_REMATCH[1]},$SLURM_JOB_ID
  fi
  is_alone "$jobs" "$owner"
}

is_alone() { # FILTER OWNER: whether Slurm says that none of these jobs but this one has processes; else sets LOCKED_REASON
  local answer id state answered=''
  LOCKED_REASON="Slurm does not say whether $2 is over"
  answer=$(timeout "$OWNER_QUERY_TIMEOUT_S" "${BERTH_SCONTROL%scontrol}squeue" \
    --me --all --noheader --states=all "$1" --format='%A %T') || return 1
  while read -r id state; do
    if [[ $id == "$SLURM_JOB_ID" ]]; then
      answered=yes
    elif [[ -n $id && ! $state =~ ^($STATES_WITHOUT_PROCESSES)$ ]]; then
      LOCKED_REASON="$2 has the volumes of this session open"
      return 1
    fi
  done <<<"$answer"
  [[ -n $answered ]] # an answer without this job may lack the other one as well
}

read_owner_record() { # nothing if it is no file
  [[ ! -f $DIRECTORY/run/lock.owner ]] ||
    timeout "$OWNER_READ_S" head -c "$OWNER_RECORD_BYTES" -- "$DIRECTORY/run/lock.owner" | tr -d '\0' || :
}

write_owner_record() { # names this run in run/lock.owner, until release_volumes()
  local new=$DIRECTORY/run/lock.owner.$SLURM_JOB_ID
  printf -v OWNER_RECORD 'JOB=%s\nRUN=%s.%s\nNODE=%s' \
    "$SLURM_JOB_ID" "$BERTH_SUBMISSION" "${SLURM_RESTART_COUNT:-0}" "$SLURMD_NODENAME"
  if ! { printf '%s\n' "$OWNER_RECORD" >"$new" && mv -fT "$new" "$DIRECTORY/run/lock.owner"; }; then
    rm -f "$new"
    log "warning: run/lock.owner could not be written: where locks stay on the node, nothing keeps a second job from the volumes"
  fi
}

release_volumes() { # at the end of a run: removes its record, unless a later job has replaced it, and lets go of the lock
  [[ -n ${LOCK:-} ]] || return 0
  [[ -z ${OWNER_RECORD:-} || $(read_owner_record) != "$OWNER_RECORD" ]] || rm -f "$DIRECTORY/run/lock.owner" || :
  exec {LOCK}>&-
  LOCK='' OWNER_RECORD=''
}
