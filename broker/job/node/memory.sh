# Ends a session that lost a process to the memory limit, or its slurmstepd.

find_oom_counter() { # CGROUPS: OOM_COUNTER: the file in which the kernel counts out-of-memory kills in this job
  # Standard input is /proc/self/cgroup. Slurm's directory of a job has those of its steps in it. It is named job_ID or,
  # since Slurm 26.05 with version 2, by the job's SLUID: `s` and 13 digits of base 32.
  local controllers path mount file job step='' name="job_$SLURM_JOB_ID|${SLURM_JOB_SLUID:-none}|s[0-9A-HJKMNP-TV-Z]{13}"
  OOM_COUNTER=/dev/null
  while IFS=: read -r _ controllers path; do
    case ,$controllers, in
      *,memory,*) mount=$1/memory file=memory.oom_control ;; # version 1
      ,,) mount=$1 file=memory.events ;;                     # version 2: the leaf may lack the controller
      *) continue ;;
    esac
    [[ $path =~ ^(.*/($name))/step_[^/]+(/|$) ]] || continue
    job=${BASH_REMATCH[1]} step=$path
    while [[ ! -r $mount$path/$file && $path != "$job" ]]; do path=${path%/*}; done
    if [[ -r $mount$path/$file ]]; then OOM_COUNTER=$mount$path/$file; fi
  done
  [[ -z $step || $OOM_COUNTER != /dev/null ]] ||
    log "warning: nothing counts out-of-memory kills in $step: one in this session goes unnoticed"
}

count_oom_kills() { # OOM_KILLS: how many the job had before this run of the session
  local key value
  OOM_KILLS=0
  while read -r key value; do
    [[ $key != oom_kill ]] || OOM_KILLS=$value
  done <"$OOM_COUNTER"
}

check_memory() { # ends a session that lost a process to the memory limit: it is no longer whole, and Slurm shows why
  local key value
  while read -r key value; do
    [[ $key == oom_kill && $value != "${OOM_KILLS:-0}" ]] || continue
    announce_end "out of memory: a process was killed, and the session ends" \
      "Its files are kept. \`berth explain ${BERTH_SESSION_NAME:-}\` shows how to start it with more memory."
    die "$OUT_OF_MEMORY" "out of memory: a process of the session was killed"
  done <"$OOM_COUNTER"
}

check_slurmstepd() { # ends a session whose slurmstepd has ended: Slurm would end the job without the processes of it
  local line fields
  [[ -z ${STOPPING:-} ]] && { read -r line <"/proc/$$/stat"; } 2>/dev/null || return 0
  read -ra fields <<<"${line##*) }" # from the third on: the parent is 4 in proc(5)
  ((fields[1] != PPID)) || return 0
  log "error: the slurmstepd of this job has ended: the session ends, since Slurm can neither see nor end it any more"
  ORPHANED=yes
  announce_end "the slurmstepd of job $SLURM_JOB_ID has ended, and the session ends" \
    "Its files are kept. \`berth start ${BERTH_SESSION_NAME:-}\` starts it again."
  stop_container
}
