# Root of the session's user and mount namespace: makes the mounts and starts the container.

mount_system() { # mounts the root of the session
  local below=("$NODE_DIR/skeleton" "$NODE_DIR/image")
  if [[ -n $BERTH_ROOT ]]; then # the volume stays as it is until all has gone well
    mount_overlay "$NODE_DIR/root" "$NODE_DIR/system/tree" "${STACK[@]}" "${below[@]}"
  elif [[ $BERTH_SYSTEM == fresh ]]; then
    mount_overlay "$NODE_DIR/root" "$NODE_DIR/system/tree" "${below[@]}"
  else
    mount_overlay "$NODE_DIR/root" "${STACK[@]}" "${below[@]}"
  fi
  restore_mount_points system "$NODE_DIR/root"
}

mount_all() { # HOME_DIR, BINDS: makes all mounts
  local STACK=()
  mkdir -p "$NODE_DIR"/{image,skeleton,root,home,kept,empty,fresh/home,view/{0..4}} # a view each of five trees
  cd "$LAYERS" # so that a stack's names stay short: the kernel takes one page of them
  mount_image
  list_mount_points
  if [[ -z $BERTH_ROOT ]]; then
    if [[ $BERTH_SYSTEM == fresh && -n $BERTH_KEEP ]]; then
      mount_system_layers
      mount_overlay "$NODE_DIR/kept" "${STACK[@]}" "$NODE_DIR/image"
    fi
    add_exceptions system "$NODE_DIR/kept" ''
  fi
  make_skeleton
  [[ -z $BERTH_ROOT && $BERTH_SYSTEM == fresh ]] || mount_system_layers
  mount_system
  check_account_files
  bind_exceptions "$NODE_DIR/root"
  mount_home
  add_exceptions home "$VOLUME" "$SKEL"
  restore_mount_points home "$HOME_DIR"
  bind_exceptions "$HOME_DIR"
  if [[ -n $BERTH_ROOT ]]; then # what root does there could not be taken back, and may belong to ids that the user is not
    mount --bind "$HOME_DIR" "$HOME_DIR"
    mount -o remount,bind,ro "$HOME_DIR"
    MOUNTED=("$HOME_DIR" "${MOUNTED[@]}")
  fi
}

namespace_main() { # makes the mounts and starts the container; ends with the container's exit code
  local home=/home/$BERTH_OWNER as=(unshare --user --map-user="$OWNER_UID" --map-group="$OWNER_GID")
  local -A VIEWS=()
  : >"$NODE_DIR/held"
  CHILD='' MOUNTED=() BINDS=() EXCEPTIONS=()
  trap 'TERMINATED=yes; forward_signal TERM' TERM
  trap 'forward_signal USR1' USR1
  trap '[[ ${#MOUNTED[@]} -eq 0 ]] || umount -l "${MOUNTED[@]}"' EXIT # which ends the FUSE processes too
  umask 022
  mount_all
  [[ -z ${TERMINATED:-} ]] || exit 0
  [[ ! -d /dev/dri ]] || BINDS+=(--bind /dev/dri)
  bind_client_settings
  [[ -z $BERTH_BINDS ]] || BINDS+=(--bind "$BERTH_BINDS")
  [[ -z $BERTH_ROOT ]] || as=()
  # --pid --no-init: container_main() is process 1, so nothing of the session outlives it.
  # --workdir: /tmp and /var/tmp lie on the node's disk; Apptainer's default is 64 MB of memory.
  "${as[@]}" "$BERTH_APPTAINER" -q exec --contain --pid --no-init --no-umask --no-eval --workdir "$TMP_DIR" \
    --home "$HOME_DIR:$home" --cwd "$home" --bind "$DIRECTORY/run:/run/berth/session:ro" \
    --bind "$DIRECTORY:/run/berth/record:ro" \
    --bind "$NODE_DIR/run:/run/berth/node" --bind "$NODE_DIR/web:/run/berth/web" "${BINDS[@]}" \
    --writable "$NODE_DIR/root" /bin/bash /run/berth/node/job.sh container /run/berth/node/state &
  CHILD=$!
  exit_with_child
}

if [[ ${1-} == namespace ]]; then # bash reads no further
  # shellcheck disable=SC1090 # start_container has written it
  source "$2"
  namespace_main
fi
