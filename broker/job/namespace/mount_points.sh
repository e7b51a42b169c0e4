# Finds and makes the mount points that Apptainer needs in the session's trees.

list_site_binds() { # writes the bind paths of the site's apptainer.conf, if it is in a usual directory
  local file line
  for file in "${BERTH_APPTAINER%/bin/*}/etc/apptainer/apptainer.conf" /etc/apptainer/apptainer.conf; do
    [[ -r $file ]] || continue
    while IFS= read -r line; do
      if [[ $line =~ ^\ *bind\ path\ *=\ *([^[:space:]]+) ]]; then printf '%s,' "${BASH_REMATCH[1]}"; fi
    done <"$file"
    return
  done
}

list_mount_points() { # POINTS: paths on which Apptainer will mount something, each with `d` or `f`
  local bind source rest kind
  POINTS=("d /dev" "d /proc" "d /sys" "d /tmp" "d /var/tmp" "d /home/$BERTH_OWNER" "d /run/berth/session" "d /run/berth/record"
    "d /run/berth/node" "d /run/berth/web" "f /etc/resolv.conf")
  [[ ! -d $CLIENT_SETTINGS ]] || POINTS+=("d $CLIENT_SETTINGS_INSIDE")
  while IFS= read -rd , bind; do
    [[ -n $bind ]] || continue
    source=${bind%%:*} rest=${bind#*:} kind=d
    [[ -d $source ]] || kind=f
    [[ ! -e $source ]] || POINTS+=("$kind ${rest%%:*}")
  done < <(
    printf '%s,' "$BERTH_BINDS"
    list_site_binds
  )
}

OTHER_HOMES=() # further paths at which a batch job sees its home

find_side() { # PATH: SIDE and PREFIX: `home` and the path of the home for a path below it; `system` and '' for all others
  local home
  SIDE=system PREFIX=''
  for home in "/home/$BERTH_OWNER" "${OTHER_HOMES[@]}"; do
    [[ $1 != "$home/"* ]] || SIDE=home PREFIX=$home
  done
}

find_missing_points() { # SIDE TREE: FOLDERS and FILES: the mount points of a side that the tree lacks, as paths in it
  local point path
  FOLDERS=() FILES=()
  for point in "${POINTS[@]}"; do
    path=${point#* }
    find_side "$path"
    [[ $SIDE == "$1" ]] || continue
    resolve_path "$2" "${path#"$PREFIX"}"
    [[ ! -e $2$RESOLVED ]] || continue
    if [[ $point == d* ]]; then FOLDERS+=("$RESOLVED"); else FILES+=("$RESOLVED"); fi
  done
}

make_points() { # ROOT: makes FOLDERS and FILES in a view, or in a tree to which only this job has written
  local file folders=("${FOLDERS[@]}" "${FILES[@]%/*}")
  [[ ${#folders[@]} -eq 0 ]] || mkdir -p -- "${folders[@]/#/$1}" || return 1
  for file in "${FILES[@]}"; do : >"$1$file" || return 1; done
}

restore_mount_points() { # SIDE TREE: makes the mount points that the user has deleted, or that the volume never had
  find_missing_points "$1" "$2"
  [[ ${#FOLDERS[@]} -gt 0 || ${#FILES[@]} -gt 0 ]] || return 0
  mount_view "$2"
  make_points "$VIEW" || reject_tree "$2" "there is no place for ${FOLDERS[*]} ${FILES[*]}"
}
