# Applies the exceptions to a volume's rule: paths that are kept in a fresh volume, or fresh in a kept one.

add_exceptions() { # SIDE VOLUME IMAGE_PATH: adds to EXCEPTIONS the paths of this side to which the other rule applies
  local rule=BERTH_${1^^} path from inner tree list=$BERTH_FRESH
  [[ ${!rule} == keep ]] || list=$BERTH_KEEP
  while IFS= read -rd , path; do
    find_side "$path"
    [[ -n $path && $SIDE == "$1" ]] || continue
    inner=${path#"$PREFIX"} from=$NODE_DIR/fresh/$SIDE-${#EXCEPTIONS[@]}
    if [[ ${!rule} == keep ]]; then
      copy_from_image "$3" "$inner" "$from"
    else
      mount_view "$2" && tree=$VIEW
      resolve_path "$2" "$inner" && inner=$RESOLVED
      if [[ ! -e $tree$inner ]]; then
        mkdir -p -- "$tree${inner%/*}" || reject_tree "$2" "there is no place for $path"
        copy_from_image "$3" "${path#"$PREFIX"}" "$tree$inner"
      fi
      bind_from_volume "$2" "$inner" "$from"
    fi
    EXCEPTIONS+=("$from:$path")
    if [[ -d $from ]]; then POINTS+=("d $path"); else POINTS+=("f $path"); fi
  done <<<"$list,"
}

copy_from_image() { # IMAGE_PATH PATH TARGET: makes TARGET as the image has it, or as an empty folder
  local copied
  resolve_path "$NODE_DIR/image$1" "$2" && copied=$1$RESOLVED
  mount_view "$NODE_DIR/image"
  if [[ -e $VIEW$copied ]]; then cp -aT -- "$VIEW$copied" "$3"; else mkdir -- "$3"; fi ||
    reject_tree "$NODE_DIR/image" "$2 could not be copied"
}

bind_exceptions() { # TREE: adds to BINDS the exceptions that can be mounted over the tree
  local each path from
  for each in "${EXCEPTIONS[@]}"; do
    from=${each%%:*} path=${each#*:}
    find_side "$path"
    resolve_path "$1" "${path#"$PREFIX"}"
    if [[ -d $from && -d $1$RESOLVED || ! -d $from && ! -d $1$RESOLVED ]]; then
      BINDS+=(--bind "$each")
    else
      log "warning: $path stays as it is: a folder cannot be mounted on a file, nor a file on a folder"
    fi
  done
  EXCEPTIONS=()
}
