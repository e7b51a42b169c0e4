# Warns before the job's time limit, and ends the session before Slurm kills it.

readonly NEVER=$((1 << 40)) # seconds since the epoch
readonly WARN_EARLY_S=(300 30) # seconds before the time limit at which the terminals are told
readonly END_EARLY_S=5 # seconds before it at which the session ends by itself, in good order

query_end_time() { # ENDS_AT: when the time limit ends the job, in seconds of the epoch; unchanged if Slurm does not answer
  local text
  text=$(timeout 20 "$BERTH_SCONTROL" show job -o "$SLURM_JOB_ID") || return 0
  [[ $text =~ [[:space:]]EndTime=([0-9T:-]+) ]] || return 0
  ENDS_AT=$(date -d "${BASH_REMATCH[1]}" +%s) || return 0
}

watch_time_limit() { # at TIME_CHECK_AT: warns, or ends the session before Slurm kills it
  local left early due='' SEQUEL
  ((EPOCHSECONDS >= TIME_CHECK_AT)) || return 0
  query_end_time # it may have been changed since
  left=$((ENDS_AT - EPOCHSECONDS))
  if ((left <= END_EARLY_S)); then
    log "time limit reached"
    TIME_CHECK_AT=$NEVER
    describe_sequel
    announce_end "job $SLURM_JOB_ID has reached its time limit" "$SEQUEL"
    stop_container
    return 0
  fi
  TIME_CHECK_AT=$((ENDS_AT - END_EARLY_S))
  for early in "${WARN_EARLY_S[@]}"; do
    if ((left > early)); then
      TIME_CHECK_AT=$((ENDS_AT - early))
      break
    fi
    due=$early
  done
  if [[ -n $due && $WARNED_ABOUT != "$ENDS_AT $due" ]]; then
    WARNED_ABOUT="$ENDS_AT $due"
    warn_of_time_limit "$left"
  fi
}

describe_sequel() { # SEQUEL: what follows the end at the time limit, as run/continuation says
  local policy=''
  read -r policy 2>/dev/null <"$DIRECTORY/run/continuation" || :
  case $policy in
    always) SEQUEL="The session then continues in another job: connect again." ;;
    *[mhd]) SEQUEL="If it was used in the last $policy, the session then continues in another job." ;;
    *) SEQUEL="The session then stops and keeps its files." ;;
  esac
}

warn_of_time_limit() { # SECONDS: tells the log and the terminals of the end
  local at text SEQUEL
  printf -v at '%(%H:%M:%S)T' "$ENDS_AT"
  text="job $SLURM_JOB_ID reaches its time limit at $at, in $1 s" SAVE_AT=0
  log "$text"
  describe_sequel
  write_message notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n'"berth: $SEQUEL"$'\r\n' || :
  [[ -z ${LISTENS:-} ]] || kill -USR1 "$CONTAINER" 2>/dev/null || :
}
