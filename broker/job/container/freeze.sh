# Stops all processes of the session for a copy of its volumes, and continues them.

readonly FREEZE_WAIT_S=5 # seconds until every process must have stopped for a copy
readonly FREEZE_LIMIT_S=60 # seconds that a copy may keep the session's processes stopped

list_processes() { # STATE, PARENT: state and parent of every process but this one, by process id
  local file line pid state
  STATE=() PARENT=()
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue # it has ended
    pid=${line%% *} line=${line##*) } # after the name, which may hold anything: state, parent, and more
    state=${line%% *} line=${line#* }
    [[ $pid -eq 1 ]] || STATE[pid]=$state PARENT[pid]=${line%% *}
  done
}

are_threads_stopped() { # whether every thread has stopped: those of a process stop one by one
  local file line
  for file in /proc/[0-9]*/task/[0-9]*/stat; do
    [[ $file != /proc/1/* ]] || continue
    if { read -r line <"$file"; } 2>/dev/null && [[ ${line##*) } != [TtZX]* ]]; then return 1; fi
  done
}

stop_processes() { # FD: STOPPED: the processes that it has stopped, in this order; fails if one still runs after FREEZE_WAIT_S
  local end=$((SECONDS + FREEZE_WAIT_S)) pid next running STATE PARENT
  STOPPED=()
  local -A told=()
  # A parent first, and its children once it has stopped: a shell that sees its program stop takes the terminal back.
  # It also lets a child that borrows its parent's memory (vfork) reach its exec.
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
    # Signals take a moment. A line to read here means that the copy has not waited: it is too late.
    if ((SECONDS > end)) || read -rt 0.001 -u "$1"; then return 1; fi
  done
}

freeze_processes() { # stops the session's processes, reports that, and continues them when the job says so, or after FREEZE_LIMIT_S
  local said told answer=all i STOPPED=()
  [[ -p /run/berth/node/still && -p /run/berth/node/go ]] || return 0 # somebody of the session sent the signal
  exec {said}<>/run/berth/node/still {told}<>/run/berth/node/go
  stop_processes "$told" || answer=some
  # Writes that FUSE holds back must reach the layers before they are read.
  if [[ $(</proc/self/mountinfo) == *fuse-overlayfs* ]]; then sync -f / "/home/$BERTH_OWNER" || answer=some; fi
  echo "$answer" >&"$said"
  read -rt $((FREEZE_LIMIT_S + FREEZE_WAIT_S)) -u "$told" || :
  # Children first, for the same reason. Processes that had stopped before stay stopped.
  for ((i = ${#STOPPED[@]} - 1; i >= 0; i--)); do kill -CONT "${STOPPED[i]}" 2>/dev/null || :; done
  echo continued >&"$said"
  exec {said}<&- {told}<&-
}
