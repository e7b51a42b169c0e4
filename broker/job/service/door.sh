# The door of berth-web, the gateway for browsers: the sockets that its login reaches, and the one command that it has.

readonly PRINCIPALS=$BASE/node/web_principals
readonly SERVICE_NAME='[a-z][a-z0-9-]{0,38}'

admit_sockets() { # lets berth-web reach the sockets of all services that the profile declares or the user has defined
  local lock fresh=$PRINCIPALS.$$
  local -A sockets=() services=()
  [[ ${BERTH_SESSION_ID:-} =~ ^[0-9a-z]{26}$ ]] || return 1
  exec {lock}<>"$STATES/.lock" || return 1
  flock "$lock" 2>/dev/null # without it in the image, no service starts
  find_sockets
  # Without permitopen, sshd would let berth-web reach every socket: no service, no line.
  { ((${#sockets[@]} == 0)) || print_principals; } >"$fresh" && mv -f -- "$fresh" "$PRINCIPALS"
  exec {lock}>&-
}

find_sockets() { # sockets, services: arrays of the caller; a definition of the user's own counts, and the profile's socket stays open
  local file line name='' LC_ALL=C
  local -A SERVICE=()
  while IFS= read -r line; do
    if [[ $line =~ ^name=($SERVICE_NAME)$ ]]; then
      name=${BASH_REMATCH[1]}
    elif [[ -n $name && $line =~ ^socket=($SOCKET_NAME)$ ]]; then
      services[$name]=${BASH_REMATCH[1]}
      sockets[${BASH_REMATCH[1]}]=yes
    fi
  done < <(head -c "$LIST_BYTES" -- "$DECLARED" 2>/dev/null)
  for file in "$STATES"/*/own; do
    name=${file%/own} && name=${name##*/}
    if [[ $name =~ ^$SERVICE_NAME$ ]] && read_block "$name" "$file" && [[ ${SERVICE[socket]:-} =~ ^$SOCKET_NAME$ ]]; then
      services[$name]=${SERVICE[socket]}
      sockets[${SERVICE[socket]}]=yes
    fi
  done
}

print_principals() { # a line for visits of the owner, one for guests of each service, and one that opens nothing; arrays of the caller: sockets, services
  local each opens='' run="/bin/bash $BASE/node/service"
  for each in "${!sockets[@]}"; do opens+=",permitopen=\"[$SOCKETS/$each]:*\""; done
  echo "restrict,port-forwarding,command=\"$run door ${!sockets[*]}\"$opens web:$BERTH_SESSION_ID"
  for each in "${!services[@]}"; do
    opens="permitopen=\"[$SOCKETS/${services[$each]}]:*\""
    echo "restrict,port-forwarding,command=\"$run guest $each ${services[$each]}\",$opens web:$BERTH_SESSION_ID:$each"
  done
  # sshd takes the first line that fits: this one for a guest of a service that was not yet defined.
  echo "restrict,command=\"$run admit-guest\" web-admit:$BERTH_SESSION_ID"
}

parse_door_command() { # NAME: from what the client of sshd has sent
  local LC_ALL=C
  [[ ${SSH_ORIGINAL_COMMAND:-} =~ ^start\ ($SERVICE_NAME)$ ]] || refuse "berth-web can only run: start NAME"
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

serve_guest() { # NAME SOCKET: the same for the one service that a guest may open
  parse_door_command
  [[ $NAME == "$1" ]] || refuse "this connection can only run: start $1"
  serve_door "$2"
}

admit_guest() { # lets a guest's next connection reach a service that was defined after the last look
  local SOCKET
  local -A SERVICE=()
  parse_door_command
  take_definition "$NAME"
  read_service "$NAME" || refuse "there is no service $NAME in this session"
  printf 'socket %s\n' "${SERVICE[socket]}"
  admit_sockets
  echo reconnect
}
