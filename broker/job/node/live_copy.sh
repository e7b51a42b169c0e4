# Copies the volumes of the running session, as run/copy.request asks.

readonly OUTCOME_BYTES=2048 # bytes of run/copy.outcome, which the launcher makes before it asks

read_copy_request() { # REQUEST: the valid keys of run/copy.request
  local key value
  while IFS='=' read -r key value; do
    case $key in
      ID) [[ $value =~ ^[A-Za-z0-9._-]+$ ]] || continue ;;
      HOME | SYSTEM | HOME_PREVIOUS | SYSTEM_PREVIOUS) [[ $value =~ ^[0-9a-z]{26}$ ]] || continue ;;
      *) continue ;;
    esac
    REQUEST[$key]=$value
  done <"$DIRECTORY/run/copy.request"
}

write_copy_outcome() { # overwrites run/copy.outcome in one write: a full disk has no room for another file
  local text
  end_copy_programs
  MESSAGE=${MESSAGE:0:300}
  log "copy ${REQUEST[ID]}: $RESULT, $PAUSE s${MESSAGE:+: $MESSAGE}"
  printf -v text '%s\n' "RESULT=$RESULT" "PAUSE=$PAUSE" "MESSAGE=$MESSAGE" "ID=${REQUEST[ID]}"
  printf "%-${OUTCOME_BYTES}s" "$text" 1<>"$DIRECTORY/run/copy.outcome"
}

copy_live() { # USR2: copies the tops of the running session as run/copy.request says; in the background, one at a time
  local lock what source target previous pairs=() RESULT=failed PAUSE=0.000 MESSAGE='the session ended' COPIER='' PACKER=''
  local -A REQUEST=()
  trap - USR1 USR2
  if [[ -n ${LISTENS:-} ]]; then exec {lock}>"$NODE_DIR/copying" && flock "$lock"; fi
  read_copy_request
  [[ -n ${REQUEST[ID]:-} ]] || die 0 "USR2, and no request to copy in run/copy.request"
  if grep -qsxF "ID=${REQUEST[ID]}" "$DIRECTORY/run/copy.outcome"; then exit 0; fi # done while this one waited for the lock
  trap write_copy_outcome EXIT
  trap 'exit 0' TERM
  [[ -n ${LISTENS:-} ]] || { MESSAGE="the session has only begun to start" && exit 0; }
  for what in HOME SYSTEM; do
    [[ -n ${REQUEST[$what]:-} ]] || continue
    if [[ $what == HOME ]]; then source=${HOME_STACK[0]}; else source=${SYSTEM_STACK[0]}; fi
    source=$LAYERS/$source/tree target=$LAYERS/${REQUEST[$what]} previous=${REQUEST[${what}_PREVIOUS]:-}
    previous=${previous:+$LAYERS/$previous}
    if [[ -n $BERTH_ROOT ]]; then
      [[ $what == SYSTEM ]] || { MESSAGE="in root mode the home is not copied" && exit 0; }
      source=$NODE_DIR/system/tree
    fi
    if [[ -n $ON_NODE && $what == SYSTEM ]]; then
      [[ -n $BERTH_ROOT ]] || source=$NODE_DIR/top/tree
      begin_save
      target=$NODE_DIR/live.new previous=$NODE_DIR/live
    fi
    pairs+=("$source" "$target" "$previous")
  done
  copy_pairs "${pairs[@]}"
  if [[ -n $ON_NODE && -n ${REQUEST[SYSTEM]:-} && $RESULT != failed ]]; then
    if [[ -n $BERTH_ROOT ]]; then
      pack_copy store "$LAYERS/${REQUEST[SYSTEM]}" "$NODE_DIR/live"
    else
      pack_copy save "$LAYERS/${SYSTEM_STACK[0]}" "$GENERATION" "$NODE_DIR/live" "${REQUEST[SYSTEM]}"
    fi
  fi
}

copy_pairs() { # SOURCE TARGET PREVIOUS …: RESULT, PAUSE, MESSAGE: runs copying.pyz; freezes the session for its second pass
  local word='' stood='' whole=yes since paused=0 go told said words node=$NODE_DIR/run
  local copy=(python3 -I "$DIRECTORY/run/copying.pyz")
  local options=(--drain "--progress=${LAYERS%/*}/progress/${DIRECTORY##*/}") # which the command line shows
  # As root over the user's own files: they may have locked some against themselves.
  [[ -n $BERTH_ROOT ]] || ! unshare --map-root-user true 2>/dev/null || copy=(unshare --map-root-user "${copy[@]}")
  if [[ $# -eq 0 ]]; then # nothing was ever written
    RESULT=frozen MESSAGE=''
    exit 0
  fi
  type -P python3 >/dev/null || { MESSAGE="$SLURMD_NODENAME has no python3, which copies a running session" && exit 0; }
  # Others than the user own files there; in the session's namespace they are the user's to read.
  [[ -z $BERTH_ROOT ]] || copy=(nsenter --target "$CONTAINER" --user "${copy[@]}") options+=(--squash)
  rm -f "$NODE_DIR"/{copy,go,still}
  mkfifo "$NODE_DIR"/{copy,go,still}
  exec {go}<>"$NODE_DIR/copy" {told}<>"$NODE_DIR/go" {said}<>"$NODE_DIR/still" # before the session may replace them
  mv -ft "$node" "$NODE_DIR/go" "$NODE_DIR/still" || { MESSAGE="the session is in the way of its copy" && exit 0; }
  exec {words}< <(exec "${copy[@]}" "${options[@]}" "$@" <"$NODE_DIR/copy" 2>"$NODE_DIR/copy.err" {go}>&- {told}>&- {said}>&-)
  COPIER=$!
  IFS= read -ru "$words" word || :
  while [[ $word == ready || $word == copied ]]; do # a moment before the first pass, and all of the second
    since=$(date +%s%3N) stood=''
    write_message stand '' || :
    kill -USR1 "$CONTAINER"
    read -rn "$MESSAGE_BYTES" -t $((FREEZE_WAIT_S + 3)) -u "$said" stood || :
    [[ $stood == all ]] || whole=''
    echo "${stood:-some}" >&"$go"
    IFS= read -rt "$FREEZE_LIMIT_S" -u "$words" word || word="not done within $FREEZE_LIMIT_S s"
    echo >&"$told"
    paused=$((paused + $(date +%s%3N) - since))
    read -rn "$MESSAGE_BYTES" -t "$FREEZE_WAIT_S" -u "$said" _ || :
    [[ $word != drained && $word != still ]] || IFS= read -ru "$words" word || :
  done
  printf -v PAUSE '%d.%03d' $((paused / 1000)) $((paused % 1000))
  rm -f "$node/go" "$node/still" "$node/stand" || :
  if [[ $word == 'done' ]]; then
    COPIER=''
    for (( ; $# > 0; )); do # whose marks of deletion these are
      [[ ! -e ${1%/tree}/fuse ]] || MESSAGE=$(touch "$2/fuse" 2>&1) || exit 0
      shift 3
    done
    RESULT=crash-consistent MESSAGE='not every process could be stopped'
    if [[ -n $whole ]]; then RESULT=frozen MESSAGE=''; fi
  else
    if [[ $word == 'failed '* ]]; then MESSAGE=${word#failed }; else MESSAGE=$(tail -n 1 "$NODE_DIR/copy.err"); fi
    MESSAGE=${MESSAGE:-the copy was ${word:-not done}}
  fi
}

end_copy_programs() { # ends the programs of a copy and waits for their end: a program that saves may have to finish
  kill ${COPIER:+"$COPIER"} ${PACKER:+"$PACKER"} 2>/dev/null || :
  while [[ -n $PACKER ]] && kill -0 "$PACKER" 2>/dev/null; do wait "$PACKER" 2>/dev/null || :; done
  PACKER=''
  [[ $RESULT != failed || -z ${ON_NODE:-} ]] || remove_tree "$NODE_DIR/live.new"
}
