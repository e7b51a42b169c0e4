# Mounts the home volume, and checks the files of accounts.

mount_home() { # VOLUME: the tree of the home volume; HOME_DIR: the directory that becomes the session's home
  local content
  if [[ $DRIVER == overlay ]]; then
    VOLUME=$NODE_DIR/home
    mount_overlay "$VOLUME" "${HOME_STACK[@]/%//tree}" "$NODE_DIR/empty"
  else
    VOLUME=$LAYERS/${HOME_STACK[0]}/tree
  fi
  HOME_DIR=$VOLUME
  [[ $BERTH_HOME == keep ]] || HOME_DIR=$NODE_DIR/fresh/home
  shopt -s nullglob dotglob
  content=("$HOME_DIR"/*)
  shopt -u nullglob dotglob
  resolve_path "$NODE_DIR/image" /etc/skel
  SKEL=$RESOLVED
  if [[ ${#content[@]} -eq 0 && -d $NODE_DIR/image$SKEL ]]; then
    mount_view "$NODE_DIR/image" && content=("$VIEW$SKEL")
    mount_view "$HOME_DIR"
    cp -RT -- "${content[0]}" "$VIEW" || reject_tree "$HOME_DIR" "the home could not be filled from the image's $SKEL"
  fi
}

check_account_files() { # refuses links to files of the node: Apptainer reads both files before it is in the container
  local file tree=$NODE_DIR/root
  for file in /etc/passwd /etc/group; do
    resolve_path "$tree" "$file"
    [[ -e $tree$file && ! $tree$file -ef $tree$RESOLVED ]] || continue
    resolve_path "$NODE_DIR/image" "$file"
    [[ $RESOLVED == "$file" ]] || tree=$NODE_DIR/image
    reject_tree "$tree" "$file is a link that leads to a file of the node's"
  done
}
