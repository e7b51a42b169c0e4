# Login names of the owner's uid besides the owner's own: each gets in for one purpose, by its rules in sshd's configuration.

readonly WEB_LOGIN=berth-web
readonly GUEST_LOGIN=berth-guest
readonly TRY_S=10 # for sshd to check its configuration; one that hangs is reported later, as one that does not listen

add_second_logins() { # ADDED_LOGINS: adds the names to the container's passwd, for the owner's uid and after the owner
  ADDED_LOGINS=' '
  add_second_login "$WEB_LOGIN" "no web access"
  add_second_login "$GUEST_LOGIN" "no guests"
}

add_second_login() { # NAME WITHOUT: what the session is without if the image has such an account
  local lines entry fields=()
  mapfile -t lines </etc/passwd
  for entry in "${lines[@]}"; do
    if [[ $entry == "$1":* ]]; then
      log "warning: $2: the image has an account $1"
      return 0
    fi
    [[ $entry != "$BERTH_OWNER":* || ${#fields[@]} -gt 0 ]] || IFS=: read -ra fields <<<"$entry"
  done
  [[ ${#fields[@]} -eq 7 ]] || return 0
  # With bash for a shell, the owner's ~/.bashrc would run first.
  printf '%s:x:%s:%s::%s:/bin/sh\n' "$1" "${fields[2]}" "${fields[3]}" "${fields[5]}" >>/etc/passwd
  ADDED_LOGINS+="$1 "
}

add_rules() { # CONFIG LOGIN PRINT: adds what the command PRINT writes to sshd's configuration, if sshd takes it
  local fresh=$1.$2
  # AllowUsers: first, since it would belong to a Match block before it.
  { echo "AllowUsers $2" && cat "$1" && echo "Match User $2" && "$3"; } >"$fresh" &&
    timeout -s KILL "$TRY_S" "$SSHD" -T -C "user=$2,host=localhost,addr=127.0.0.1" -f "$fresh" >/dev/null 2>&1 &&
    mv -f "$fresh" "$1"
}
