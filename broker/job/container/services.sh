# Prepares the session's services, and finds out whether one is open.

readonly LISTING_LIMIT_S=20 # seconds in which the list of services must be there
readonly DESCRIPTORS=2000 # arguments of one command: with 25 bytes each, they stay below the 128 KiB that execve(2) always allows

install_services() { # writes the program that lists and starts services; each is started when it is first opened
  mkdir -p /run/berth/node/services
  write_service_program /run/berth/node/service
}

write_service_program() { # FILE
  cat >"$1" <<'PROGRAM'
#embed service.sh
PROGRAM
  chmod 755 "$1"
}

report_services() { # hands the list of the user's services to the job. In the background: the home may be on a file system that hangs
  [[ -x /run/berth/node/service ]] || return 0
  [[ -z ${LISTING:-} || $'\n'$(jobs -rp)$'\n' != *$'\n'"$LISTING"$'\n'* ]] || return 0
  list_services_once </dev/null >/dev/null 2>&1 &
  LISTING=$!
}

list_services_once() { # leaves its processor time too, which is no use of the session
  local line fields place=/run/berth/node
  if timeout -s KILL "$LISTING_LIMIT_S" /bin/bash "$place/service" own >"$place/listed.new"; then
    mv -fT "$place/listed.new" "$place/listed"
  fi
  read -r line </proc/self/stat
  read -ra fields <<<"${line##*) }" # as in measure_cpu_time
  echo "$((fields[11] + fields[12] + fields[13] + fields[14]))" >"$place/listed.ticks"
}

deduct_listing() { # by serve_own: OWN_TICKS: with the processor time of the last list
  local ticks=''
  { read -r ticks </run/berth/node/listed.ticks && rm -f /run/berth/node/listed.ticks; } 2>/dev/null || :
  [[ ! $ticks =~ ^[0-9]{1,6}$ ]] || OWN_TICKS=$((OWN_TICKS + 10#$ticks))
}

find_open_services() { # OPEN: whether a client is connected to a socket in /run/berth/web
  local state inode path target sockets
  local -A connected=()
  OPEN=''
  sockets=$(echo /run/berth/web/*.sock)
  [[ $sockets != '/run/berth/web/*.sock' ]] || return 0
  while read -r _ _ _ _ _ state inode path; do
    [[ $state != 03 || $path != /run/berth/web/* ]] || connected["socket:[$inode]"]=yes # SS_CONNECTED of Linux
  done </proc/net/unix
  [[ ${#connected[@]} -gt 0 ]] || return 0
  # Another session on this node has sockets of the same path: only processes of this one are in this /proc.
  while read -r target; do
    [[ $target != socket:* || -z ${connected[$target]:-} ]] || OPEN=yes # a file's name may have empty lines
  done <<<"$(run_on_descriptors readlink)"
}

run_on_descriptors() { # COMMAND ARGUMENT…: runs it on the open files of all processes in /proc, some at a time: their number has no limit
  local file some=()
  for file in /proc/[0-9]*/fd/*; do
    some+=("$file")
    ((${#some[@]} < DESCRIPTORS)) || { "$@" "${some[@]}" 2>/dev/null || :; some=(); }
  done
  [[ ${#some[@]} -eq 0 ]] || "$@" "${some[@]}" 2>/dev/null || :
}
