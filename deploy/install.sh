#!/bin/sh
# Installs watchdogd from the bundle that this file lies in. Needs no network and no compiler: a Python of the bundle's
# version, and root (or DESTDIR). `install.sh --uninstall` takes away what it installed; configuration and records stay.
#
#   DESTDIR   prepended to every path, for packagers
#   PREFIX    where the commands, the unit and its like go (/usr/local)
#   PYTHON    the interpreter to build the environment on (python3)
#   FORCE=1   go on although another program called watchdogd is on PATH
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

running_systemd() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }

ours() { # also one from a development tree's environment
  [ "$(readlink "$1" || true)" = "$COMMAND" ] || grep -qs "from watchdogd.cli import main" "$1"
}

another_watchdogd() {
  echo "$PATH:/usr/local/sbin:/usr/sbin:/sbin" | tr : '\n' | while read -r directory; do
    [ ! -x "$directory/watchdogd" ] || ours "$directory/watchdogd" || { echo "$directory/watchdogd" && break; }
  done
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
    "$DESTDIR$PREFIX/lib/sysusers.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/gpu-watchdogd.conf"
  ! running_systemd || systemctl daemon-reload
  echo "removed; $CONFIG and /var/lib/gpu-watchdogd are kept"
}

check() {
  . "$HERE/BUNDLE" # ARCH, VERSION, NATIVE
  (cd "$HERE" && sha256sum --quiet --check SHA256SUMS) || fail "the bundle is damaged: $HERE/SHA256SUMS does not agree"
  has=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$PYTHON does not run; set PYTHON"
  [ "$has" = "$VERSION" ] || fail "this bundle is for Python $VERSION and $PYTHON is $has; set PYTHON, or make the other bundle"
  [ "$(uname -m)" = "$ARCH" ] || fail "this bundle is for $ARCH and this machine is $(uname -m)"
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
  cp -R "$HERE/systemd/drop-ins" "$HERE/watchdogd.toml" "$HERE/LICENSE" "$HERE/install.sh" "$new/share"
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
  cp "$HERE/systemd/gpu-watchdogd.service" "$HERE/systemd/gpu-watchdogd-degraded.target" "$DESTDIR$UNITS/"
  cp "$HERE/systemd/sysusers.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/sysusers.d/"
  cp "$HERE/systemd/tmpfiles.d/gpu-watchdogd.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/"
  if [ -e "$DESTDIR$CONFIG" ]; then
    echo "kept: $CONFIG"
  else
    mkdir -p "$DESTDIR$CONFIG"
    cp "$HERE/watchdogd.toml" "$DESTDIR$CONFIG/"
  fi
}

tell_systemd() {
  systemd-sysusers "$PREFIX/lib/sysusers.d/gpu-watchdogd.conf"
  systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/gpu-watchdogd.conf"
  systemctl daemon-reload
}

case "${1:-}" in
  --uninstall) uninstall ;;
  "")
    check
    environment
    install_files
    ! running_systemd || tell_systemd
    echo "installed in $DESTDIR$APP (native part: $NATIVE)"
    echo "next: edit $CONFIG/watchdogd.toml; watchdogd check-config; systemctl enable --now gpu-watchdogd"
    ;;
  *) fail "unknown argument $1" ;;
esac
