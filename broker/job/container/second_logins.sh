# Login names of the owner's uid besides the owner's own: each gets in for one purpose, by its rules in sshd's configuration.

readonly WEB_LOGIN=berth-web
readonly GUEST_LOGIN=berth-guest
readonly TRY_S=10 # for sshd to check its configuration; one that hangs is reported later, as one that does not listen
declare -gA DOORS

warn_without() { # LOGIN REASON: what the session is without, and why
  local what='no web access'
  [[ $1 == "$WEB_LOGIN" ]] || what='no guests'
  log "warning: $what: $2"
}

add_second_logins() { # ADDED_LOGINS: adds the names to the container's passwd, for the owner's uid and after the owner
  ADDED_LOGINS=' '
  add_second_login "$WEB_LOGIN"
  add_second_login "$GUEST_LOGIN"
}

add_second_login() { # NAME: unless the image has such an account
  local lines entry fields=()
  mapfile -t lines </etc/passwd
  for entry in "${lines[@]}"; do
    if [[ $entry == "$1":* ]]; then
      warn_without "$1" "the image has an account $1"
      return 0
    fi
    [[ $entry != "$BERTH_OWNER":* || ${#fields[@]} -gt 0 ]] || IFS=: read -ra fields <<<"$entry"
  done
  [[ ${#fields[@]} -eq 7 ]] || return 0
  # With bash for a shell, the owner's ~/.bashrc would run first.
  printf '%s:x:%s:%s::%s:/bin/sh\n' "$1" "${fields[2]}" "${fields[3]}" "${fields[5]}" >>/etc/passwd
  ADDED_LOGINS+="$1 "
}

prepare_doors() { # DOORS: by login, the process that makes what its door needs, in the background while sshd is configured
  DOORS=()
  if [[ ${ADDED_LOGINS:-} == *" $WEB_LOGIN "* ]]; then
    /bin/bash /run/berth/node/service admit &
    DOORS[$WEB_LOGIN]=$!
  fi
  if [[ ${ADDED_LOGINS:-} == *" $GUEST_LOGIN "* ]]; then
    install_guest_programs &
    DOORS[$GUEST_LOGIN]=$!
  fi
}

complete_doors() { # waits for that: DOORS: without a login for which it failed
  local login
  for login in "${!DOORS[@]}"; do
    if ! wait_for_child "${DOORS[$login]}"; then
      warn_without "$login" "what its door needs could not be written"
      unset "DOORS[$login]"
    fi
  done
}

wait_for_child() { # PID: returns its exit code; a signal for this process does not end the wait
  local code
  while :; do
    code=0
    wait "$1" || code=$?
    if ((code <= 128)); then return "$code"; fi
    kill -0 "$1" 2>/dev/null || { wait "$1" && return 0 || return 1; }
  done
}

write_rules() { # CONFIG OWN LOGIN…: writes sshd's configuration: OWN, and the rules of these logins
  local login
  {
    for login in "${@:3}"; do echo "AllowUsers $login"; done # first, since they would belong to a Match block before them
    printf '%s\n' "$2"
    for login in "${@:3}"; do
      echo "Match User $login"
      if [[ $login == "$WEB_LOGIN" ]]; then print_web_rules; else print_guest_rules; fi
    done
  } >"$1"
}

drop_refused_doors() { # CONFIG OWN: DOORS: without those whose rules the image's sshd does not take; writes the configuration
  local login taken=()
  for login in "${!DOORS[@]}"; do
    if write_rules "$1" "$2" "${taken[@]}" "$login" &&
      timeout -s KILL "$TRY_S" "$SSHD" -T -C "user=$login,host=localhost,addr=127.0.0.1" -f "$1" >/dev/null 2>&1; then
      taken+=("$login")
    else
      warn_without "$login" "the image's sshd does not take the rules of $login"
      unset "DOORS[$login]"
    fi
  done
  write_rules "$1" "$2" "${taken[@]}"
}
