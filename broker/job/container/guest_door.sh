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

install_guest_programs() { # writes the owner's program that shows a terminal, and those of guests, one for each role
  local name programs=/run/berth/node/programs/broker/job/guest
  mkdir -p "$programs" || return 1
  : >"$programs/__init__.py" && cp "$programs/__init__.py" "${programs%/*}" || return 1
  cp "$programs/__init__.py" "${programs%/*/*}" || return 1 # the image may have a package of that name
  cat >"$programs/program.py" <<'PROGRAM' || return 1
#embed guest/program.py
PROGRAM
  cat >"$programs/keyboard.py" <<'PROGRAM' || return 1
#embed guest/keyboard.py
PROGRAM
  cat >"$programs/lease.py" <<'PROGRAM' || return 1
#embed guest/lease.py
PROGRAM
  cat >"$programs/pane.py" <<'PROGRAM' || return 1
#embed guest/pane.py
PROGRAM
  cat >"$programs/show.py" <<'PROGRAM' || return 1
#embed guest/show.py
PROGRAM
  cat >"$programs/use.py" <<'PROGRAM' || return 1
#embed guest/use.py
PROGRAM
  cat >"$programs/viewer.py" <<'PROGRAM' || return 1
#embed guest/viewer.py
PROGRAM
  cat >"$programs/watch.py" <<'PROGRAM' || return 1
#embed guest/watch.py
PROGRAM
  cat >"$programs/writer.py" <<'PROGRAM' || return 1
#embed guest/writer.py
PROGRAM
  for name in show watch pair as-owner; do cp "$programs/program.py" "/run/berth/node/$name" || return 1; done
}
