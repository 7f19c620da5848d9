# The controller: ./.venv from requirements.txt, ./.collections from requirements.yml. Sourced by ./fleet.
# A stamp written last says that the work is whole; without it, or with another one, it is done again.
# shellcheck shell=bash

python=

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# Stop with one sentence unless this user can become root: $1 says what for.
need_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null || die "$1 needs root, and sudo is not installed: run $(again) as root."
  sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; } ||
    die "$1 needs root, and $(id -un) may not use sudo here: run $(again) as root, or as a user with sudo."
}

install_packages() {
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$(command -v "$candidate")
      return 0
    fi
  done
  return 1
}

# Programs and the packages that bring them; a command may need more.
programs=(ssh ssh-keygen)
packages=(python3 python3-venv openssh-client)

has_tools() { "$python" -c 'import ensurepip, venv' 2>/dev/null && type -P "${programs[@]}" >/dev/null; }

needs_tools() { ! find_python || ! has_tools; }

# Install Python and the SSH client where the distribution can.
prepare_tools() {
  local found
  if command -v apt-get >/dev/null; then
    need_root "Installing ${packages[*]}"
    step "Install ${packages[*]}" "Install ${packages[*]} by hand, then type $(again)." install_packages "${packages[@]}"
    hash -r
  fi
  if ! find_python; then
    found=$(python3 --version 2>&1) || found="no python3"
    die "Python 3.11 or newer is needed and this machine has $found: install a newer one" \
      "(on Ubuntu 22.04: sudo apt-get install python3.11 python3.11-venv), then type $(again)."
  fi
  has_tools || die "${python##*/} has no venv module, or one of ${programs[*]} is missing:" \
    "install ${python##*/}-venv and ${packages[*]:2}, then type $(again)."
}

content_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

# The place too: the scripts of a .venv do not survive a move.
venv_stamp() { echo "$(content_of requirements.txt) $PWD"; }

collections_stamp() { content_of requirements.yml requirements-collections.txt; }

is_stamped() { [ "$(cat "$1/.stamp" 2>/dev/null)" = "$2" ]; }

needs_venv() { ! is_stamped .venv "$(venv_stamp)" || ! .venv/bin/python -c "" 2>/dev/null; }

needs_collections() { ! is_stamped .collections "$(collections_stamp)"; }

# pip brings uv, uv brings the rest in a third of pip's time; where uv cannot, pip does.
make_venv() {
  rm -rf .venv
  "$python" -m venv .venv
  sed -n '/^uv==/,/[^\\]$/p' requirements.txt >.cache/requirements-uv.txt
  if .venv/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: -r .cache/requirements-uv.txt &&
    .venv/bin/uv pip install --system-certs --cache-dir .cache/uv --python .venv/bin/python --compile-bytecode \
      --require-hashes --only-binary :all: -r requirements.txt; then
    :
  else
    echo "uv could not install the packages: pip installs them."
    .venv/bin/pip install --require-hashes --only-binary :all: -r requirements.txt
  fi
  venv_stamp >.venv/.stamp
}

make_collections() {
  rm -rf .collections.new
  if timeout 60 .venv/bin/ansible-galaxy collection install --timeout 10 -r requirements.yml -p .collections.new; then
    :
  else
    echo "Galaxy cannot be reached: the collections come from the Python package that bundles them."
    rm -rf .collections.new .cache/wheels
    .venv/bin/pip download --quiet --no-deps --only-binary :all: --require-hashes \
      -r requirements-collections.txt -d .cache/wheels
    .venv/bin/python lib/unpack_collections.py requirements.yml .cache/wheels/*.whl .collections.new
    rm -rf .cache/wheels
  fi
  rm -rf .collections
  mv .collections.new .collections
  collections_stamp >.collections/.stamp
}

prepare_controller() {
  if needs_tools; then
    prepare_tools
  fi
  if needs_venv; then
    need_disk . 1000
    step "Install the controller's packages into .venv" \
      "Check that this machine reaches a Python package index (pip's own settings apply), then type $(again)." make_venv
  fi
  if needs_collections; then
    need_disk . 500
    step "Install the Ansible collections into .collections" \
      "Check that this machine reaches Galaxy or a Python package index, then type $(again)." make_collections
  fi
  use_controller
}

use_controller() {
  export PATH="$PWD/.venv/bin:$PATH" ANSIBLE_CONFIG="$PWD/ansible.cfg"
  unset PYTHONPATH PYTHONHOME
  use_mitogen
}

# Mitogen makes every task three times faster. PGFLEET_MITOGEN=0 leaves it off.
use_mitogen() {
  local plugins
  [ "${PGFLEET_MITOGEN:-1}" = 1 ] || return 0
  for plugins in .venv/lib/python3*/site-packages/ansible_mitogen/plugins/strategy; do
    [ -d "$plugins" ] || continue
    export ANSIBLE_STRATEGY_PLUGINS="$PWD/$plugins" ANSIBLE_STRATEGY=mitogen_linear ANSIBLE_DEPRECATION_WARNINGS=False
  done
}
