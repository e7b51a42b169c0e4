# Resolves paths in an image or a volume, so that no symbolic link leads to files of the node (ADR 94).
#
# Links of an image or a volume have their meaning in the container; here / is the node's. resolve_path() says where a path
# leads in its tree. The path is then used in a view of the tree, where the kernel follows no link at all: neither one that
# has appeared since, nor one that was not seen to be a link.

readonly MAX_LINKS=40 # symbolic links on the way to one path, as path_resolution(7) allows

reject_tree() { # TREE WORDS: ends the job: the image is at fault or, for every other tree, a volume
  local code=$BAD_VOLUMES whose='the volumes'
  if [[ $1 == "$NODE_DIR/image" || $1 == "$NODE_DIR/image/"* ]]; then code=$BAD_IMAGE whose='the image'; fi
  die "$code" "$whose: $2"
}

resolve_path() { # ROOT PATH: RESOLVED: where PATH leads in the tree ROOT, with links followed as if ROOT were /
  local rest=$2/ part target links=0
  RESOLVED=''
  while [[ -n $rest ]]; do
    part=${rest%%/*} rest=${rest#*/}
    case $part in
      '' | .) continue ;;
      ..)
        RESOLVED=${RESOLVED%/*}
        continue
        ;;
    esac
    if [[ -L $1$RESOLVED/$part ]]; then
      ((++links <= MAX_LINKS)) || reject_tree "$1" "$2 leads through more than $MAX_LINKS symbolic links, or in a circle"
      IFS= read -rd '' target < <(readlink -z -- "$1$RESOLVED/$part") || reject_tree "$1" "$2 changes while the session starts"
      [[ $target != /* ]] || RESOLVED=''
      rest=$target/$rest
    else
      RESOLVED+=/$part
    fi
  done
}

mount_view() { # TREE: VIEW: the same tree mounted again, where the kernel follows no symbolic link
  VIEW=${VIEWS[$1]:-}
  [[ -z $VIEW ]] || return 0
  VIEW=$NODE_DIR/view/${#VIEWS[@]}
  # The second command keeps flags that this namespace may not take away, such as nosuid.
  mount --bind -o nosymfollow "$1" "$VIEW" 2>/dev/null || mount -o remount,bind,nosymfollow "$VIEW" || :
  MOUNTED=("$VIEW" "${MOUNTED[@]}")
  is_nosymfollow "$VIEW" || die "$UNFIT_NODE" "this node cannot mount with nosymfollow, which takes Linux 5.10"
  VIEWS[$1]=$VIEW
}

is_nosymfollow() { # MOUNT_POINT: whether this mount point below NODE_DIR has the option nosymfollow
  local target options found=''
  while read -r _ _ _ _ target options _; do
    [[ $target != */"${NODE_DIR##*/}/${1#"$NODE_DIR/"}" ]] || found=$options # the last one lies on top
  done </proc/self/mountinfo
  [[ ,$found, == *,nosymfollow,* ]]
}

bind_from_volume() { # TREE PATH TARGET: mounts PATH of a volume, which resolve_path has found, at a path of the job's own
  mount_view "$1"
  if [[ -d $VIEW$2 ]]; then mkdir "$3"; else : >"$3"; fi
  # mount(8) would follow links by itself to make the path canonical. What it has mounted has the view's flag if it
  # comes from there, and else is something that the path led to outside.
  if ! mount --no-canonicalize --bind "$VIEW$2" "$3" || ! is_nosymfollow "$3"; then
    reject_tree "$1" "$2 changes while the session starts"
  fi
  mount -o remount,bind,symfollow "$3" # inside, links are links
  ! is_nosymfollow "$3" || die "$UNFIT_NODE" "this node cannot take nosymfollow from a mount"
  MOUNTED=("$3" "${MOUNTED[@]}")
}
