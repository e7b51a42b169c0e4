# Reads the stacks of layers from volumes.json, and begins a handover.

read_volumes() { # DRIVER, HOME_STACK and SYSTEM_STACK: layer ids, the top first and the oldest last; ON_NODE. Needs the lock
  local line file=$DIRECTORY/volumes.json id='[0-9a-z]{26}' mount='' submission=0 handover='' begun=0
  [[ -r $file ]] || die "$BAD_VOLUMES" "there is no $file"
  while IFS= read -r line; do
    if [[ $line =~ ^[[:space:]]*\"mount\":\ *\"([^\"]*)\",?$ ]]; then mount=${BASH_REMATCH[1]}; fi
    if [[ $line =~ ^[[:space:]]*\"mount\ ([1-9][0-9]{0,8})\":\ *\"([^\"]*)\",?$ ]]; then
      submission=${BASH_REMATCH[1]} handover=${BASH_REMATCH[2]}
    fi
  done <"$file"
  read -r begun 2>/dev/null <"$DIRECTORY/run/begun" || :
  [[ $begun =~ ^[1-9][0-9]{0,8}$ ]] || begun=0
  if ((submission > 0 && begun >= submission)); then
    mount=$handover
  elif ((submission > 0 && submission == ${BERTH_SUBMISSION:-0})) && begin_handover "$handover"; then
    mount=$handover
  fi
  [[ $mount =~ ^(overlay|reflink|plain)\;home=($id(,$id)*)\;system=($id(,$id)*)(\;node)?$ ]] ||
    die "$BAD_VOLUMES" "$file has no line \"mount\" that says what to mount"
  DRIVER=${BASH_REMATCH[1]}
  line=${BASH_REMATCH[4]} ON_NODE=${BASH_REMATCH[6]:+yes}
  IFS=, read -ra HOME_STACK <<<"${BASH_REMATCH[2]}"
  IFS=, read -ra SYSTEM_STACK <<<"$line"
  for id in "${HOME_STACK[@]}" "${SYSTEM_STACK[@]}"; do
    [[ -d $LAYERS/$id/tree || -e $LAYERS/$id/layer.squashfs ]] || die "$BAD_VOLUMES" "the layer $LAYERS/$id is missing or has no tree"
  done
}

begin_handover() { # MOUNT: records that this submission's job begins the handover, before it writes to the new tops
  local old new tops part
  IFS=';' read -ra tops <<<"$1"
  for part in "${tops[@]:1}"; do # the new top's root is as the old one's was at its end
    IFS=, read -r new old _ <<<"${part#*=}"
    [[ ! -d $LAYERS/$new/tree || ! -d $LAYERS/$old/tree ]] || copy_root_attributes "$LAYERS/$old/tree" "$LAYERS/$new/tree"
  done
  # On a full disk the job continues with the old stacks.
  { echo "$BERTH_SUBMISSION" >"$DIRECTORY/run/begun.new" && sync "$DIRECTORY/run/begun.new"; } || return 1
  if ! mv -f "$DIRECTORY/run/begun.new" "$DIRECTORY/run/begun" || ! sync "$DIRECTORY/run"; then
    die "$BAD_VOLUMES" "$DIRECTORY/run/begun could not be written"
  fi
}

copy_root_attributes() { # OLD NEW: gives a folder the mode, the times, the attributes and the access lists of another
  local kept=(--acls --xattrs --xattrs-include='user.*' --xattrs-exclude='user.overlay.*')
  # The launcher has done so when it made the folder: without tar, only what has changed since then is missing.
  chmod --reference="$1" "$2" && touch --reference="$1" "$2"
  ! type -P tar >/dev/null || { tar --no-recursion "${kept[@]}" -C "$1" -c . | tar "${kept[@]}" -C "$2" -xp; } || :
}
