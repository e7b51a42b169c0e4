# Makes a layer between image and volume: mount points, sudo, berth-show, settings of apt, and the greeting.

# In a session there is no account but the user: no _apt to become, no group adm to give a log to.
readonly APT_SETTINGS=('APT::Sandbox::User "root";' 'Dir::Log::Terminal "/dev/null";')

make_skeleton() { # makes the skeleton; it hides nothing of the image
  local image=$NODE_DIR/image skeleton=$NODE_DIR/skeleton folder mode sudo='' show='' apt='' profile=''
  local -A known=()
  find_missing_points system "$image"
  if [[ -z $BERTH_ROOT ]]; then
    resolve_path "$image" /usr/local/bin && sudo=$RESOLVED
    resolve_path "$image" /etc/apt/apt.conf.d && apt=$RESOLVED
    resolve_path "$image" /etc/profile.d && profile=$RESOLVED
    show=$sudo
    [[ -d $image$show && ! -e $image$show/berth-show && ! -L $image$show/berth-show ]] || show=''
    [[ -d $image$sudo && ! -e $image$sudo/sudo && ! -L $image$sudo/sudo ]] || sudo=''
    [[ -d $image$apt ]] || apt=''
    [[ -d $image$profile ]] || profile=''
  fi
  FOLDERS+=(${sudo:+"$sudo"} ${show:+"$show"} ${apt:+"$apt"} ${profile:+"$profile"})
  make_points "$skeleton" || reject_tree "$image" "its links leave no place for ${FOLDERS[*]} ${FILES[*]}"
  [[ -z $sudo ]] || write_sudo "$skeleton$sudo/sudo"
  [[ -z $show ]] || write_show "$skeleton$show/berth-show"
  [[ -z $apt ]] || printf '%s\n' "${APT_SETTINGS[@]}" >"$skeleton$apt/95berth"
  [[ -z $profile ]] || write_greeting "$skeleton$profile/zz-berth-session.sh"
  # The image's own folders, which these are merged with, keep their rights.
  for folder in "${FOLDERS[@]}" "${FILES[@]%/*}"; do
    while [[ -n $folder ]]; do
      [[ ! -d $image$folder ]] || known[$image$folder]=yes
      folder=${folder%/*}
    done
  done
  while IFS=' ' read -rd '' mode folder; do
    [[ $mode == 755 ]] || chmod "$mode" "$skeleton${folder#"$image"}"
  done < <(stat --printf '%a %n\0' -- "$image" "${!known[@]}")
}

write_greeting() { # FILE: the profile of login shells: a terminal and a locale that the image knows, and a greeting
  cat >"$1" <<'GREETING'
#embed inside/greeting.sh
GREETING
}

write_sudo() { # FILE: a sudo without setuid, which a user's namespace cannot have: it maps the user to root
  cat >"$1" <<'SUDO'
#embed inside/sudo
SUDO
  chmod 755 "$1"
}

write_show() { # FILE: the owner's command that shows a terminal to guests
  cat >"$1" <<'SHOW'
#embed inside/berth-show
SHOW
  chmod 755 "$1"
}
