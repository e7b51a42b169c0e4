#!/bin/sh
# install-apk.sh [PACKAGE...]: install what sessions need in Alpine Linux. Runs as root of the tree.
set -eu
missing=
for package in bash ca-certificates coreutils less ncurses-terminfo-base openssh-client openssh-server \
    openssh-sftp-server procps tzdata "$@"; do
    apk info -e "$package" >/dev/null 2>&1 || missing="$missing $package"
done
# shellcheck disable=SC2086
[ -z "$missing" ] || apk add --no-cache $missing
