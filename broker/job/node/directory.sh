# Locks the session's volumes, makes the job's directory on the node, and limits the size of the log.

readonly LOG_LIMIT_BYTES=$((4 << 20)) # bytes; above it the job's log is cut back to its last quarter

lock_volumes() { # holds run/lock until this process ends: one job at a time writes to the volumes
  local lock waiter code
  exec {lock}<>"$DIRECTORY/run/lock" # for reading and writing, as NFS wants it: flock(2)
  ! flock -n "$lock" || return 0
  log "another job has the volumes of this session open; waiting up to $BERTH_LOCK_WAIT s for its lock"
  flock -w "$BERTH_LOCK_WAIT" "$lock" & # in the background, so that we can be told to end
  waiter=$!
  until code=0 && wait "$waiter" || code=$?; ((code == 0)) || ! kill -0 "$waiter" 2>/dev/null; do :; done
  ((code == 0)) || die "$LOCKED" "another job has the volumes of this session open"
}

make_node_dir() { # NODE_DIR: a private directory for files that must not be on the shared file system
  local base=${SLURM_TMPDIR:-/tmp} old
  for old in "$base/berth-$UID-$BERTH_SESSION_ID".*; do # of a run that was killed; the lock says that it is over
    if [[ -d $old && -O $old && ! -L $old ]]; then remove_tree "$old"; fi
  done
  NODE_DIR=$(mktemp -d "$base/berth-$UID-$BERTH_SESSION_ID.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
}

trim_log() { # cuts the log to its last quarter: Slurm has opened it for appending, so this is safe in place
  local log=$DIRECTORY/run/job.log size
  size=$(stat -c %s -- "$log" 2>/dev/null || echo 0)
  ((size > LOG_LIMIT_BYTES)) || return 0
  tail -c $((LOG_LIMIT_BYTES / 4)) -- "$log" >"$NODE_DIR/log" && cat "$NODE_DIR/log" >"$log" && rm -f "$NODE_DIR/log"
}
