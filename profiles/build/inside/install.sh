#!/bin/sh
# install.sh PACKAGE...: install the Debian packages that the tree does not have yet. Runs as root of the tree.
set -eu
if ! command -v apt-get >/dev/null; then
    echo "the base has no apt-get, so these packages cannot be added: $*" >&2
    exit 1
fi
missing=
for package; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Nothing is to be started here: https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
# Without Error-Mode, a failed update is a warning, and the installation then fails with a wrong reason.
apt-get -q -o APT::Update::Error-Mode=any update
# The names hold no blanks and no patterns: profiles/recipe/spec.py.
# shellcheck disable=SC2086
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=0 install $missing
