#!/bin/sh
set -eu
case $1 in
  configure) /opt/berth/libexec/lifecycle "$([ -n "${2-}" ] && echo upgraded || echo installed)" ;;
  abort-upgrade | abort-remove) /opt/berth/libexec/lifecycle upgraded ;;
esac
