# Finds where the directories of a job are, on the node and in the environment.

is_systems_own() { # DIRECTORY: the root, or what belongs to the system on the node as in the image
  [[ $1/ =~ ^/(/|(usr|etc|bin|sbin|lib[^/]*|proc|sys|dev|run|var|tmp)/) ]]
}

contains_home() { # DIRECTORY: whether it is the home, or a home lies below it
  local home
  for home in "${HOMES[@]}" "/home/$BERTH_OWNER"; do [[ $home/ != "${1%/}"/* ]] || return 0; done
  return 1
}

can_show() { # DIRECTORY: whether the node's directory may be mounted over the environment's
  [[ $1 == /* && $1 != *[[:cntrl:]]* ]] && ! is_systems_own "$1" && ! contains_home "$1"
}

find_homes() { # HOMES: the login's home, as accounts have it and without links
  LOGIN_HOME=$(getent passwd "$UID" | cut -d: -f6)
  HOMES=("${LOGIN_HOME%/}" "$(realpath -m -- "$LOGIN_HOME")")
}

find_shown_directories() { # DIRECTORY…: SHOWN: those of them that are shown inside, each at the place that it has on the node
  local each
  SHOWN=()
  [[ -n $BERTH_SUBMISSION_DIRECTORY ]] || return 0
  for each in "$@"; do
    if [[ -d $each ]] && can_show "$each" && ! is_shown "$each"; then SHOWN+=("$each"); fi
  done
}

is_shown() { # DIRECTORY: whether it is, or lies in, one that is shown
  local each
  for each in "${SHOWN[@]}"; do [[ $1/ != "$each"/* ]] || return 0; done
  return 1
}

find_inside() { # WORK: the directory outside; INSIDE: the same one, if it is shown there, else its place in the home
  local bind source rest target home
  INSIDE=$1
  ! is_shown "$1" || return 0
  while IFS= read -rd , bind; do
    [[ -n $bind ]] || continue
    source=${bind%%:*} rest=${bind#*:} target=${rest%%:*}
    if [[ $1/ == "$source"/* ]]; then
      INSIDE=$target${1#"$source"}
      return
    fi
  done <<<"$BERTH_BINDS,"
  ! is_systems_own "$1" || return 0
  INSIDE=/home/$BERTH_OWNER
  for home in "${HOMES[@]}"; do
    if [[ $1/ == "$home"/* ]]; then
      INSIDE+=${1#"$home"}
      return
    fi
  done
}

find_other_homes() { # OTHER_HOMES: where the login has its home, if that is elsewhere: the environment's home is there too
  local each
  OTHER_HOMES=()
  for each in "${HOMES[@]}"; do
    [[ -z $each || $each == "${OTHER_HOMES[0]:-}" || $each == *[[:cntrl:]]* ]] && continue
    is_systems_own "$each" || [[ $each/ == "/home/$BERTH_OWNER"/* || /home/$BERTH_OWNER/ == "$each"/* ]] && continue
    lies_in_mount "$each" || OTHER_HOMES+=("$each")
  done
}

lies_in_mount() { # PATH: whether something that is mounted inside hides what the system has there
  local point
  for point in "${POINTS[@]}"; do
    point=${point#* }
    [[ $1/ != "${point%/}"/* ]] || return 0
  done
  return 1
}
