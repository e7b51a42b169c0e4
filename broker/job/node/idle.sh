# Reports since when the session is idle, and how many terminals are open in it.

readonly IDLE_REPORT_AFTER_S=600 # seconds without use after which the job's comment says so, or a quarter of the idle time
readonly USAGE_INTERVAL_S=30 # seconds between two looks at how the session is used, or a quarter of those
readonly LOGIN_CHECK_S=2 # seconds from a login, or its end, to the next look

parse_duration() { # TIME: DURATION_S: seconds of a time such as 8h; 0 for anything else
  DURATION_S=0
  case $1 in
    [!1-9]* | *[!0-9mhd]* | *[mhd]?*) ;;
    *m) DURATION_S=$((${1%m} * 60)) ;;
    *h) DURATION_S=$((${1%h} * 3600)) ;;
    *d) DURATION_S=$((${1%d} * 86400)) ;;
  esac
}

look_after_login() { # LINE: looks soon at the open terminals if sshd's line says that a login has begun or ended
  [[ $1 == "Accepted "* || $1 == "Disconnected from "* || $1 == "Connection "*" by user "* || $1 == "Timeout, "* ]] || return 0
  LOOKS_SOON=2 # the second reads the answer to the first
  ((USAGE_CHECK_AT <= EPOCHSECONDS + LOGIN_CHECK_S)) || USAGE_CHECK_AT=$((EPOCHSECONDS + LOGIN_CHECK_S))
}

report_terminals() { # COUNT: writes to run/terminals how many terminals logins have open, if that has changed
  local file=$DIRECTORY/run/terminals
  [[ $1 =~ ^[0-9]{1,6}$ && $1 != "${REPORTED_TERMINALS:-0}" ]] || return 0
  REPORTED_TERMINALS=$1
  { echo "$BERTH_SUBMISSION.${SLURM_RESTART_COUNT:-0} $1" >"$file.new" && mv -fT "$file.new" "$file"; } 2>/dev/null || :
}

report_idle() { # at USAGE_CHECK_AT: writes to the job's comment since when the session, or its GPU, is idle
  local limit='' stop_at='' after=$IDLE_REPORT_AFTER_S used='' gpu='' looked='' terminals='' use=''
  ((EPOCHSECONDS >= USAGE_CHECK_AT)) && [[ -n ${PORT:-} && -z $BERTH_ROOT && -z ${HOLDING:-} ]] || return 0
  { read -r limit && read -r stop_at; } 2>/dev/null <"$DIRECTORY/run/idle" || :
  parse_duration "$limit"
  ((DURATION_S == 0 || DURATION_S / 4 > after)) || after=$((DURATION_S / 4))
  USAGE_CHECK_AT=$((EPOCHSECONDS + (after / 4 < USAGE_INTERVAL_S ? after / 4 : USAGE_INTERVAL_S)))
  if ((${LOOKS_SOON:-0} > 0)); then LOOKS_SOON=$((LOOKS_SOON - 1)) USAGE_CHECK_AT=$((EPOCHSECONDS + LOGIN_CHECK_S)); fi
  read_usage
  report_terminals "$terminals"
  publish_services
  if [[ $stop_at =~ ^[0-9]{1,12}$ && $stop_at != "$ANNOUNCED_STOP" ]]; then
    ANNOUNCED_STOP=$stop_at
    announce_idle_stop "$stop_at"
  else
    show_operator_message
  fi
  write_message look '' || :
  kill -USR1 "$CONTAINER" 2>/dev/null || : # the answer is there the next time
  [[ $used$looked =~ ^[0-9]{2,24}$ ]] || return 0
  ((EPOCHSECONDS - looked <= USAGE_VALID_S)) || used=$EPOCHSECONDS gpu=''
  ((EPOCHSECONDS - used >= after)) || used=''
  [[ $gpu =~ ^[0-9]{1,12}$ ]] && ((EPOCHSECONDS - gpu >= after)) || gpu=''
  [[ -z $used$gpu ]] || use=:$used:$gpu
  # One update at a time: the older one must not arrive last.
  if [[ $use != "$REPORTED_USAGE" && $'\n'$(jobs -rp)$'\n' != *$'\n'"$COMMENT_UPDATE"$'\n'* ]]; then
    REPORTED_USAGE=$use
    update_job_comment "$PORT" "$use" &
    COMMENT_UPDATE=$!
  fi
}

announce_idle_stop() { # TIME: tells log and terminals when the idle session will be stopped
  local at text
  printf -v at '%(%H:%M:%S)T' "$1"
  SAVE_AT=0
  text="this session is idle and will stop at $at unless it is used; its files are kept"
  log "$text"
  write_message notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n' || :
}
