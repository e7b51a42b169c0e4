#!/bin/sh
# Refuse a downgrade: the registry's tables are migrated by each version, and none migrates them back.
set -eu

if [ "$1" = upgrade ] && dpkg --compare-versions "$2" gt '@VERSION@'; then
  cat >&2 <<END
berth: version $2 is installed, and its registry cannot be used by the older version @VERSION@.
To go back: remove the package, restore the backup of the registry that was made before the upgrade
(/opt/berth/share/doc/berth/operate.md, "Back up"), and install the older version.
END
  exit 1
fi
