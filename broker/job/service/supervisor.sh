# The supervisor of one service: starts it, waits until it answers, and starts it again when it ends.

readonly START_LIMIT_S=180 # seconds until a service must answer; the first start of JupyterLab on a slow file system takes 60
readonly FIRST_LOOK_S=0.02 LOOK_S=0.1 # seconds between two looks at a service that starts: in its first seconds, and later
readonly LOOKS_OFTEN_S=2 # these first seconds
readonly PROBE_S=1 # seconds between two calls of a service's own probe
readonly PROBE_LIMIT_S=10 # seconds that one call may take
readonly READY_LOOK_S=5 # seconds between two looks at a service that is ready
readonly STABLE_S=60 # seconds after which an end is the first of a row again
readonly FIRST_TRIES=3 TRIES=6 # ends in a row after which the service has failed: before it was ever ready, and after
readonly MAX_PAUSE_S=30 # seconds before another try, at most
readonly STOP_S=3 # seconds between TERM and KILL for what a service leaves behind
readonly LOG_BYTES=1048576 # bytes; above it a service's log is cut to its last quarter

is_ready() { # whether the service listens and its own probe, if it has one, succeeds
  local flags path listens=''
  [[ -S $SOCKET ]] || return 1
  while read -r _ _ _ flags _ _ _ path; do
    [[ $path != "$SOCKET" || $flags != 00010000 ]] || listens=yes # __SO_ACCEPTCON of Linux
  done </proc/net/unix
  [[ -n $listens ]] || return 1
  [[ -n ${SERVICE[ready]:-} ]] || return 0
  ((SECONDS >= PROBE_AT)) || return 1
  PROBE_AT=$((SECONDS + PROBE_S))
  timeout "$PROBE_LIMIT_S" /bin/bash -c "${SERVICE[ready]}" >/dev/null 2>&1 {LOCK}>&- {ENDED}>&-
}

start_command() { # CHILD: the leader of the service's process group, which writes the command's exit code to ENDED
  rm -f -- "$SOCKET"
  (
    exec {LOCK}>&-
    cd ~ || cd /
    exec 3>&2 2>/dev/null # for words of this shell about signals, which name a line of it
    /bin/bash -lc "${SERVICE[command]}" 2>&3 3>&- {ENDED}>&-
    echo "$?" >&"$ENDED"
  ) &
  CHILD=$!
}

watch_command() { # CODE: the command's exit code; empty if it did not answer in time. READY: whether it has been ready
  local began=$SECONDS limit=$((SECONDS + START_LIMIT_S)) pause=$FIRST_LOOK_S
  READY='' PROBE_AT=0
  while ! read -rt "$pause" -u "$ENDED" CODE; do
    CODE=137
    kill -0 "$CHILD" 2>/dev/null || return 0 # killed, with the shell that would report it
    if [[ -n $READY ]]; then
      trim_log
    elif is_ready; then
      READY=yes EVER_READY=yes pause=$READY_LOOK_S
      echo ready >state
    elif ((SECONDS >= limit)); then
      CODE=''
      return 0
    elif ((SECONDS - began > LOOKS_OFTEN_S)); then
      pause=$LOOK_S
    fi
  done
}

end_command() { # ends what the service has left in its process group
  local limit=$((SECONDS + STOP_S))
  kill -TERM -- "-$CHILD" 2>/dev/null || return 0
  while kill -0 -- "-$CHILD" 2>/dev/null && ((SECONDS < limit)); do read -rt 0.1 -u "$ENDED" _; done
  kill -KILL -- "-$CHILD" 2>/dev/null
}

trim_log() { # in place: the service has opened the file for appending
  local size
  size=$(stat -c %s log 2>/dev/null) && ((size > LOG_BYTES)) || return 0
  tail -c $((LOG_BYTES / 4)) log >log.new && cat log.new >log
  rm -f log.new
}

finish() { # STATE CODE MESSAGE: ends the supervisor
  echo "berth: $3"
  echo "$1" >state
  exit "$2"
}

run_service() { # NAME LOCK: the supervisor: starts the service again when it ends, after growing pauses
  local failures=0 pause began CODE READY EVER_READY='' CHILD PROBE_AT SOCKET ENDING=''
  local -A SERVICE=()
  LOCK=$2
  cd "$STATES/$1" || exit 1
  read_service "$1" || finish failed 1 "the definition of $1 cannot be read any more"
  unset "${!SSH_@}"
  export BERTH_SERVICE=$1 BERTH_SOCKET=$SOCKET
  exec {ENDED}<> <(:)
  trap 'ENDING=yes; echo 143 >&"$ENDED"' TERM # as if the command had ended
  set -m # the service gets a process group
  while [[ -z $ENDING ]]; do
    began=$SECONDS
    echo starting >state
    start_command
    watch_command
    end_command
    [[ -z $ENDING ]] || break
    [[ -n $CODE ]] || finish failed 1 "$1 did not answer on $SOCKET within $START_LIMIT_S s"
    [[ -z $READY || $CODE != 0 ]] || finish stopped 0 "$1 has ended"
    ((SECONDS - began < STABLE_S)) || failures=0
    ((++failures < (${#EVER_READY} ? TRIES : FIRST_TRIES))) || finish failed 1 "$1 ended with code $CODE, $failures times in a row"
    pause=$((failures < 6 ? 1 << (failures - 1) : MAX_PAUSE_S))
    echo "berth: $1 ended with code $CODE; it starts again in $pause s"
    echo "waiting $pause" >state
    read -rt "$pause" -u "$ENDED" _
  done
  finish stopped 0 "$1 was told to end"
}
