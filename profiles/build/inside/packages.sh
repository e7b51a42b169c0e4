#!/bin/sh
# packages.sh SESSION_PACKAGE... -- DEBIAN_PACKAGE...: add what sessions need, and the recipe's packages, with the package
# manager of the tree's distribution. The session's packages have Debian's names. Runs as root of the tree.
set -eu
kit=/run/berth-build
session=
while [ "$1" != -- ]; do
    session="$session $1"
    shift
done
shift
if command -v apt-get >/dev/null; then
    # The names hold no blanks and no patterns: profiles/recipe/spec.py.
    # shellcheck disable=SC2086
    exec /bin/sh $kit/install.sh $session "$@"
fi
if [ $# -gt 0 ]; then
    echo "error: the base has no apt-get, so \`apt\` cannot add $*; install packages of this distribution in \`post\`" >&2
    exit 1
fi
case $session in
*python3-venv*) python=python3 ;;
*) python= ;;
esac
for manager in dnf microdnf yum; do
    if command -v "$manager" >/dev/null; then
        exec /bin/sh $kit/install-rpm.sh "$manager" $python
    fi
done
if command -v apk >/dev/null; then
    exec /bin/sh $kit/install-apk.sh $python
fi
[ -x /usr/sbin/sshd ] && [ -x /bin/bash ] && exit 0
echo "error: the base has no package manager that Berth knows (apt, dnf, microdnf, yum, apk), and lacks" \
    "/usr/sbin/sshd or /bin/bash, which every session needs" >&2
exit 1
