# The lock of the session's volumes, the job's directory on the node, and the size of its log.
readonly LOG_LIMIT_BYTES=$((4 << 20)) # bytes; above it the job's log is cut back to its last quarter

lock_volumes() { # one writer: whoever has run/lock has the volumes; kept until this process ends, however it ends
  local lock waiter code
  exec {lock}<>"$DIRECTORY/run/lock" # for reading and writing, as NFS wants it: flock(2)
  ! flock -n "$lock" || return 0
  log "another job has the volumes of this session open; waiting up to $BERTH_LOCK_WAIT s for its lock"
  flock -w "$BERTH_LOCK_WAIT" "$lock" & # in the background, so that we can be told to end
  waiter=$!
  until code=0 && wait "$waiter" || code=$?; ((code == 0)) || ! kill -0 "$waiter" 2>/dev/null; do :; done
  ((code == 0)) || die "$LOCKED" "another job has the volumes of this session open"
}

make_node_dir() { # NODE_DIR: what must not lie on the shared file system; ours alone
  local base=${SLURM_TMPDIR:-/tmp} old
  for old in "$base/berth-$UID-$BERTH_SESSION_ID".*; do # of a run that was killed; the lock says that it is over
    if [[ -d $old && -O $old && ! -L $old ]]; then remove_tree "$old"; fi
  done
  NODE_DIR=$(mktemp -d "$base/berth-$UID-$BERTH_SESSION_ID.XXXXXXXX") || die "$NO_NODE_DIR" "no directory in $base"
  mkdir -m 700 "$NODE_DIR/run"
}

trim_log() { # Slurm has opened the log for appending, so cutting it back in place is safe
  local log=$DIRECTORY/run/job.log size
  size=$(stat -c %s -- "$log" 2>/dev/null || echo 0)
  ((size > LOG_LIMIT_BYTES)) || return 0
  tail -c $((LOG_LIMIT_BYTES / 4)) -- "$log" >"$NODE_DIR/log" && cat "$NODE_DIR/log" >"$log" && rm -f "$NODE_DIR/log"
}
