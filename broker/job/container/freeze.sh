# Stops all processes of the session while a copy of its volumes is made, and continues them.
readonly FREEZE_WAIT_S=5 # seconds until every process must have stopped for a copy
readonly FREEZE_LIMIT_S=60 # seconds that a copy may keep the session's processes stopped

list_processes() { # STATE, PARENT: of every process but this one, by its number
  local file line pid state
  STATE=() PARENT=()
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue # it has ended
    pid=${line%% *} line=${line##*) } # after the name, which may hold anything: state, parent, and more
    state=${line%% *} line=${line#* }
    [[ $pid -eq 1 ]] || STATE[pid]=$state PARENT[pid]=${line%% *}
  done
}

are_threads_stopped() { # the threads of a process stop one by one
  local file line
  for file in /proc/[0-9]*/task/[0-9]*/stat; do
    [[ $file != /proc/1/* ]] || continue
    if { read -r line <"$file"; } 2>/dev/null && [[ ${line##*) } != [TtZX]* ]]; then return 1; fi
  done
}

stop_processes() { # FD: STOPPED: whom it has stopped, in this order; fails if not everything stands still within FREEZE_WAIT_S
  local end=$((SECONDS + FREEZE_WAIT_S)) pid next running STATE PARENT
  STOPPED=()
  local -A told=()
  # A parent first, and its children when it stands still: a shell must not see its program stop, or it would take the
  # terminal back. It also lets a child that borrows its parent's memory (vfork) reach its exec.
  while :; do
    list_processes
    next=() running=''
    for pid in "${!STATE[@]}"; do
      [[ ${STATE[pid]} != [TtZX] ]] || continue
      running=yes
      [[ -z ${told[$pid]:-} ]] || continue
      if ((PARENT[pid] <= 1)) || [[ ${STATE[PARENT[pid]]:-Z} == [TtZX] ]]; then next+=("$pid") told[$pid]=yes; fi
    done
    if [[ ${#next[@]} -gt 0 ]]; then
      STOPPED+=("${next[@]}")
      kill -STOP "${next[@]}" 2>/dev/null || :
    elif [[ -z $running ]] && are_threads_stopped; then
      return 0
    fi
    # The signals take a moment. Told to go on now, we are too late: the copy has not waited for us.
    if ((SECONDS > end)) || read -rt 0.001 -u "$1"; then return 1; fi
  done
}

freeze_processes() { # for a copy of the volumes: stops the session, says so, and continues it when told, or after a while
  local said told answer=all i STOPPED=()
  [[ -p /run/berth/node/still && -p /run/berth/node/go ]] || return 0 # somebody of the session sent the signal
  exec {said}<>/run/berth/node/still {told}<>/run/berth/node/go
  stop_processes "$told" || answer=some
  # What FUSE holds back must reach the layers before they are read.
  if [[ $(</proc/self/mountinfo) == *fuse-overlayfs* ]]; then sync -f / "/home/$BERTH_OWNER" || answer=some; fi
  echo "$answer" >&"$said"
  read -rt $((FREEZE_LIMIT_S + FREEZE_WAIT_S)) -u "$told" || :
  # Children first, for the same reason. Whoever stood still before stays so.
  for ((i = ${#STOPPED[@]} - 1; i >= 0; i--)); do kill -CONT "${STOPPED[i]}" 2>/dev/null || :; done
  echo continued >&"$said"
  exec {said}<&- {told}<&-
}
