#!/bin/sh
# What a package of Berth does beside its files: accounts and services. `lifecycle STEP`, called by dpkg's and rpm's scripts.
# Sessions are Slurm jobs: they continue through all steps. So do ssh connections through the gateway, except in a removal.
set -eu

units="berth berth-gateway berth-web"

has_systemd() {
  [ -d /run/systemd/system ]
}

make_account() { # NAME HOME
  getent passwd "$1" >/dev/null || useradd --system --user-group --home-dir "$2" --shell /usr/sbin/nologin "$1"
}

is_enabled() { # UNIT
  systemctl --quiet is-enabled "$1.service" 2>/dev/null
}

installed() {
  make_account berth /var/lib/berth
  make_account berth-gateway /var/lib/berth-gateway
  make_account berth-web /nonexistent
  ! has_systemd || systemctl daemon-reload
}

say_what_is_left() {
  cat <<END
berth: the programs are installed, and no service runs yet. What is left to do is in
/opt/berth/share/doc/berth/quickstart.md, "Site mode", from step 2 on:
  - the account "berth" has the same user id where slurmctld runs, and is an operator of Slurm
  - directories on the shared file system, and /etc/berth/config.yaml
  - systemctl enable --now berth berth-gateway
END
}

start_again() { # the controller first: a new gateway sends queries that an older controller does not know
  has_systemd || return 0
  is_enabled berth || return 0
  if ! /opt/berth/bin/berth config check >&2; then
    echo "berth: the services are not started: correct the configuration, and run: systemctl start $units" >&2
    return 0
  fi
  systemctl start berth.service || echo "berth: the controller does not start: journalctl -u berth" >&2
  for unit in berth-gateway berth-web; do
    ! is_enabled "$unit" || systemctl reload-or-restart "$unit.service" || echo "berth: journalctl -u $unit" >&2
  done
}

case $1 in
  installed) installed && say_what_is_left ;;
  upgraded) installed && start_again ;;
  # The controller imports parts of its code late, so it must not run while its files are replaced. The gateways go on.
  before-upgrade) ! has_systemd || systemctl stop berth.service ;;
  before-removal) ! has_systemd || systemctl disable --now berth-web berth-gateway berth-gateway-api berth ;;
  kept) # after a removal
    ! has_systemd || systemctl daemon-reload
    cat <<END
berth: the programs are removed. These are kept:
  /var/lib/berth            the registry and the keys of the certificate authorities
  /var/lib/berth-gateway    the key of the gateway
  the accounts berth, berth-gateway and berth-web
  sessions and images on the shared file system; running sessions continue until their jobs end
END
    ;;
esac
