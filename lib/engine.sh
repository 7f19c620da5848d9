# The container engine: one that answers, or docker.io installed and started. Sourced by ./fleet.
# shellcheck shell=bash

engine_answers() { docker info >/dev/null 2>&1; }

# True with an engine that answers this user. Where it answers root only, ./fleet starts again with its group.
reach_engine() {
  engine_answers && return
  [ -z "${DOCKER_HOST:-}" ] ||
    die "No container engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST, then type $(again)."
  [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ] && join_engine_group
  return 1
}

# Go on as this user with the socket's group added, for this run and nothing else.
join_engine_group() {
  local group
  [ -z "${PGFLEET_JOINED:-}" ] || die "The engine's socket does not let $(id -un) in: run $(again) as root."
  need_root "Using the container engine"
  group=$(stat -c %g /var/run/docker.sock)
  exec 9>&-
  exec sudo setpriv --reuid "$(id -u)" --regid "$(id -g)" --groups "$(id -G | tr ' ' ','),$group" \
    env PGFLEET_JOINED=1 HOME="$HOME" USER="$(id -un)" PATH="$PATH" PGFLEET_SLOT="$slot" \
    PGFLEET_MITOGEN="${PGFLEET_MITOGEN:-1}" "$PWD/fleet" "${arguments[@]}"
}

# The client is a package of its own from Debian 13 on; without apparmor's parser dockerd cannot build on a kernel that has it.
install_engine() {
  local packages=(docker.io apparmor iptables ca-certificates)
  as_root apt-get update -qq
  if apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi
  install_packages "${packages[@]}"
}

# docker.io where no dockerd is installed (a client alone is no engine), then start it.
raise_engine() {
  if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    install_engine
    date >"$cache/engine-installed"
  fi
  as_root docker info >/dev/null 2>&1 || start_engine
}

# PID 1 is systemd: the service. It is not (a container, WSL): dockerd itself, in the background and past our exit.
start_engine() {
  local pid='' pid_file deadline=$((SECONDS + 60))
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker
  elif ! is_process /run/docker.pid; then
    # A pid file that outlived its process (kill -9, a reboot) makes dockerd refuse to start.
    for pid_file in /run/docker.pid /run/docker/containerd/containerd.pid; do
      is_process "$pid_file" || as_root rm -f "$pid_file"
    done
    as_root setsid nohup dockerd </dev/null >>"$cache/logs/dockerd.log" 2>&1 9>&- &
    pid=$!
    disown
    date >"$cache/engine-started"
  fi
  until as_root docker info >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ] || { [ -n "$pid" ] && [ ! -d "/proc/$pid" ]; }; then
      tail -n 15 "$cache/logs/dockerd.log" || echo "journalctl -u docker says more"
      return 1
    fi
    sleep 0.5
  done
}

is_process() { [ -e "$1" ] && grep -qsE '^(dockerd|containerd)$' "/proc/$(cat "$1")/comm"; }

needs_engine() { ! reach_engine; }

prepare_engine() {
  if needs_engine; then
    { command -v dockerd && command -v docker; } >/dev/null || command -v apt-get >/dev/null ||
      die "No container engine answers: install Docker (docs.docker.com/engine/install), start it, then type $(again)."
    need_root "Installing or starting a container engine"
    step "Install and start the container engine" \
      "Install and start Docker by hand ($cache/logs/dockerd.log says what went wrong), then type $(again)." raise_engine
    hash -r
    reach_engine || die "The container engine does not answer: start it by hand, then type $(again)."
  fi
}
