# Publishes ports of the session as services: what a process of its owner serves on localhost.

readonly PORT_NAME='port-[1-9][0-9]{0,4}' MAX_PORTS=24
readonly WITHDRAWAL_S=10 # seconds in which the supervisor must end

publish_port() { # NAME: `port-` and the port: keeps the definition, and starts the relay as `attach` starts a service
  local published=("$STATES"/port-*/own)
  [[ $1 =~ ^$PORT_NAME$ ]] || refuse "$1 is not the name of a port"
  [[ -f $STATES/$1/own ]] || ((${#published[@]} < MAX_PORTS)) || refuse "it has $MAX_PORTS published ports already"
  # In a login shell, as the service will run.
  /bin/bash -lc "exec python3 -Ic 'import sys; sys.exit(sys.version_info < (3, 8))'" </dev/null >/dev/null 2>&1 ||
    refuse "the image has no python3 (3.8 or later), which relays the connections"
  attach_service "$1"
}

relay_port() { # NAME: the command of the service
  exec python3 -I - "$BERTH_SOCKET" "${1#port-}" <<'RELAY'
#embed port_relay.py
RELAY
}

withdraw_port() { # NAME: ends the service with its connections, and removes its definition
  local place=$STATES/$1 lock pid
  [[ $1 =~ ^$PORT_NAME$ && -f $place/own ]] || refuse "the port ${1#port-} is not published"
  rm -f -- "$place/own"
  admit_sockets
  exec {lock}<>"$place/lock"
  if ! flock -n "$lock"; then
    { read -r pid <"$place/pid" && kill -TERM "$pid"; } 2>/dev/null
    flock -w "$WITHDRAWAL_S" "$lock" || refuse "the relay of the port ${1#port-} does not end"
  fi
  rm -f -- "$SOCKETS/$1.sock"
  echo withdrawn
}
