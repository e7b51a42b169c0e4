# Checks the session's files and the programs of the node.

readonly OLDEST_APPTAINER=1.4.4 # older ones lose deletions in overlays

check_files() { # all checks that need no lock
  local directory size seen
  for directory in "$DIRECTORY" "$DIRECTORY/run"; do
    [[ -d $directory ]] || die "$BAD_DIRECTORY" "there is no directory $directory"
  done
  [[ -f $BERTH_IMAGE && -r $BERTH_IMAGE ]] || die "$BAD_IMAGE" "the image $BERTH_IMAGE is not there or cannot be read"
  mapfile -t seen < <(stat -L -c '%u %a %s' -- "$DIRECTORY" "$DIRECTORY/run" "$BERTH_IMAGE")
  [[ ${seen[0]} == "$UID 700 "* && ${seen[1]} == "$UID 700 "* ]] ||
    die "$BAD_DIRECTORY" "$DIRECTORY and its run must be yours and have mode 700"
  size=${seen[2]##* }
  [[ $size == "$BERTH_IMAGE_SIZE" ]] || die "$BAD_IMAGE" "the image $BERTH_IMAGE has $size bytes, not $BERTH_IMAGE_SIZE"
}

check_node() {
  local needed=("$BERTH_APPTAINER" "$BERTH_SCONTROL" ssh-keygen unshare nsenter mount umount)
  type -P "${needed[@]}" >/dev/null || die "$UNFIT_NODE" "$SLURMD_NODENAME lacks one of ${needed[*]}"
  [[ -n $(type -P squashfuse_ll squashfuse) ]] || die "$UNFIT_NODE" "$SLURMD_NODENAME lacks squashfuse"
  [[ -n $BERTH_ROOT ]] || return 0
  type -P newuidmap newgidmap >/dev/null || die "$UNFIT_NODE" \
    "$SLURMD_NODENAME lacks newuidmap and newgidmap: root mode needs the package uidmap (shadow-utils) on the nodes"
}

check_apptainer_version() {
  local version
  version=$("$BERTH_APPTAINER" --version) && version=${version##* }
  printf '%s\n' "$OLDEST_APPTAINER" "${version%%-*}" | sort -CV ||
    log "warning: Apptainer $version is older than $OLDEST_APPTAINER, and loses files in overlays"
}
