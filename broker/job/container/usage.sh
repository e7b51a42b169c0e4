# Measures when the session and its GPU were last used.

readonly USAGE_VALID_S=300 # seconds after which what was last seen of that says nothing any more
readonly BUSY_PERCENT=5 # of one processor: below it, what runs is not at work
readonly USER_HZ=100 # in which unit /proc/PID/stat counts processor time: time(7)

count_logins() { # FILE: adds to LOGINS the terminals that sshd's process names in its title, as in `sshd: alice@pts/0,pts/3`; not those of guests
  local title='' terminals terminal
  { IFS= read -r -d '' title <"$1"; } 2>/dev/null || :
  [[ $title == sshd*": "*@pts/* && $title != *": $GUEST_LOGIN@"* ]] || return 0
  IFS=, read -ra terminals <<<"${title##*@}"
  for terminal in "${terminals[@]}"; do [[ $terminal != pts/* ]] || LOGINS=$((LOGINS + 1)); done
}

measure_cpu_time() { # TICKS, LOGINS: CPU time of all processes that ever ran in the session, in USER_HZ; terminals of logins
  local file line fields
  TICKS=0 LOGINS=0 # parents count the time of ended children
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    read -ra fields <<<"${line##*) }" # from the third on: utime, stime, cutime and cstime are 14 to 17 in proc(5)
    [[ $file != "/proc/$$/stat" ]] || fields[11]=0 fields[12]=0 # serving the job is no use of the session
    TICKS=$((TICKS + ${fields[11]:-0} + ${fields[12]:-0} + ${fields[13]:-0} + ${fields[14]:-0}))
    [[ $line != *"(sshd"* ]] || count_logins "${file%stat}cmdline"
  done
}

measure_children() { # CHILD_TICKS: CPU time of the children of this process that have ended, in USER_HZ
  local line fields
  { read -r line <"/proc/$$/stat"; } 2>/dev/null || return 0
  read -ra fields <<<"${line##*) }"
  CHILD_TICKS=$((fields[13] + fields[14]))
}

serve_own() { # COMMAND ARGUMENT…: runs a function of ours; OWN_TICKS: CPU time of all children that such functions had
  local CHILD_TICKS=0
  measure_children
  OWN_TICKS=$((OWN_TICKS - CHILD_TICKS)) # meanwhile, CHILD_TICKS and this are the sum
  "$@"
  measure_children
  OWN_TICKS=$((OWN_TICKS + CHILD_TICKS))
}

measure_gpu_work() { # GPU_WORK: the driver's count of work by processes that have a GPU open; empty if the driver does not count
  local device file key value known
  local -A render=()
  GPU_WORK=0
  # No process substitution: its process may end after the measurement, which would then count it as use.
  for device in $(stat -Lc '%t:%T' /dev/dri/render* 2>/dev/null); do render[$device]=yes; done
  while read -r device file; do
    [[ -n $device && -n ${render[$device]:-} ]] || continue
    known=''
    while read -r key value _; do
      # Nanoseconds, or cycles: Documentation/gpu/drm-usage-stats.rst of Linux.
      case $key in drm-engine-capacity-*) ;; drm-engine-* | drm-cycles-*) known=yes GPU_WORK=$((GPU_WORK + value)) ;; esac
    done 2>/dev/null <"${file/\/fd\//\/fdinfo\/}" || continue # it has been closed
    [[ -n $known ]] || { GPU_WORK='' && return 0; }
  done <<<"$(run_on_descriptors stat -Lc '%t:%T %n')"
}

measure_usage() { # by serve_own: writes when the session was last used, when its GPU was (- without one), and the present time, in seconds of the epoch; and the terminals of logins
  local TICKS LOGINS GPU_WORK OPEN now=$EPOCHSECONDS typed at
  ((now - SEEN_AT <= USAGE_VALID_S)) || USED=$now GPU_USED=$now # nobody looked, as in a job that was suspended
  measure_cpu_time
  measure_children
  TICKS=$((TICKS - OWN_TICKS - CHILD_TICKS))
  if ((TICKS < SEEN_TICKS || (TICKS - SEEN_TICKS) * 100 >= (now - SEEN_AT) * USER_HZ * BUSY_PERCENT)); then USED=$now; fi
  SEEN_TICKS=$TICKS SEEN_AT=$now
  # A terminal's access time is when something last read what was typed there (every 8 s at most); programs of the image
  # that know better whether they are used, such as notebooks, touch the file.
  for typed in $(stat -c %X /dev/pts/[0-9]* /run/berth/node/active 2>/dev/null); do
    ((typed <= USED)) || USED=$typed
  done
  find_open_services
  [[ -z $OPEN ]] || USED=$now
  at=-
  if ((${SLURM_GPUS_ON_NODE:-0} + ${SLURM_SHARDS_ON_NODE:-0} > 0)); then
    measure_gpu_work
    if [[ -z $GPU_WORK || $GPU_WORK -ne $SEEN_WORK ]]; then GPU_USED=$now; fi
    SEEN_WORK=${GPU_WORK:-0} at=$GPU_USED
    ((GPU_USED <= USED)) || USED=$GPU_USED
  fi
  { echo "$USED $at $now $LOGINS" >/run/berth/node/use.new && mv /run/berth/node/use.new /run/berth/node/use; } 2>/dev/null || :
}
