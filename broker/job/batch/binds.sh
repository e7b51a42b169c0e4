# Binds directories of the node into the environment, at their own paths.

check_shown_directories() { # takes out of SHOWN what cannot be mounted where it would be seen
  local each kept=() bind source rest target ok
  for each in "${SHOWN[@]}"; do
    ok=yes
    find_side "$each"
    if [[ $SIDE == home ]]; then
      resolve_path "$HOME_DIR" "${each#"$PREFIX"}" && RESOLVED=$PREFIX$RESOLVED
      [[ $RESOLVED == "$each" && -d $HOME_DIR${RESOLVED#"$PREFIX"} ]] || ok=''
    else
      resolve_path "$NODE_DIR/root" "$each"
      find_side "$RESOLVED"
      if [[ ! -d $NODE_DIR/root$RESOLVED || $SIDE != system ]] || is_systems_own "$RESOLVED" || contains_home "$RESOLVED"; then ok=''; fi
    fi
    while IFS= read -rd , bind; do
      source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
      [[ -z $bind || $each/ != "$target"/* || -d $source${each#"$target"} ]] || ok=''
    done <<<"$BERTH_BINDS,"
    if [[ -n $ok ]]; then
      kept+=("$each")
    else
      printf 'berth: warning: %s\n' "there is no place for $each in the environment: the job works in its own copy" >&2 || :
    fi
  done
  [[ ${#SHOWN[@]} -ne ${#kept[@]} ]] || return 0
  SHOWN=("${kept[@]}")
  find_inside "$WORK"
  write_job_note
}

format_bind() { # SOURCE DESTINATION: Apptainer reads them as comma-separated values, whose quotes are RFC 4180's
  printf 'type=bind,"source=%s","destination=%s"' "${1//\"/\"\"}" "${2//\"/\"\"}"
}

bind_shown_directories() { # BINDS: what is shown and what the site binds, so that the inner ones come later
  local each bind rest target inner
  local -a mine=("${SHOWN[@]}") after=()
  for each in "${OTHER_HOMES[@]}"; do BINDS+=(--mount "$(format_bind "$HOME_DIR" "$each")"); done
  for each in "${mine[@]}"; do
    inner=''
    while IFS= read -rd , bind; do
      rest=${bind#*:} target=${rest%%:*}
      [[ -z $bind || $each/ != "$target"/* ]] || inner=yes
    done <<<"$BERTH_BINDS,"
    set -- --mount "$(format_bind "$each" "$each")"
    if [[ -n $inner ]]; then after+=("$@"); else BINDS+=("$@"); fi
  done
  [[ -z $BERTH_BINDS ]] || BINDS+=(--bind "$BERTH_BINDS")
  BINDS+=("${after[@]}")
}

make_working_directory() { # the working directory, where it is the environment's own; one that cannot be is the home
  local name
  for name in tmp var/tmp; do
    [[ $INSIDE/ == /$name/* ]] || continue
    mkdir -m 1777 "$TMP_DIR/${name/\//_}"
    mkdir -p -- "$TMP_DIR/${name/\//_}${INSIDE#"/$name"}"
    return
  done
  if [[ $INSIDE == "/home/$BERTH_OWNER"/* ]] && ! is_shown "$INSIDE"; then
    resolve_path "$HOME_DIR" "${INSIDE#"/home/$BERTH_OWNER"}"
    if [[ ! -d $HOME_DIR$RESOLVED ]]; then
      mount_view "$HOME_DIR"
      mkdir -p -- "$VIEW$RESOLVED" || reject_tree "$HOME_DIR" "there is no place for $INSIDE"
    fi
  elif is_systems_own "$INSIDE"; then
    resolve_path "$NODE_DIR/root" "$INSIDE"
    [[ -d $NODE_DIR/root$RESOLVED ]] || INSIDE=/home/$BERTH_OWNER
  fi
}
