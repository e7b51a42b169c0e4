# The door for guests: a login name whose keys run one program each, which shows what the owner shows.

print_guest_rules() { # the block of sshd_config for this login
  # AuthorizedKeysFile, RevokedKeys: sshd reads both at each login. Each line of the first has `restrict`, `pty` and one
  #   command; the rest repeats what `restrict` forbids.
  printf '%s\n' \
    "AuthorizedKeysFile /run/berth/session/guest_keys" \
    "RevokedKeys /run/berth/session/guest_revoked" \
    "DisableForwarding yes" \
    "AllowTcpForwarding no" \
    "AllowStreamLocalForwarding no" \
    "AllowAgentForwarding no" \
    "X11Forwarding no" \
    "PermitTunnel no" \
    "PermitUserRC no" \
    "MaxSessions 1" \
    "AcceptEnv none"
  # A connection without a terminal ends: nothing in it looks at the guest's lease. OpenSSH before 9.2 does not know it.
  ! grep -q unusedconnectiontimeout "$SSHD" || echo "UnusedConnectionTimeout 2"
}

open_guest_door() { # CONFIG: adds the login to sshd's configuration; where sshd does not take it, the session starts without
  [[ ${ADDED_LOGINS:-} == *" $GUEST_LOGIN "* ]] || return 0
  if ! install_guest_programs || ! add_rules "$1" "$GUEST_LOGIN" print_guest_rules; then
    log "warning: no guests: their rules could not be written, or the image's sshd does not take them"
  fi
}

install_guest_programs() { # writes the owner's program that shows a terminal, and the guest's that sees it
  cat >/run/berth/node/show <<'PROGRAM' && cat >/run/berth/node/watch <<'PROGRAM2'
#embed guest/show.py
PROGRAM
#embed guest/watch.py
PROGRAM2
}
