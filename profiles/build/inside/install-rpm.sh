#!/bin/sh
# install-rpm.sh MANAGER [PACKAGE...]: install what sessions need in a relative of Red Hat's distributions, with dnf, microdnf
# or yum. What another package provides already is not replaced. Runs as root of the tree.
set -eu
manager=$1
shift
missing=
for package in bash ca-certificates coreutils glibc-common less ncurses-base openssh-clients openssh-server procps-ng \
    tzdata "$@"; do
    rpm -q --whatprovides "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
case $manager in
microdnf) options="-y --nodocs --setopt=install_weak_deps=0" ;;
dnf) options="-y --nodocs --setopt=install_weak_deps=False" ;;
*) options="-y" ;;
esac
# shellcheck disable=SC2086
"$manager" install $options $missing
"$manager" clean all
