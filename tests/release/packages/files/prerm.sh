#!/bin/sh
set -eu
case $1 in
  upgrade | failed-upgrade) /opt/berth/libexec/lifecycle before-upgrade ;;
  remove | deconfigure)
    /opt/berth/libexec/lifecycle before-removal
    cp /opt/berth/libexec/lifecycle /run/berth-package # for postrm, which runs when the files are gone
    ;;
esac
