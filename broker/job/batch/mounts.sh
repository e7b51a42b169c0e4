# Mounts an environment: a read-only system, and a layer of the job's own over the home.

mount_read_only() { # TARGET LOWER…: an overlay that nobody can write to
  local target=$1 layer how=kernel FROM=. NAMES IFS=: refusal='not asked, as fuse-overlayfs wrote a layer of it'
  shift
  NAMES=$*
  [[ ${#NAMES} -lt $MOUNT_OPTIONS_BYTES ]] || shorten_lowerdirs "$@"
  for layer in "$@"; do [[ ! -e ${layer%/tree}/fuse ]] || how=fuse; done
  if [[ $how == kernel ]] && ! mount_by_kernel "$FROM" "ro,lowerdir=$NAMES" "$target"; then
    how=fuse refusal=$REASON
  fi
  if [[ $how == fuse ]] && ! mount_by_fuse "$FROM" "ro,lowerdir=$NAMES" "$target"; then
    report_unmountable "$LAYERS/${SYSTEM_STACK[0]}" "$refusal" "$REASON"
  fi
  MOUNTED=("$target" "${MOUNTED[@]}")
}

mount_environment_system() { # as mount_system(), but read-only
  local STACK=() stack
  ON_NODE='' mount_system_layers # no job writes to the top that the environment names
  stack=("${STACK[@]}" "$NODE_DIR/skeleton" "$NODE_DIR/image")
  mount_read_only "$NODE_DIR/root" "${stack[@]}"
  find_missing_points system "$NODE_DIR/root" # the user may have deleted some
  [[ ${#FOLDERS[@]} -gt 0 || ${#FILES[@]} -gt 0 ]] || return 0
  make_points "$NODE_DIR/points" || reject_tree "$NODE_DIR/root" "there is no place for ${FOLDERS[*]} ${FILES[*]}"
  umount "$NODE_DIR/root"
  mount_read_only "$NODE_DIR/root" "$NODE_DIR/points" "${stack[@]}"
}

make_job_layer() { # the layer that the job writes to, unless it is there: with `overlay` over the home's layers, else a copy of it
  local base=$LAYERS/${HOME_STACK[0]}/tree said
  [[ ! -d $LAYERS/$TOP/tree ]] || return 0
  mkdir -p "$LAYERS/$TOP"
  if [[ $DRIVER == overlay ]]; then
    mkdir -m "$(stat -c %a "$base")" "$LAYERS/$TOP/tree"
  else
    if ! said=$(LC_ALL=C cp -a --reflink=auto -T "$base" "$LAYERS/$TOP/copying" 2>&1 | first_lines); then
      printf '%s\n' "$said" >&2
      [[ $said != *'Permission denied'* ]] ||
        die "$BAD_VOLUMES" "files of the home cannot be read, see above: run \`chmod u+r\` on them in the session\
 (\`chmod u+rx\` for directories), and submit again"
      die "$BAD_VOLUMES" "the home cannot be copied, see above"
    fi
    mv "$LAYERS/$TOP/copying" "$LAYERS/$TOP/tree"
  fi
}

first_lines() { # of standard input, which is read to its end: a program may have as many words as a home has files
  head -n 20
  cat >/dev/null
}

add_mount_points() { # to POINTS, what is shown, and places for PLACED: the script, and links to what lies elsewhere inside
  local each inside
  POINTS+=("d /run/berth/host")
  find_other_homes
  for each in "${OTHER_HOMES[@]}"; do POINTS+=("d $each"); done
  for each in "${SHOWN[@]}"; do POINTS+=("d $each"); done
  PLACED=()
  if [[ -n $CARRIER && $CARRIER == /*/* && $CARRIER != *[[:cntrl:]]* ]] && ! lies_in_mount "$CARRIER"; then
    PLACED[$CARRIER]=script
  fi
  for each in "$WORK" "$SUBMITTED"; do
    if [[ $each != /* || $each == *[[:cntrl:]]* ]] || is_systems_own "$each" || is_shown "$each"; then continue; fi
    for inside in "${POINTS[@]}"; do [[ ${inside#* }/ != "${each%/}"/* ]] || continue 2; done # which a link cannot hold
    find_inside "$each"
    [[ $INSIDE == "$each" ]] || lies_in_mount "$each" || PLACED[$each]=$INSIDE
  done
  find_inside "$WORK"
  for each in "${!PLACED[@]}"; do POINTS+=("f $each"); done
}

fill_placed_points() { # those of PLACED in the skeleton that the image has left free
  local path kept=() point
  for path in "${!PLACED[@]}"; do
    resolve_path "$NODE_DIR/image" "$path"
    [[ -f $NODE_DIR/skeleton$RESOLVED && ! -e $NODE_DIR/image$RESOLVED ]] || continue
    if [[ ${PLACED[$path]} == script ]]; then
      cp "$NODE_DIR/run/script" "$NODE_DIR/skeleton$RESOLVED"
      chmod 700 "$NODE_DIR/skeleton$RESOLVED"
      SCRIPT=$path
    else
      ln -sfT -- "${PLACED[$path]}" "$NODE_DIR/skeleton$RESOLVED"
    fi
  done
  for point in "${POINTS[@]}"; do [[ -n ${PLACED[${point#* }]:-} ]] || kept+=("$point"); done
  POINTS=("${kept[@]}")
}

mount_environment() { # HOME_DIR, SCRIPT
  local -A PLACED=()
  mkdir -p "$NODE_DIR"/{image,skeleton,points,root,home,empty,view/{0..2}}
  cd "$LAYERS"
  mount_image
  list_mount_points
  add_mount_points
  make_skeleton
  SCRIPT=$SCRIPT_INSIDE
  fill_placed_points
  if resolve_path "$NODE_DIR/image" /usr/local/bin && [[ -d $NODE_DIR/skeleton$RESOLVED ]]; then
    write_commands "$NODE_DIR/skeleton$RESOLVED"
  fi
  mount_environment_system
  check_account_files
  make_job_layer
  HOME_STACK[0]=$TOP
  mount_home
  restore_mount_points home "$HOME_DIR"
  check_shown_directories
  make_working_directory
}
