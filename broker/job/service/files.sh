# Paths, limits and files of a session's services: who runs, how far each is, and how each is defined.
#
# Each service that runs has a supervisor: a process that holds the lock of the service's directory. It writes to the file
# `state` how far the service is: `starting`, `ready`, `waiting SECONDS`, `failed` or `stopped`.

set -uo pipefail
shopt -s nullglob

readonly BASE=${0%/node/*}
readonly SOCKETS=$BASE/web STATES=$BASE/node/services DECLARED=$BASE/session/services
readonly OWN_SERVICES=$BASE/session/own_services # those that the user has added, as the controller has read them of run/listed
readonly LIST_BYTES=262144 # bytes read of a list of services
readonly SOCKET_NAME='[A-Za-z0-9][A-Za-z0-9._-]*\.sock'

refuse() { # MESSAGE
  printf 'refused %s\n' "$1"
  exit 1
}

is_alive() { # NAME: whether the service has a supervisor, or gets one just now
  local pid
  { read -r pid <"$STATES/$1/pid"; } 2>/dev/null || return 0
  [[ $pid =~ ^[0-9]+$ ]] && kill -0 "$pid" 2>/dev/null
}

read_state() { # NAME: STATE
  { read -r STATE <"$STATES/$1/state"; } 2>/dev/null || STATE=starting # the file is empty while it is written
  [[ $STATE == failed || $STATE == stopped ]] || is_alive "$1" || STATE=stopped
}

read_block() { # NAME FILE: SERVICE, an array of the caller: keys and values of that service in a file of lines KEY=VALUE
  local line
  SERVICE=()
  while IFS= read -r line; do
    if [[ -z $line ]]; then
      [[ ${SERVICE[name]:-} != "$1" ]] || return 0
      SERVICE=()
    elif [[ $line =~ ^([a-z_]+)=(.*)$ ]]; then
      # shellcheck disable=SC2004 # the callers' array has names for keys
      SERVICE[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
    fi
  done < <(head -c "$LIST_BYTES" -- "$2" 2>/dev/null)
  [[ ${SERVICE[name]:-} == "$1" ]]
}

read_service() { # NAME: SERVICE: the user's own service if berth has sent one, else the profile's; SOCKET
  read_block "$1" "$STATES/$1/own" || read_block "$1" "$DECLARED" || return 1
  [[ -n ${SERVICE[command]:-} && ${SERVICE[socket]:-} =~ ^$SOCKET_NAME$ ]] || return 1
  SOCKET=$SOCKETS/${SERVICE[socket]}
}
