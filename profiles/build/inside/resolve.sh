#!/bin/sh
# resolve.sh simulate|candidates PACKAGE...: print what the package sources have today; install nothing.
#   simulate: `Inst NAME (VERSION ...` of each Debian package that install.sh would install in this tree.
#   candidates: `Inst NAME (VERSION` of the version that the sources have of each PACKAGE, installed or not.
# Runs as root of the tree.
set -eu
what=$1
shift
command -v apt-get >/dev/null || exit 0
missing=
for package; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] && [ "$what" = simulate ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
apt-get -q -o APT::Update::Error-Mode=any update >&2
# The names hold no blanks and no patterns: profiles/recipe/spec.py.
if [ "$what" = simulate ]; then
    # shellcheck disable=SC2086
    apt-get -q -y -s --no-install-recommends install $missing
    exit
fi
for package in $missing; do
    case $package in
    *=*) version=${package#*=} ;;
    *) version=$(LC_ALL=C apt-cache policy "$package" | sed -n 's/^  Candidate: //p') ;;
    esac
    echo "Inst ${package%%=*} ($version "
done
