# Gives up the volumes and starts the session again in the same job, as run/hold and a later run/job.env ask (ADR 136).

readonly HOLD_LIMIT_S=900 # seconds that the job waits for the session's next run before it ends
readonly HOLD_OUTCOME_BYTES=512 # bytes of run/hold.outcome, which the launcher makes before it asks
readonly NOT_READY_COMMENT=not-ready # in the job's comment, instead of an endpoint; and in the script's arguments

handle_usr2() { # USR2: the launcher has written run/hold or run/copy.request
  local WHY RETURN
  read_hold_request
  if [[ -n ${HELD:-} ]]; then
    [[ -z $HOLDING ]] || write_hold_outcome held "$HOLDING"
  elif [[ -n $HOLDING ]]; then
    KILL_AT=$((SECONDS + ACCEPT_S + STOP_GRACE_S + 2))
    write_hold_outcome ending "$HOLDING"
    read_ending
    announce_end "${WHY:-all programs end here}" "${RETURN:-$BERTH_SESSION_NAME starts again by itself: connect again in a moment.}"
    [[ -z ${CONTAINER:-} ]] || kill -TERM "$CONTAINER" 2>/dev/null || :
  else
    copy_live &
  fi
}

read_hold_request() { # HOLDING: the id of the request to hold, if it is for this submission
  local line lines=() id='' submission=''
  [[ -z ${HOLDING:-} ]] || return 0
  HOLDING=''
  # This may run in a trap. Without `read`: in bash 5.3 an interrupted `read -t` would then lose its time limit.
  mapfile -n 4 -t lines 2>/dev/null <"$DIRECTORY/run/hold" || :
  for line in "${lines[@]}"; do
    case $line in
      ID=*) id=${line#*=} ;;
      SUBMISSION=*) submission=${line#*=} ;;
    esac
  done
  # Without =~, which would change BASH_REMATCH.
  if [[ $submission == "$BERTH_SUBMISSION" && -n $id && $id != *[!A-Za-z0-9._-]* && ${#id} -le 64 ]]; then HOLDING=$id; fi
}

write_hold_outcome() { # RESULT ID: overwrites run/hold.outcome in one write: a full disk has no room for another file
  local text reason=${NOT_READY_REASON:-} LC_ALL=C # so that all lengths are in bytes
  printf -v text '%s\n' "RESULT=$1" "ID=$2" "MESSAGE=${reason:0:300}"
  printf "%-${HOLD_OUTCOME_BYTES}s" "$text" 1<>"$DIRECTORY/run/hold.outcome" || :
}

end_comment_update() { # a late update would hide that of the next run
  if [[ -n ${COMMENT_UPDATE:-} && $'\n'$(jobs -p)$'\n' == *$'\n'"$COMMENT_UPDATE"$'\n'* ]]; then
    kill "$COMMENT_UPDATE" 2>/dev/null || :
    wait "$COMMENT_UPDATE" || :
  fi
}

hold_job() { # after the container's end: releases the volumes; returns when run/job.env is of the session's next run
  local end=$((SECONDS + HOLD_LIMIT_S)) pause former=$BERTH_SUBMISSION
  trap 'STOPPING=yes' TERM # the save must not be begun again inside itself
  end_comment_update
  end_run
  trap handle_sigterm TERM
  [[ -z ${STOPPING:-} ]] || exit 0
  release_volumes
  HELD=yes
  if [[ -n $HOLDING ]]; then
    write_hold_outcome held "$HOLDING"
  else
    write_hold_outcome failed "$BERTH_SUBMISSION"
    write_job_comment "$NOT_READY_COMMENT" &
    COMMENT_UPDATE=$!
  fi
  log "the job waits for the next run of its session"
  exec {pause}<> <(:)
  until is_next_run "$former"; do
    ((SECONDS <= end)) || { log "error: the next run of the session was not started within $HOLD_LIMIT_S s" && exit 0; }
    read -rt 0.1 -u "$pause" || :
    check_slurmstepd
    watch_time_limit
  done
  exec {pause}>&-
  end_comment_update
  load_job_env
  WARNED_ABOUT='' TIME_CHECK_AT=0
  HOLDING='' HELD='' NOT_READY_REASON=''
  write_hold_outcome begun "$BERTH_SUBMISSION"
  log "the job continues with submission $BERTH_SUBMISSION of its session"
}

is_next_run() { # FORMER: whether run/job.env is of a later submission than FORMER that continues in this job
  local line submission='' job=''
  while IFS= read -r line; do
    case $line in
      BERTH_SUBMISSION=*) submission=${line#*=} ;;
      BERTH_JOB=*) job=${line#*=} ;;
    esac
  done 2>/dev/null <"$DIRECTORY/run/job.env" || :
  [[ $job == "$SLURM_JOB_ID" && $submission =~ ^[1-9][0-9]{0,8}$ ]] && ((submission > former))
}

has_to_return() { # CODE: whether the job waits again, since this run of it did not become ready and may be undone
  [[ -n ${READY_BY:-} && -z ${STOPPING:-}${ORPHANED:-} && $1 != "$SUPERSEDED" ]]
}

check_ready_limit() { # ends a run that may be undone and whose sshd does not listen in time
  [[ -z ${READY_BY:-} ]] || ((SECONDS < READY_BY)) || die "$NOT_READY" "sshd did not listen within $BERTH_READY_LIMIT s"
}

wait_again() { # CODE: begins this script again, without a run: bash cannot go back from a trap on EXIT
  local reason=${FAILURE:-${LAST_LINE:-its container ended with exit code $1}}
  log "the run of submission $BERTH_SUBMISSION did not become ready: $reason"
  trap - TERM USR1 USR2
  exec /bin/bash "$0" "$DIRECTORY" "$BERTH_SUBMISSION" "$NOT_READY_COMMENT" "${reason//[[:cntrl:]]/ }"
}
