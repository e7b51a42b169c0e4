#!/bin/sh
# finish.sh: make the tree fit for sessions and fit to be shared. Runs as root of the tree.
set -eu
kit=/run/berth-build
for program in /usr/sbin/sshd /bin/bash; do
    if [ ! -x "$program" ]; then
        echo "error: the base lacks $program, which every session needs, and it could not be installed" >&2
        exit 1
    fi
done

# sshd gives a new terminal to the group `tty` if there is one, and in a session that group is not mapped: no terminal.
for file in /etc/group /etc/gshadow; do
    [ ! -f "$file" ] || sed -i '/^tty:/d' "$file"
done
# Its privilege separation directory (sshd(8)), and a login shell that keeps the session's PATH.
mkdir -p /run/sshd /etc/profile.d
chmod 755 /run/sshd
cat >/etc/profile.d/zz-berth.sh <<'PROFILE'
# Debian's /etc/profile sets a PATH of its own; sessions come with one, and ordinary users run dpkg here.
if [ -n "${BERTH_PATH-}" ]; then
    PATH=$BERTH_PATH
else
    case ":$PATH:" in
    *:/usr/sbin:*) ;;
    *) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;;
    esac
fi
export PATH
# Variables of a dev container (berth up).
if [ -r "${HOME-}/.config/berth/environment.sh" ]; then
    . "$HOME/.config/berth/environment.sh"
fi
PROFILE
chmod 644 /etc/profile.d/zz-berth.sh

# What Apptainer wants in an image; a base that is one has it. It reads the environment from env/, in the order of the
# files' names; what the base set there stays before the profile's own.
if [ ! -e /.singularity.d/env/99-base.sh ]; then
    mkdir -p /.singularity.d
    cp -R "$kit/metadata/." /.singularity.d/
fi
cat "$kit/environment.sh" >>/.singularity.d/env/90-environment.sh
chmod 755 /.singularity.d/env/90-environment.sh
cp "$kit/labels.json" /.singularity.d/labels.json

# Secrets and identities that copies must not share, and what this build left behind.
rm -f /etc/hostname /etc/ssh/ssh_host_* /etc/apt/apt.conf.d/99mmdebstrap
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/apt /var/log/dpkg.log
rm -rf /root/.cache
mkdir -p /var/tmp
chmod 1777 /var/tmp
for directory in /tmp /var/tmp; do
    rm -rf "${directory:?}"/* "$directory"/.[!.]* "$directory"/..?*  # find(1) is not in every small image
done
: >/etc/machine-id

{
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f 'apt ${binary:Package} ${Version}\n'
    elif command -v rpm >/dev/null; then
        rpm -qa --qf 'rpm %{NAME} %{VERSION}-%{RELEASE}\n' | sort
    elif command -v apk >/dev/null; then
        apk info -v | sort | sed 's/^\(.*\)-\([^-]*-r[0-9]*\)$/apk \1 \2/'
    fi
    [ ! -x /opt/venv/bin/pip ] || /opt/venv/bin/pip --disable-pip-version-check freeze --local | sed 's/^/pip /'
} >"$kit/packages.txt"
