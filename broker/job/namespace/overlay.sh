# Mounts overlays, with the kernel or with fuse-overlayfs.

readonly MOUNT_OPTIONS_BYTES=3800 # bytes of a mount's options, of which mount(2) takes 4,095; some are not ours

shorten_lowerdirs() { # LOWER…: NAMES: short names of the layers, valid in the directory FROM: mount(2) takes one page of options
  local layer number=0
  FROM=$(mktemp -d "$NODE_DIR/stack.XXXXXXXX") NAMES=''
  for layer in "$@"; do
    [[ $layer == /* ]] || layer=$LAYERS/$layer
    ln -s "$layer" "$FROM/$((++number))"
    NAMES+=:$number
  done
  NAMES=${NAMES#:}
}

extract_reason() { # TEXT: REASON: the last line of a program's output that tells why it failed, cut to the length of a message
  local line
  REASON=''
  while IFS= read -r line; do
    case $line in
      '' | *'dmesg(1) may have more information'* | *'(hint)'* | 'unknown argument ignored: lazytime') ;;
      *) REASON=$line ;;
    esac
  done <<<"$1"
  REASON=${REASON#"${REASON%%[![:space:]]*}"}
  REASON=${REASON:0:200} REASON=${REASON%.}
}

mount_by_kernel() { # DIRECTORY OPTIONS TARGET: mounts an overlay from DIRECTORY; on failure REASON has mount(8)'s words
  local text
  # LIBMOUNT_FORCE_MOUNT2: fsconfig(2), which newer mount(8) prefer, takes no more than 256 bytes.
  text=$(cd "$1" && LIBMOUNT_FORCE_MOUNT2=always exec mount -t overlay -o "userxattr,$2" berth "$3" 2>&1) && return
  extract_reason "$text"
  REASON=${REASON#"mount: $3: "}
  return 1
}

mount_by_fuse() { # DIRECTORY OPTIONS TARGET [WORK]: as mount_by_kernel; WORK: the overlay's working directory, if it has one
  local text code=0
  # The kernel leaves its own directory in there with mode 000, also where it has refused to mount. Root of this namespace
  # may open that on a local file system, not on NFS: there the server decides, and knows the user alone.
  if [[ -n ${4:-} && -d $4/work ]]; then chmod 700 "$4/work"; fi
  # fuse-overlayfs gives itself an option that it does not know, and warns each time. As a daemon it closes these streams.
  text=$(cd "$1" && exec fuse-overlayfs -o "$2" "$3" 2>&1 </dev/null) || code=$?
  extract_reason "$text"
  REASON=${REASON#fuse-overlayfs: } REASON=${REASON:-it ended with $code}
  return "$code"
}

report_unmountable() { # TOP KERNEL FUSE: ends the job after both have failed for these reasons; tries whether node or volume is at fault
  local top=$1 trial whole=''
  [[ $top == /* ]] || top=$LAYERS/$top
  if trial=$(mktemp -d "${top%/*}/.probe-XXXXXXXX"); then
    mkdir "$trial"/{lower,tree,work,merged}
    set -- "$@" "$trial" "lowerdir=lower,upperdir=tree,workdir=work"
    if mount_by_kernel "${@:4}" "$trial/merged" || mount_by_fuse "${@:4}" "$trial/merged" "$trial/work"; then
      umount "$trial/merged"
      whole=yes
    fi
    remove_tree "$trial"
  fi
  [[ -z $whole ]] || die "$BAD_VOLUMES" "neither the kernel nor fuse-overlayfs could mount $top: $2; $3"
  die "$UNFIT_NODE" "$SLURMD_NODENAME can mount no overlay in ${top%/*}. The kernel: $2. fuse-overlayfs: $3. Start the session\
 on another node (--exclude=$SLURMD_NODENAME), or ask your site for fuse-overlayfs and /dev/fuse on this one"
}

mount_overlay() { # TARGET TOP LOWER…: mounts trees of layers. HOW: `kernel` or `fuse`; REFUSAL: why not by the kernel
  local target=$1 top=${2%/tree} layer FROM=. NAMES IFS=: options
  HOW=kernel REFUSAL=''
  shift 2
  [[ -d $top/work ]] || mkdir -p "$top/tree" "$top/work"
  options="lowerdir=$*,upperdir=$top/tree,workdir=$top/work"
  if [[ ${#options} -ge $MOUNT_OPTIONS_BYTES ]]; then
    shorten_lowerdirs "$@"
    [[ $top == /* ]] || top=$LAYERS/$top
    options="lowerdir=$NAMES,upperdir=$top/tree,workdir=$top/work"
  fi
  # FUSE marks deletions in a way that the kernel does not know: its stacks stay its own.
  for layer in "$top/tree" "$@"; do
    if [[ -e ${layer%/tree}/fuse ]]; then HOW=fuse REFUSAL='not asked, as fuse-overlayfs wrote a layer of it'; fi
  done
  if [[ $HOW == kernel ]] && ! mount_by_kernel "$FROM" "$options" "$target"; then
    HOW=fuse REFUSAL=$REASON
    # Depth alone must not change how the session sees its files.
    if [[ $# -gt 1 ]] && mount_by_kernel . "lowerdir=${*: -1},upperdir=$top/tree,workdir=$top/work" "$target"; then
      umount "$target"
      die "$BAD_VOLUMES" "the kernel mounts overlays here, but not this one of $(($# + 1)) layers: \`berth flatten ${BERTH_SESSION_NAME:-NAME}\` joins them"
    fi
    log "the kernel mounts no overlay here: $REFUSAL"
  fi
  if [[ $HOW == fuse ]]; then
    mount_by_fuse "$FROM" "$options" "$target" "$top/work" || report_unmountable "$top" "$REFUSAL" "$REASON"
    : >"$top/fuse"
  fi
  MOUNTED=("$target" "${MOUNTED[@]}")
  log "${target##*/}: an overlay of $(($# + 1)) layers, mounted by $HOW"
}
