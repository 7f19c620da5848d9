# The container engine: one that answers, or docker.io installed and started. Sourced by ./fleet.
# shellcheck shell=bash

engine_answers() { docker info >/dev/null 2>&1; }

engine_answers_root() { { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; } && as_root docker info >/dev/null 2>&1; }

install_engine() {
  install_packages docker.io iptables
}

# PID 1 is systemd: the service. It is not (a container, WSL): dockerd itself, in the background and past our exit.
start_engine() {
  local pid_file
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker
  else
    # A pid file that outlived its process (kill -9, a reboot) makes dockerd refuse to start.
    for pid_file in /run/docker.pid /run/docker/containerd/containerd.pid; do
      if [ -e "$pid_file" ] && ! grep -qsE '^(dockerd|containerd)$' "/proc/$(cat "$pid_file")/comm"; then
        as_root rm -f "$pid_file"
      fi
    done
    as_root setsid nohup dockerd </dev/null >>"$cache/logs/dockerd.log" 2>&1 9>&- &
    disown
    date >"$cache/engine-started"
  fi
  local deadline=$((SECONDS + 60))
  until as_root docker info >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || {
      tail -n 15 "$cache/logs/dockerd.log" 2>/dev/null
      return 1
    }
    sleep 0.5
  done
}

# Leave with an engine that answers this user. May start ./fleet again with the engine's group added.
prepare_engine() {
  if engine_answers; then return; fi
  if [ -n "${DOCKER_HOST:-}" ]; then
    die "No container engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST, then type $(again)."
  fi
  if ! engine_answers_root; then
    if ! command -v dockerd >/dev/null; then
      command -v apt-get >/dev/null ||
        die "No container engine answers: install Docker (docs.docker.com/engine/install), start it, then type $(again)."
      need_root "Installing a container engine"
      step "Install the container engine docker.io" "Install docker.io by hand, then type $(again)." install_engine
      hash -r
    fi
    if ! engine_answers_root; then
      need_root "Starting the container engine"
      step "Start the container engine" \
        "The engine does not start: see $cache/logs/dockerd.log (or journalctl -u docker), then type $(again)." start_engine
    fi
  fi
  engine_answers || join_engine_group
}

# The engine answers root only: go on as this user with the socket's group, for this run and nothing else.
join_engine_group() {
  local group
  [ -z "${PGFLEET_JOINED:-}" ] || die "The engine's socket does not let $(id -un) in: run $(again) as root."
  need_root "Using the container engine"
  group=$(stat -c %g /var/run/docker.sock)
  exec sudo setpriv --reuid "$(id -u)" --regid "$(id -g)" --groups "$(id -G | tr ' ' ','),$group" \
    env PGFLEET_JOINED=1 HOME="$HOME" USER="$(id -un)" PATH="$PATH" PGFLEET_SLOT="${PGFLEET_SLOT:-}" \
    PGFLEET_MITOGEN="${PGFLEET_MITOGEN:-1}" "$PWD/fleet" "${arguments[@]}"
}
