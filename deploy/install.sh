#!/bin/sh
# Installs watchdogd from the bundle that this file lies in. Needs no network and no compiler: a Python of the bundle's
# version, and root (or DESTDIR). `install.sh --uninstall` takes away what it installed; configuration and records stay.
#
#   DESTDIR   prepended to every path, for packagers
#   PREFIX    where the commands, the unit, the header for C and their like go (/usr/local)
#   PYTHON    the interpreter to build the environment on (python3)
#   FORCE=1   go on although another program called watchdogd is on PATH, or other users cannot run PYTHON
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
PYTHON=${PYTHON:-python3}
APP=/opt/gpu-watchdogd
COMMAND=$APP/bin/watchdogd
CONFIG=/etc/gpu-watchdogd
UNITS=$PREFIX/lib/systemd/system

fail() {
  echo "install: $*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || [ -n "$DESTDIR" ] || fail "this needs root: use sudo, or set DESTDIR"
}

running_systemd() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

ours() { # also one from a development tree's environment
  [ "$(readlink "$1" || true)" = "$COMMAND" ] || grep -qs "from watchdogd.cli import main" "$1"
}

another_watchdogd() {
  echo "$PATH:/usr/local/sbin:/usr/sbin:/sbin" | tr : '\n' | while read -r directory; do
    [ ! -x "$directory/watchdogd" ] || ours "$directory/watchdogd" || { echo "$directory/watchdogd" && break; }
  done
}

closed_directories() { # on the way to the interpreter that PYTHON really is
  "$PYTHON" -c '
import os, sys
path = os.path.realpath(sys._base_executable)
while path != "/":
    path = os.path.dirname(path)
    if not os.stat(path).st_mode & 1:
        print(path)'
}

uninstall() {
  if running_systemd; then
    systemctl disable --now gpu-watchdogd.service 2>/dev/null || true
  fi
  for name in watchdogd gpu-watchdogd; do
    link=$DESTDIR$PREFIX/bin/$name
    [ "$(readlink "$link" || true)" != "$COMMAND" ] || rm -f "$link"
  done
  rm -rf "$DESTDIR$APP"
  rm -f "$DESTDIR$UNITS/gpu-watchdogd.service" "$DESTDIR$UNITS/gpu-watchdogd-degraded.target" \
    "$DESTDIR$PREFIX/lib/sysusers.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/gpu-watchdogd.conf" \
    "$DESTDIR$PREFIX/include/watchdogd.h" "$DESTDIR$PREFIX/lib/pkgconfig/watchdogd.pc"
  rm -rf "$DESTDIR$PREFIX/lib/cmake/watchdogd"
  ! running_systemd || systemctl daemon-reload
  echo "removed; $CONFIG, /var/lib/gpu-watchdogd and the user and group watchdogd are kept"
}

check() {
  . "$HERE/BUNDLE" # ARCH, VERSION, NATIVE
  (cd "$HERE" && sha256sum --quiet --check SHA256SUMS) || fail "the bundle is damaged: $HERE/SHA256SUMS does not agree"
  has=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$PYTHON does not run; set PYTHON"
  [ "$has" = "$VERSION" ] || fail "this bundle is for Python $VERSION and $PYTHON is $has; set PYTHON, or make the other bundle"
  [ "$(uname -m)" = "$ARCH" ] || fail "this bundle is for $ARCH and this machine is $(uname -m)"
  closed=$(closed_directories)
  if [ -n "$closed" ] && [ "${FORCE:-}" != 1 ]; then
    fail "other users cannot run $(command -v "$PYTHON"), and a worker may be theirs; closed to them:" $closed "
  Name another, such as PYTHON=/usr/bin/python3, or go on with FORCE=1."
  fi
  other=$(another_watchdogd)
  if [ -n "$other" ]; then
    [ "${FORCE:-}" = 1 ] || fail "another program called watchdogd is installed: $other
  Ours would hide it, or be hidden by it. Remove that one, or go on with FORCE=1: the alias gpu-watchdogd is always ours."
  fi
}

environment() { # made beside the old one and moved into place whole
  new=$DESTDIR$APP.new
  rm -rf "$new"
  mkdir -p "$(dirname "$new")"
  "$PYTHON" -m venv --without-pip "$new"
  # pip runs from its own wheel: the environment holds nothing that a vehicle does not need.
  PYTHONPATH=$(echo "$HERE"/pip/pip-*.whl) "$new/bin/python" -m pip install --quiet --no-index --no-compile \
    --disable-pip-version-check --root-user-action=ignore --find-links "$HERE/wheels" $REQUIRES
  "$new/bin/python" -m compileall -q -s "$new" -p "$APP" "$new/lib"
  rm -f "$new"/bin/activate* "$new"/bin/Activate*
  sed -i "1s|^#!.*|#!$APP/bin/python|" "$new"/bin/watchdogd
  sed -i "/^command = /d" "$new/pyvenv.cfg"
  ln -s watchdogd "$new/bin/gpu-watchdogd"
  # What a worker under another interpreter puts on its PYTHONPATH: our package and nothing else of ours.
  mkdir "$new/python" "$new/share"
  ln -s "../lib/python$VERSION/site-packages/watchdogd" "$new/python/watchdogd"
  cp -R "$HERE/systemd/drop-ins" "$HERE/config" "$HERE/docs" "$HERE/examples" "$HERE/README.md" "$HERE/LICENSE" "$HERE/install.sh" "$new/share"
  ln -s ../python/watchdogd "$new/share/watchdogd" # where the README links to the header for C
  rm -rf "$DESTDIR$APP.old"
  [ ! -e "$DESTDIR$APP" ] || mv "$DESTDIR$APP" "$DESTDIR$APP.old"
  mv "$new" "$DESTDIR$APP"
  rm -rf "$DESTDIR$APP.old"
}

install_files() {
  mkdir -p "$DESTDIR$PREFIX/bin" "$DESTDIR$UNITS" "$DESTDIR$PREFIX/lib/sysusers.d" "$DESTDIR$PREFIX/lib/tmpfiles.d"
  for name in watchdogd gpu-watchdogd; do
    link=$DESTDIR$PREFIX/bin/$name
    if [ -e "$link" ] && ! ours "$link" && [ "$(readlink "$link" || true)" != "$COMMAND" ]; then
      echo "kept: $link is another program" # FORCE=1
    else
      ln -sfn "$COMMAND" "$link"
    fi
  done
  unit=same
  cmp -s "$HERE/systemd/gpu-watchdogd.service" "$DESTDIR$UNITS/gpu-watchdogd.service" || unit=changed
  cp "$HERE/systemd/gpu-watchdogd.service" "$HERE/systemd/gpu-watchdogd-degraded.target" "$DESTDIR$UNITS/"
  cp "$HERE/systemd/sysusers.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/sysusers.d/"
  cp "$HERE/systemd/tmpfiles.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/"
  if [ -e "$DESTDIR$CONFIG" ]; then
    echo "kept: $CONFIG"
  else
    mkdir -p "$DESTDIR$CONFIG"
    cp "$HERE/config/watchdogd.toml" "$DESTDIR$CONFIG/"
  fi
}

install_for_c() { # copies, not links: an image that is built with them needs nothing else of ours
  native=$DESTDIR$APP/python/watchdogd/native
  mkdir -p "$DESTDIR$PREFIX/include" "$DESTDIR$PREFIX/lib/pkgconfig" "$DESTDIR$PREFIX/lib/cmake/watchdogd"
  cp "$native/watchdogd.h" "$DESTDIR$PREFIX/include/"
  sed -e '/^#/d' -e 's|^includedir=.*|includedir=${pcfiledir}/../../include|' \
    "$native/pkgconfig/watchdogd.pc" >"$DESTDIR$PREFIX/lib/pkgconfig/watchdogd.pc"
  cp "$native"/cmake/*.cmake "$DESTDIR$PREFIX/lib/cmake/watchdogd/"
  sed -i 's|{watchdogd_HERE}/\.\.|{watchdogd_HERE}/../../../include|' "$DESTDIR$PREFIX/lib/cmake/watchdogd/watchdogd-config.cmake"
}

tell_systemd() {
  systemd-sysusers "$PREFIX/lib/sysusers.d/gpu-watchdogd.conf"
  systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/gpu-watchdogd.conf"
  systemctl daemon-reload
}

tell_next() {
  if ! running_systemd || ! systemctl --quiet is-active gpu-watchdogd; then
    echo "next: edit $CONFIG/watchdogd.toml; watchdogd check-config; systemctl enable --now gpu-watchdogd"
    return
  fi
  echo "next: systemctl reload gpu-watchdogd (it still runs the version before; workers go on)"
  [ $unit = same ] || echo "the unit has changed: all of it is in force after systemctl restart gpu-watchdogd, which ends the workers"
}

case "${1:-}" in
  --uninstall)
    need_root
    uninstall
    ;;
  "")
    need_root
    check
    environment
    install_files
    install_for_c
    ! running_systemd || tell_systemd
    echo "installed in $DESTDIR$APP (native part: $NATIVE), on $(readlink -f "$DESTDIR$APP/bin/python"), Python $VERSION"
    echo "how to go on: $APP/share/docs/OPERATIONS.md"
    tell_next
    ;;
  *) fail "unknown argument $1" ;;
esac
