# Mounts the image and the layers of the system volume as trees.

mount_squashfs_layer() { # LAYER: mounts a layer that is a squashfs as the tree of NODE_DIR/packed/LAYER
  local program=squashfuse_ll place=$NODE_DIR/packed/$1
  [[ ! -d $place ]] || return 0
  mkdir -p "$place"
  [[ ! -e $LAYERS/$1/fuse ]] || : >"$place/fuse"
  if [[ -s $LAYERS/$1/kept ]]; then # it has more than a squashfs can hold
    { find_python && type -P unsquashfs >/dev/null; } || die "$UNFIT_NODE" \
      "$SLURMD_NODENAME lacks Python 3.11 or unsquashfs, which unpack the layer $1 of this session's system: use another node"
    run_saves unpack "$LAYERS/$1" "$place/tree" || die "$BAD_VOLUMES" "the layer $1 could not be unpacked"
    return 0
  fi
  mkdir "$place/tree"
  hash squashfuse_ll 2>/dev/null || program=squashfuse
  "$program" "$LAYERS/$1/layer.squashfs" "$place/tree" || die "$BAD_VOLUMES" "the layer $1 could not be mounted"
  MOUNTED=("$place/tree" "${MOUNTED[@]}")
}

mount_system_layers() { # STACK: trees of the system's layers, the top first; in root mode without a top that is on the node's disk
  local layer stack=("${SYSTEM_STACK[@]}")
  STACK=()
  if [[ -n $ON_NODE ]]; then
    stack=("${SYSTEM_STACK[@]:1}")
    [[ -n $BERTH_ROOT ]] || STACK=("$NODE_DIR/top/tree")
  fi
  for layer in "${stack[@]}"; do
    if [[ -e $LAYERS/$layer/layer.squashfs ]]; then
      mount_squashfs_layer "$layer"
      layer=$NODE_DIR/packed/$layer
    fi
    STACK+=("$layer/tree")
  done
}

mount_image() {
  local program=squashfuse_ll owner=,uid=0,gid=0 # everything is the user's, who may then change it in the overlay
  [[ -z $BERTH_ROOT ]] || owner=''
  hash squashfuse_ll 2>/dev/null || program=squashfuse
  "$program" -o "offset=$BERTH_IMAGE_OFFSET$owner" "$BERTH_IMAGE" "$NODE_DIR/image" ||
    die "$BAD_IMAGE" "the image $BERTH_IMAGE could not be mounted"
  MOUNTED=("$NODE_DIR/image")
}
