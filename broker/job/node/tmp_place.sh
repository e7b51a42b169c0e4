# Chooses the directory of the node in which the container's /tmp lies: on a disk, if there is one.

readonly TMP_MIN_FREE_KIB=$((1 << 20)) # KiB; a disk with less room is not chosen

readonly TMP_MAX_LINKS=16         # in one path

list_tmp_places() { # PLACES: the directories that the site allows for /tmp and that are safe, the preferred one first
  local each UNSAFE
  PLACES=()
  while IFS= read -rd , each; do
    each=${each//'{user}'/$BERTH_OWNER} each=${each//'{job}'/$SLURM_JOB_ID}
    [[ -d $each && -w $each && -x $each ]] || continue
    find_unsafe_part "$each"
    if [[ -n $UNSAFE ]]; then
      log "warning: $each is not used for /tmp: $UNSAFE"
    else
      PLACES+=("$each")
    fi
  done <<<"${SLURM_TMPDIR:+$SLURM_TMPDIR,}$BERTH_TMP_DIRECTORIES,"
}

find_unsafe_part() { # PATH: UNSAFE: the first directory or link on its way that another user could replace; empty if there is none
  local path='' rest=$1/ part links=0 mode owner
  UNSAFE=''
  while [[ $rest == *[!/]* ]]; do
    rest=${rest#"${rest%%[!/]*}"}
    part=${rest%%/*} rest=${rest#*/}
    case $part in
      .) continue ;;
      ..) path=${path%/*} && continue ;;
    esac
    read -r mode owner < <(stat -c '%a %u' -- "$path/$part" 2>/dev/null) || UNSAFE="$path/$part is gone"
    if [[ -n $UNSAFE ]]; then
      return
    elif ((owner != 0 && owner != UID)); then
      UNSAFE="$path/$part belongs to another user" && return
    elif [[ -L $path/$part ]]; then
      ((++links <= TMP_MAX_LINKS)) || { UNSAFE="$1 has too many links" && return; }
      rest=$(readlink -- "$path/$part")/$rest
      [[ $rest != /* ]] || path=''
    elif (((8#$mode & 8#022) != 0 && (8#$mode & 8#1000) == 0)); then
      UNSAFE="other users may change $path/$part" && return
    else
      path+=/$part
    fi
  done
}

measure_place() { # DIRECTORY: KIND: `disk`, `memory`, `network`, or empty if that is unknown; FREE_KIB: its free space in KiB
  local blocks size type upper
  KIND='' FREE_KIB=0
  read -r blocks size type < <(stat -f -c '%a %S %T' -- "$1" 2>/dev/null) || return 0
  FREE_KIB=$((blocks * size / 1024))
  if [[ $type == overlayfs ]]; then # as the root of a node that boots from the network: what lies below it counts
    upper=$(findmnt -nro OPTIONS --target "$1" 2>/dev/null | sed -n 's/.*upperdir=\([^,]*\).*/\1/p') || :
    type=$(stat -f -c %T -- "${upper:-/nonexistent}" 2>/dev/null) || :
  fi
  case $type in
    tmpfs | ramfs) KIND=memory ;;
    nfs* | lustre | gpfs | ceph | afs | cifs | smb* | v9fs | 9p | fhgfs | panfs) KIND=network ;;
    *) KIND=disk ;;
  esac
}

find_tmp_place() { # TMP_PLACE: the first place that is on a disk with room; empty if there is none
  local each
  TMP_PLACE=''
  for each in "${PLACES[@]}"; do
    measure_place "$each"
    if [[ $KIND == disk ]] && ((FREE_KIB >= TMP_MIN_FREE_KIB)); then
      TMP_PLACE=$each
      return
    fi
  done
}

make_tmp_dir() { # NAME: TMP_DIR: a private directory of that name and a random end, or NODE_DIR; TMP_KIND: the KIND of its file system
  local KIND='' FREE_KIB TMP_PLACE
  TMP_DIR=$NODE_DIR
  find_tmp_place # which leaves the KIND of that place
  if [[ -n $TMP_PLACE && $TMP_PLACE != "${NODE_DIR%/*}" ]]; then
    TMP_DIR=$(mktemp -d "$TMP_PLACE/$1.XXXXXXXX") || TMP_DIR=$NODE_DIR TMP_PLACE=''
  fi
  [[ -n $TMP_PLACE ]] || measure_place "$TMP_DIR"
  # shellcheck disable=SC2034 # of sessions only
  TMP_KIND=$KIND
}

remove_job_dirs() { # NODE_DIR and TMP_DIR
  [[ -z ${TMP_DIR:-} || $TMP_DIR == "${NODE_DIR:-}" ]] || remove_tree "$TMP_DIR"
  [[ -z ${NODE_DIR:-} ]] || remove_tree "$NODE_DIR"
}
