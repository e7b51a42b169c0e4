# Starts a service that a user opens, and reports how far it is.

readonly FIRST_LOOK_MS=20 LOOK_MS=500 # milliseconds between two looks at the state: at first, and at most and when it is ready
readonly DISCARDED_CHARS=65536 # of standard input, before the next look: a client that sends without end causes no more of them
readonly SHOWN_LINES=20 SHOWN_BYTES=16384 # of the log of a service that has failed

receive_own() { # NAME: keeps the definition that berth sends: lines up to an empty one; the empty one alone for a service of the profile
  local line text='' LC_ALL=C
  while IFS= read -r line && [[ -n $line ]] && ((${#text} < LIST_BYTES)); do text+=$line$'\n'; done
  if [[ -n $text ]]; then printf '%s' "$text" >"$STATES/$1/own"; else rm -f -- "$STATES/$1/own"; fi
}

start_supervisor() { # NAME: unless the service has one
  local lock place=$STATES/$1
  exec {lock}<>"$place/lock"
  if flock -n "$lock"; then
    rm -f -- "$place/pid"
    echo starting >"$place/state"
    : >"$place/log"
    setsid /bin/bash "$0" run "$1" "$lock" </dev/null >>"$place/log" 2>&1 &
    echo "$!" >"$place/pid"
  fi
  exec {lock}>&-
}

show_lines() { # COUNT: the last lines of the log of the service NAME
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf 'output %s\n' "${line:0:500}"
  done < <(tail -c "$SHOWN_BYTES" -- "$STATES/$NAME/log" 2>/dev/null | tail -n "$1")
}

make_place() { # makes the directory of the service NAME, if it can run here
  if ! command -v flock >/dev/null || ! command -v setsid >/dev/null; then
    refuse "the image has no flock or no setsid (util-linux)"
  fi
  mkdir -p "$STATES/$NAME" || refuse "the node has no room for the files of a service"
}

attach_service() { # NAME: keeps its definition, starts it, and reports how far it is
  local SOCKET
  local -A SERVICE=()
  NAME=$1
  make_place
  receive_own "$NAME"
  read_service "$NAME" || refuse "there is no service $NAME in this session"
  admit_sockets
  follow_service
}

follow_service() { # starts the service NAME, and reports how far it is until standard input ends: then it is closed here
  local code shown='' line='' latest STATE pause pause_ms=$FIRST_LOOK_MS waited_ms=0
  start_supervisor "$NAME"
  while :; do
    read_state "$NAME"
    if [[ $STATE != "$shown" ]]; then printf 'state %s\n' "$STATE"; fi
    shown=$STATE
    case $STATE in
      failed) show_lines "$SHOWN_LINES" && exit 1 ;;
      stopped) exit 0 ;;
      ready) pause_ms=$LOOK_MS ;;
      starting)
        if ((waited_ms >= LOOK_MS)); then
          waited_ms=0
          latest=$(show_lines 1)
          if [[ $latest != "$line" ]]; then printf '%s\n' "$latest"; fi
          line=$latest
        fi
        ;;
    esac
    code=0
    printf -v pause '0.%03d' "$pause_ms"
    read -rN "$DISCARDED_CHARS" -t "$pause" _ || code=$?
    ((code == 0 || code > 128)) || exit 0
    waited_ms=$((waited_ms + pause_ms))
    pause_ms=$((pause_ms * 5 / 4 < LOOK_MS ? pause_ms * 5 / 4 : LOOK_MS))
  done
}
