# Prepares the session's services, and finds out whether one is open.

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
