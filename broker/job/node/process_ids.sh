# Gives the session other process ids than its earlier jobs had.

readonly LOWEST_PID=300 # where the kernel's process ids begin again: RESERVED_PIDS

find_process_one() { # FIRST: the id on the node of process 1 of the session's PID namespace
  local queue=("$CONTAINER") pid file key ids
  while [[ ${#queue[@]} -gt 0 ]]; do
    pid=${queue[0]} queue=("${queue[@]:1}")
    while read -r key ids; do
      if [[ $key == NSpid: && $ids == *[[:blank:]]1 ]]; then
        FIRST=$pid
        return 0
      fi
    done 2>/dev/null <"/proc/$pid/status" || : # the process has ended
    for file in "/proc/$pid/task/"*/children; do # Apptainer starts process 1 from any of its threads
      if read -ra ids 2>/dev/null <"$file" || [[ -n ${ids:-} ]]; then queue+=("${ids[@]}"); fi
    done
  done
  return 1
}

set_first_process_id() { # lets the session's process ids begin at another number than in its earlier jobs
  # The home outlives the job: a PID file of an earlier job must not name a process that lives now. Successive runs lie
  # far apart by the golden ratio. ns_last_pid is that of the writer's PID namespace: proc(5).
  local most=32768 run=$(((BERTH_SUBMISSION * 7 + ${SLURM_RESTART_COUNT:-0}) * 618034 % 1000000)) FIRST
  read -r most </proc/sys/kernel/pid_max || :
  run=$((LOWEST_PID + run * (most - 2 * LOWEST_PID) / 1000000))
  # The job's user owns the session's user namespaces.
  # shellcheck disable=SC2016 # expanded by the shell in the namespace
  if ! find_process_one || ! nsenter --target "$CONTAINER" --user --preserve-credentials -- \
    nsenter --target "$FIRST" --pid --preserve-credentials -- bash -c 'echo "$1" >/proc/sys/kernel/ns_last_pid' move "$run"; then
    log "warning: this kernel does not let process ids be set: they begin at the lowest in each job"
  fi
}
