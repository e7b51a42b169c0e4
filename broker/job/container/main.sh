# Process 1 of the container: starts sshd, answers requests of the job, and ends the session's processes.

readonly STOP_GRACE_S=3 # seconds between TERM and KILL for the session's processes; below any sane KillWait
readonly ACCEPT_S=1 # seconds for which a terminal may take to accept the message about the end
readonly DELIVERY_S=0.3 # seconds in which sshd sends that message to its clients, before it ends itself
readonly BIND_TRIES=20 # ports tried before giving up
readonly FIRST_PROCESS='the first process of the session runs' # what it says, and the job waits for

write_to_terminals() { # SECONDS: TERMINALS: writes the notice to every terminal of the session; skips one that takes nothing now
  local terminal tellers=()
  for terminal in /dev/pts/[0-9]*; do
    [[ -w $terminal ]] || continue
    timeout -s KILL "$1" cat /run/berth/node/notice >"$terminal" 2>/dev/null &
    tellers+=($!)
  done
  TERMINALS=${#tellers[@]}
  ((TERMINALS == 0)) || wait "${tellers[@]}" || :
  rm -f /run/berth/node/notice
}

shut_down() { # CODE: ends every process of the session with TERM; those that remain are killed when this one, the first, exits
  local end pause TERMINALS
  trap '' TERM USR1
  exec {pause}<> <(:)
  if [[ -f /run/berth/node/notice ]]; then
    write_to_terminals "$ACCEPT_S"
    ((TERMINALS == 0)) || read -rt "$DELIVERY_S" -u "$pause" || :
  fi
  end=$((SECONDS + STOP_GRACE_S))
  kill -TERM -1 2>/dev/null || :
  kill -CONT -1 2>/dev/null || :
  while kill -0 -1 2>/dev/null && ((SECONDS <= end)); do read -rt 0.05 -u "$pause" || :; done
  exit "$1"
}

container_main() { # process 1 of the container's PID namespace: runs sshd on a free port of BERTH_PORTS
  local lowest=${BERTH_PORTS%-*} highest=${BERTH_PORTS#*-} start=$((RANDOM << 15 | RANDOM)) try code ports
  local config=/run/berth/node/sshd_config own
  ports=$((highest - lowest + 1))
  # shut_down() signals everything it can see: that must be the session and not all of the user's processes on the node.
  [[ $$ -eq 1 ]] || die "$UNFIT_NODE" "apptainer.conf on this node does not allow PID namespaces"
  SIGNALLED='' SEEN_TICKS=0 OWN_TICKS=0 SEEN_AT=$EPOCHSECONDS SEEN_WORK=0 USED=$EPOCHSECONDS GPU_USED=$EPOCHSECONDS
  trap 'shut_down 0' TERM
  trap 'SIGNALLED=yes' USR1
  umask 022
  log "$FIRST_PROCESS"
  SSHD=/usr/sbin/sshd
  [[ -x $SSHD ]] || die "$BAD_CONTENT" "the image has no $SSHD"
  adapt_accounts
  [[ ! -s /run/berth/node/owners ]] || apply_owners /run/berth/node/owners
  install_services
  prepare_doors
  read_client_variables "$CLIENT_SETTINGS_INSIDE/environment"
  own=$(write_sshd_config)
  complete_doors
  write_rules "$config" "$own" "${!DOORS[@]}"
  [[ -z $BERTH_CHECKS ]] || run_checks
  # sshd binds the port before the job publishes it: a port that was free a moment ago may be taken.
  for ((try = 0; try < BIND_TRIES && try < ports; try++)); do
    code=0
    run_sshd $((lowest + (start + try) % ports)) || code=$?
    # The PID file is written once sshd listens: an end before that may be a port in use, later ones are final.
    [[ $code -ne 255 || -e /run/berth/node/sshd.pid ]] && break
    if ! "$SSHD" -t -f "$config"; then
      [[ ${#DOORS[@]} -gt 0 ]] || break
      drop_refused_doors "$config" "$own"
      "$SSHD" -t -f "$config" || break
    fi
  done
  shut_down "$code"
}

if [[ ${1-} == container ]]; then # bash reads no further
  # shellcheck disable=SC1090 # start_container has written it
  source "$2"
  container_main
fi
