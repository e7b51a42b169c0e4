# The door of berth-web, the gateway for browsers: a login name that reaches the sockets of services, and nothing else.

readonly WEB_LOGIN=berth-web
readonly TRY_S=10 # for sshd to check its configuration; one that hangs is reported later, as one that does not listen

add_web_login() { # HAS_WEB_LOGIN: adds the name to the container's passwd, for the owner's uid and after the owner
  local lines entry fields=()
  mapfile -t lines </etc/passwd
  for entry in "${lines[@]}"; do
    if [[ $entry == "$WEB_LOGIN":* ]]; then
      log "warning: no web access: the image has an account $WEB_LOGIN"
      return 0
    fi
    [[ $entry != "$BERTH_OWNER":* || ${#fields[@]} -gt 0 ]] || IFS=: read -ra fields <<<"$entry"
  done
  [[ ${#fields[@]} -eq 7 ]] || return 0
  # With bash for a shell, the owner's ~/.bashrc would run first.
  printf '%s:x:%s:%s::%s:/bin/sh\n' "$WEB_LOGIN" "${fields[2]}" "${fields[3]}" "${fields[5]}" >>/etc/passwd
  HAS_WEB_LOGIN=yes
}

print_web_rules() { # the end of sshd_config
  # TrustedUserCAKeys, AuthorizedPrincipalsFile: sshd reads both at each login. Without the first there is no web access.
  #   The second has `restrict`, the one command and the sockets: see admit_sockets.
  # AllowTcpForwarding: `no` would also close the sockets; the sockets are all that may be opened.
  # AllowStreamLocalForwarding: with `yes`, StreamLocalBindUnlink would let a forward remove any file of the owner's.
  # AcceptEnv: instead of what logins of the owner may send; no client has a variable of this name.
  printf '%s\n' \
    "AllowUsers $WEB_LOGIN" \
    "Match User $WEB_LOGIN" \
    "AuthorizedKeysFile none" \
    "TrustedUserCAKeys /run/berth/session/web_authority" \
    "AuthorizedPrincipalsFile /run/berth/node/web_principals" \
    "AllowTcpForwarding local" \
    "AllowStreamLocalForwarding local" \
    "AllowAgentForwarding no" \
    "X11Forwarding no" \
    "PermitTTY no" \
    "PermitUserRC no" \
    "AcceptEnv none"
}

open_web_door() { # CONFIG: adds the login to sshd's configuration; where sshd does not take it, the session starts without
  local fresh=$1.web
  [[ -n ${HAS_WEB_LOGIN:-} ]] || return 0
  if /bin/bash /run/berth/node/service admit && { cat "$1" && print_web_rules; } >"$fresh" &&
    timeout -s KILL "$TRY_S" "$SSHD" -T -C "user=$WEB_LOGIN,host=localhost,addr=127.0.0.1" -f "$fresh" >/dev/null 2>&1; then
    mv -f "$fresh" "$1"
  else
    log "warning: no web access: its rules could not be written, or the image's sshd does not take them"
  fi
}
