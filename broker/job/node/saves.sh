# Saves a system volume whose top is on the node's disk, while the session runs and at its end (ADR 120).

claim_system() { # GENERATION; adds the earlier jobs' saves to SYSTEM_STACK. From now on only this job saves the system volume
  local top=$LAYERS/${SYSTEM_STACK[0]} start=$BERTH_SUBMISSION.${SLURM_RESTART_COUNT:-0} said code=0 below own like
  { find_python && type -P mksquashfs unsquashfs >/dev/null; } || die "$UNFIT_NODE" \
    "$SLURMD_NODENAME lacks Python 3.11 or squashfs-tools, which save this session's system: start it on another node"
  said=$(run_saves claim "$top" "$start" 2>"$NODE_DIR/save.err") || code=$?
  ((code != 3)) || die "$SUPERSEDED" "$(tail -n 1 "$NODE_DIR/save.err")"
  ((code == 0)) || die "$BAD_VOLUMES" "$(tail -n 1 "$NODE_DIR/save.err")"
  { read -ra below && read -r own; } <<<"$said" || :
  mkdir -p "$NODE_DIR/top/work"
  if [[ -n $own && -n $BERTH_ROOT ]]; then # which changes nothing of that
    below=("$own" "${below[@]}") own=''
  fi
  if [[ -z $own ]]; then
    mkdir "$NODE_DIR/top/tree"
  else
    run_saves unpack "$LAYERS/$own" "$NODE_DIR/top/tree" || die "$BAD_VOLUMES" "the layer $LAYERS/$own could not be unpacked"
    [[ ! -e $LAYERS/$own/fuse ]] || : >"$NODE_DIR/top/fuse"
  fi
  SYSTEM_STACK=("${SYSTEM_STACK[0]}" "${below[@]}" "${SYSTEM_STACK[@]:1}")
  like=${own:-${below[0]:-${SYSTEM_STACK[0]}}}
  copy_root_attributes "$LAYERS/$like/tree" "$NODE_DIR/top/tree"
  [[ -z $own ]] || : >"$NODE_DIR/saved"
  ROOT_MODE=$(stat -c %a "$NODE_DIR/top/tree") SAVE_AT=$((EPOCHSECONDS + BERTH_SAVE_EVERY))
  GENERATION=$start
}

has_system_changed() { # since the last save of this job, or since its start; counts as changed if it cannot be known
  local as=() since=(-mindepth 1) found
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  if [[ -e $NODE_DIR/saved ]]; then
    (($(stat -c %Y "$NODE_DIR/saved") <= EPOCHSECONDS)) || return 0 # the clock was set back
    since=(-cnewer "$NODE_DIR/saved")
  fi
  found=$("${as[@]}" find "$NODE_DIR/top/tree" "${since[@]}" -print -quit) || return 0
  [[ -n $found || $(stat -c %a "$NODE_DIR/top/tree") != "$ROOT_MODE" ]]
}

begin_save() { # notes the time of the save, two seconds early: the file system's clock has steps
  remove_tree "$NODE_DIR/live.new"
  touch -d '2 seconds ago' "$NODE_DIR/saving"
}

pack_copy() { # COMMAND ARGUMENT…: saves the copy live.new; keeps RESULT only if that succeeds
  local how=$RESULT as=() errors line reason=''
  RESULT=failed MESSAGE='the session ended'
  [[ ! -e $NODE_DIR/top/fuse ]] || : >"$NODE_DIR/live.new/fuse"
  remove_tree "$NODE_DIR/live"
  mv "$NODE_DIR/live.new" "$NODE_DIR/live"
  ! unshare --map-root-user true 2>/dev/null || as=(unshare --map-root-user)
  # A process of its own, so that a signal reaches it, and without the lock that the next save waits for.
  # Its errors go through a pipe: the node's disk may be full.
  exec {errors}< <(exec {lock}>&- && exec "${as[@]}" "$PYTHON" -I "$DIRECTORY/run/copying.pyz" "$@" 2>&1 >/dev/null)
  PACKER=$!
  while IFS= read -ru "$errors" line; do reason=$line; done
  exec {errors}<&-
  if wait "$PACKER"; then
    [[ $1 != save ]] || mv "$NODE_DIR/saving" "$NODE_DIR/saved"
    RESULT=$how MESSAGE=''
  else
    MESSAGE=$reason
  fi
  PACKER=''
}

save_when_due() { # at SAVE_AT: saves in the background
  [[ -n ${GENERATION:-} && -n ${LISTENS:-} && -z $BERTH_ROOT && -z ${STOPPING:-}${HOLDING:-} ]] && ((EPOCHSECONDS >= SAVE_AT)) || return 0
  SAVE_AT=$((EPOCHSECONDS + BERTH_SAVE_EVERY))
  save_live &
}

save_live() { # freezes the session, copies the top on the node's disk, and packs the copy
  local lock RESULT='' PAUSE=0.000 MESSAGE='' COPIER='' PACKER=''
  trap - USR1 USR2
  exec {lock}>"$NODE_DIR/copying" && flock "$lock"
  has_system_changed || exit 0
  RESULT=failed
  trap report_save EXIT
  trap 'RESULT="" && exit 0' TERM # the job saves at its end
  begin_save
  copy_pairs "$NODE_DIR/top/tree" "$NODE_DIR/live.new" "$NODE_DIR/live"
  [[ $RESULT == failed ]] || pack_copy save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/live"
}

report_save() { # logs the result of a save
  local text at='never before'
  end_copy_programs
  [[ -n $RESULT ]] || return 0
  [[ $RESULT == failed ]] || { log "saved the changes outside of the home, $RESULT, paused for $PAUSE s" && return 0; }
  [[ ! -e $NODE_DIR/saved ]] || printf -v at 'last at %(%H:%M:%S)T' "$(stat -c %Y "$NODE_DIR/saved")"
  text="the changes outside of the home could not be saved ($at): ${MESSAGE:0:300}"
  log "warning: $text"
  write_message notice $'\r\n'"berth: $BERTH_SESSION_NAME: $text"$'\r\n' || :
  kill -USR1 "$CONTAINER" 2>/dev/null || :
}

save_at_end() { # the last save, after the container's end
  local lock
  [[ -n ${GENERATION:-} && -z $BERTH_ROOT ]] || return 0
  exec {lock}>"$NODE_DIR/copying" && flock "$lock" # of a save in the background, which has been told to end
  save_changes
  exec {lock}>&-
}

save_changes() { # saves the top on the node's disk if it has changed since its last save
  local attempt errors
  # Stores into mapped pages of tmpfs change no time.
  has_system_changed || [[ -e $NODE_DIR/saved && $(stat -f -c %T "$NODE_DIR/top") == tmpfs ]] || return 0
  log "saving the changes outside of the home"
  for attempt in first second; do # Slurm's signal may end the first
    if errors=$(run_saves save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/top" 2>&1 >/dev/null); then
      log "saved the changes outside of the home"
      return 0
    fi
    log "the $attempt attempt to save failed: ${errors##*$'\n'}"
  done
  log "error: the changes outside of the home since the last save are lost"
}
