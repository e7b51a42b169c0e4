# Starts the container, and watches it until its end: its output, its sshd, and the checks of each interval.

readonly MEMORY_CHECK_S=2 # seconds between two looks at the memory
readonly LOG_CHECK_LINES=5000 # lines between two looks at the log's size
# sshd's lines about connections that ended without an attempt to log in: sshd names the user in all other lines.
readonly PROBE_LINES='^(Connection (closed|reset) by [0-9A-Fa-f.:]+ port [0-9]+( \[preauth\])?$|(fatal: )?Timeout before authentication for |kex_exchange_identification: (Connection closed by remote host|read: Connection reset by peer)$)'

is_probe() { # LINE: whether sshd's line is about a connection such as the gateway's, which only compares the host key
  [[ $1 =~ $PROBE_LINES ]]
}

report_no_namespace() { # ends the job: unshare has failed before namespace_main ran
  local root="; root mode needs a line of yours in /etc/subuid and /etc/subgid (usermod --add-subuids), util-linux 2.38"
  die "$UNFIT_NODE" "$SLURMD_NODENAME could not create a user namespace, see above${BERTH_ROOT:+$root}"
}

note_failure() { # LINE: of the container's output: FAILURE: its last error; LAST_LINE
  [[ -z $1 || $1 == *" berth: $FIRST_PROCESS" ]] || LAST_LINE=$1
  [[ $1 != *' berth: error: '* ]] || FAILURE=${1##* berth: error: }
}

start_container() { # CONTAINER: the process of namespace_main(); LOG: the output of it and of all its children
  local map=() id owners=() script=$NODE_DIR/run/job.sh state=$NODE_DIR/run/state
  [[ -z $BERTH_ROOT ]] || map=(--map-users auto --map-groups auto)
  # This script runs again in the namespace and in the container, which do not see Slurm's spool directory.
  cp -- "$0" "$script"
  declare -p DIRECTORY LAYERS NODE_DIR TMP_DIR DRIVER HOME_STACK SYSTEM_STACK ON_NODE OWNER_UID OWNER_GID "${!BERTH_@}" >"$state"
  if [[ -n $BERTH_ROOT ]]; then
    for id in "${SYSTEM_STACK[@]/#/"$LAYERS/"}"; do
      [[ ! -f $id/owners ]] || owners=("$id/owners" "${owners[@]}") # the oldest first
    done
    [[ ${#owners[@]} -eq 0 ]] || cat "${owners[@]}" >"$NODE_DIR/run/owners"
  fi
  exec {LOG}< <(
    exec unshare --user --map-root-user "${map[@]}" --mount /bin/bash "$script" namespace "$state" 2>&1
  )
  CONTAINER=$!
}

# Copies the container's output to the job's log until the container has ended. Between two lines it runs the periodic
# checks. The line with which sshd says that it listens makes the session `ready`: update_job_comment() publishes the port.
watch_container() {
  local line part='' count=0 moved='' announced='' version_at=$NEVER ended pause
  while :; do
    [[ -z $HOLDING ]] || ((SECONDS <= KILL_AT)) || kill -KILL "$CONTAINER" 2>/dev/null || :
    ended=0 pause=$((TIME_CHECK_AT - EPOCHSECONDS))
    ((pause < MEMORY_CHECK_S)) || pause=$MEMORY_CHECK_S
    ((pause > 0)) || pause=0.1
    IFS= read -r -t "$pause" -u "$LOG" line || ended=$?
    part+=$line
    check_memory
    check_slurmstepd
    watch_time_limit
    check_ready_limit
    report_idle
    save_when_due
    if ((EPOCHSECONDS >= version_at)); then
      version_at=$NEVER
      check_apptainer_version &
    fi
    if ((ended > 128)); then # nothing said for a while; a line may be half read
      [[ -z ${STOPPING:-}$HOLDING ]] || kill -TERM "$CONTAINER" 2>/dev/null || :
      continue
    fi
    ((ended == 0)) || break
    line=${part%$'\r'} part=''
    is_probe "$line" || printf '%s\n' "$line" || :
    [[ -z ${READY_BY:-} ]] || note_failure "$line"
    look_after_login "$line"
    if [[ -z $moved && $line == *" berth: $FIRST_PROCESS" ]]; then
      moved=yes # before anything of the user's runs
      set_first_process_id
    fi
    if [[ -z $announced && $line =~ ^"Server listening on "[^\ ]+" port "([0-9]+)\.$ ]]; then
      # First announce the endpoint: other programs of this node would delay that.
      announced=yes LISTENS=yes READY_BY='' PORT=${BASH_REMATCH[1]} USAGE_CHECK_AT=$((EPOCHSECONDS + 5)) version_at=$((EPOCHSECONDS + 2))
      update_job_comment "$PORT" '' &
      COMMENT_UPDATE=$!
    fi
    if ((++count % LOG_CHECK_LINES == 0)); then trim_log || :; fi
  done
}
