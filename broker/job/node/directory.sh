# Makes the job's directories on the node, and limits the size of the log.

readonly LOG_LIMIT_BYTES=$((4 << 20)) # bytes; above it the job's log is cut back to its last quarter

make_node_dir() { # NODE_DIR: a private directory for files that must not be on the shared file system; TMP_DIR and TMP_KIND
  local base=${SLURM_TMPDIR:-/tmp} name=berth-$UID-$BERTH_SESSION_ID old PLACES
  list_tmp_places
  for base in "${PLACES[@]}" "$base"; do
    for old in "$base/$name".*; do # of a run that was killed; the lock says that it is over
      if [[ -d $old && -O $old && ! -L $old ]]; then remove_tree "$old"; fi
    done
  done
  NODE_DIR=$(mktemp -d "$base/$name.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR"/{run,web}
  make_tmp_dir "$name"
  [[ $TMP_KIND != memory ]] || log "warning: files in /tmp and /var/tmp count as this job's memory on $SLURMD_NODENAME:\
 no directory of the setting storage.tmp_directories is on a disk with room there"
}

trim_log() { # cuts the log to its last quarter: Slurm has opened it for appending, so this is safe in place
  local log=$DIRECTORY/run/job.log size
  size=$(stat -c %s -- "$log" 2>/dev/null || echo 0)
  ((size > LOG_LIMIT_BYTES)) || return 0
  tail -c $((LOG_LIMIT_BYTES / 4)) -- "$log" >"$NODE_DIR/log" && cat "$NODE_DIR/log" >"$log" && rm -f "$NODE_DIR/log"
}
