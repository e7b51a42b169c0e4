#!/bin/sh
set -eu
if [ "$1" = remove ]; then
  sh /run/berth-package kept
  # What the site has added, such as pyslurm.
  rm -rf /run/berth-package /opt/berth
fi
