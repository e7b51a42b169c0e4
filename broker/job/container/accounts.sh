# Adapts the accounts of the image and the owners of files to a user namespace.

adapt_accounts() {
  local lines entry
  # Root has the image's own accounts; a locked one (shadow(5)) is refused by sshd even with a key.
  if [[ -n $BERTH_ROOT ]]; then
    grep -qs '^root:!' /etc/shadow && sed -i 's/^root:!/root:*/' /etc/shadow
    return 0
  fi
  # Apptainer has mounted its own copies of the two files, in memory, unless its configuration says otherwise: what is
  # written here must not go into the volume.
  mapfile -t lines </proc/self/mountinfo
  [[ ${lines[*]} == *" /etc/passwd "* && ${lines[*]} == *" /etc/group "* ]] || return 0
  # sshd gives a terminal to the group tty if there is one, but its gid is not mapped in the user namespace.
  mapfile -t lines </etc/group
  for entry in "${lines[@]}"; do [[ $entry == tty:* ]] || printf '%s\n' "$entry"; done >/etc/group
  # The node's login shell may be missing in the image.
  mapfile -t lines </etc/passwd
  for entry in "${lines[@]}"; do
    [[ $entry != "$BERTH_OWNER":* || -x ${entry##*:} ]] || entry=${entry%:*}:/bin/bash
    printf '%s\n' "$entry"
  done >/etc/passwd
  add_second_logins
}

apply_owners() { # FILE: gives the files that `berth exec --root` installed their owners; in layers all are the user's own
  local uid gid mode path list=/run/berth/node/owners.d
  local -A last=() linked=()
  while read -rd ' ' uid && read -rd ' ' gid && read -rd ' ' mode && IFS= read -rd '' path; do
    last[$path]="$uid:$gid $mode" # records of later layers come later
  done <"$1"
  cd /
  mkdir "$list"
  for path in "${!last[@]}"; do
    ! is_behind_link "/${path%/*}" "$path" || continue # what is there now is another file
    if [[ -e ./$path || -L ./$path ]]; then printf '%s\0' "./$path" >>"$list/owner ${last[$path]% *}"; fi
    if [[ -e ./$path && ! -L ./$path ]]; then printf '%s\0' "./$path" >>"$list/rights ${last[$path]#* }"; fi
  done
  shopt -s nullglob
  for path in "$list"/owner*; do xargs -0 chown -h "${path##* }" -- <"$path"; done
  for path in "$list"/rights*; do xargs -0 chmod "${path##* }" -- <"$path"; done # after chown, which takes setuid away
  rm -r "$list"
}

is_behind_link() { # FOLDER PATH: whether a folder on the way to PATH, which is in FOLDER, is a link; the caller's `linked` is a cache
  [[ $2 == */* ]] || return 1
  if [[ -z ${linked[$1]:-} ]]; then
    linked[$1]=no
    if [[ -L $1 ]] || is_behind_link "${1%/*}" "${1#/}"; then linked[$1]=yes; fi
  fi
  [[ ${linked[$1]} == yes ]]
}
