# The door of berth-web, the gateway for browsers: the sockets that its login reaches, and the one command that it has.

readonly PRINCIPALS=$BASE/node/web_principals

admit_sockets() { # lets berth-web reach the sockets of all services that the profile declares or the user has defined
  local lock line options='' fresh=$PRINCIPALS.$$
  local -A sockets=()
  [[ ${BERTH_SESSION_ID:-} =~ ^[0-9a-z]{26}$ ]] || return 1
  exec {lock}<>"$STATES/.lock" || return 1
  flock "$lock" 2>/dev/null # without it in the image, no service starts
  while IFS= read -r line; do
    [[ ! $line =~ ^socket=($SOCKET_NAME)$ ]] || sockets[${BASH_REMATCH[1]}]=yes
  done < <(head -qc "$LIST_BYTES" -- "$DECLARED" "$STATES"/*/own 2>/dev/null)
  for line in "${!sockets[@]}"; do options+=",permitopen=\"[$SOCKETS/$line]:*\""; done
  options="restrict,port-forwarding,command=\"/bin/bash $BASE/node/service door ${!sockets[*]}\"$options"
  # Without permitopen, sshd would let berth-web reach every socket: no service, no line.
  { ((${#sockets[@]} == 0)) || echo "$options web:$BERTH_SESSION_ID"; } >"$fresh" && mv -f -- "$fresh" "$PRINCIPALS"
  exec {lock}>&-
}

parse_door_command() { # NAME: from what the client of sshd has sent
  local LC_ALL=C
  [[ ${SSH_ORIGINAL_COMMAND:-} =~ ^start\ ([a-z][a-z0-9-]{0,38})$ ]] || refuse "berth-web can only run: start NAME"
  NAME=${BASH_REMATCH[1]}
}

set_owner_variables() { # the variables that sshd sets from passwd: a service has the same ones, whoever opens it
  local name shell
  while IFS=: read -r name _ _ _ _ _ shell; do
    [[ $name != "${BERTH_OWNER:-}" ]] || break
  done </etc/passwd
  [[ -n $name ]] || refuse "the session has no account of its owner"
  export USER=$name LOGNAME=$name MAIL=/var/mail/$name SHELL=$shell
}

take_definition() { # NAME: keeps what the controller has read of the user's own files, as `attach` keeps what berth has sent before
  local key text='' own=$STATES/$1/own
  local -A SERVICE=()
  [[ $OWN_SERVICES -nt $own && ! $1 =~ ^$PORT_NAME$ ]] || return 0 # a published port is defined in the session alone
  read_block "$1" "$OWN_SERVICES" || return 0
  for key in "${!SERVICE[@]}"; do text+=$key=${SERVICE[$key]}$'\n'; done
  make_place
  printf '%s' "$text" >"$own"
}

serve_door() { # SOCKET…, which this connection may open: starts a service of the session, and reports as for `attach`
  local SOCKET
  local -A SERVICE=()
  parse_door_command
  set_owner_variables
  take_definition "$NAME"
  read_service "$NAME" || refuse "there is no service $NAME in this session"
  printf 'socket %s\n' "${SERVICE[socket]}"
  if [[ " $* " != *" ${SERVICE[socket]} "* ]]; then # the service was defined after the login
    admit_sockets
    echo reconnect
  fi
  make_place
  follow_service
}
