# How ./fleet speaks: one line a step with its place and its time; noise goes to a log file. Sourced.
# shellcheck shell=bash

steps_done=0
steps_total=0
steps_pid=

say() { printf '%s\n' "$*"; }

# One sentence: what, where, what to type next.
die() {
  printf '%s\n' "$*" >&2
  exit 1
}

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# What an Ansible run is at, or the last line of any other log.
steps_at() {
  local line
  line=$(tail -c 20000 "$1" 2>/dev/null | grep -aE '^(TASK|RUNNING HANDLER) \[' | tail -n 1)
  [ -n "$line" ] || line=$(tail -c 2000 "$1" 2>/dev/null | tr '\r' '\n' | grep -av '^ *$' | tail -n 1)
  line=${line#TASK }
  line=${line#RUNNING HANDLER }
  printf '%s' "${line%%\**}" | tr -cd '[:print:]'
}

# Show that a step is alive: in a terminal every second in place, elsewhere a line every 20 seconds.
steps_watch() {
  local title=$1 log=$2 start=$SECONDS next=20 passed
  while kill -0 $$ 2>/dev/null; do
    sleep 1
    passed=$((SECONDS - start))
    if [ -t 1 ]; then
      printf '\r\033[K%.*s' "$((${COLUMNS:-100} - 1))" "$title  $(clock "$passed")  $(steps_at "$log")"
    elif [ "$passed" -ge "$next" ]; then
      printf '%s  %s  %.70s\n' "$title" "$(clock "$passed")" "$(steps_at "$log")"
      next=$((passed + 20))
    fi
  done
}

steps_stop_watch() {
  if [ -n "$steps_pid" ]; then
    kill "$steps_pid" 2>/dev/null
    wait "$steps_pid" 2>/dev/null
    steps_pid=
  fi
}

# step "What is done" "What to type when it fails" command...
step() {
  local title=$1 hint=$2 log start=$SECONDS code=0
  shift 2
  steps_done=$((steps_done + 1))
  title="[$steps_done/$steps_total] $title"
  log="$logs/$(printf '%02d' "$steps_done")-$(basename "${1##*:}").log"
  : >"$log"
  [ -t 1 ] || say "$title"
  steps_watch "$title" "$log" 9>&- &
  steps_pid=$!
  "$@" >"$log" 2>&1 </dev/null || code=$?
  steps_stop_watch
  [ -t 1 ] && printf '\r\033[K'
  if [ "$code" -ne 0 ]; then
    say "$title  failed after $(clock $((SECONDS - start))). The last lines of $log:"
    tail -n 25 "$log" | sed 's/^/    /'
    if grep -qaiE 'no space left on device|ENOSPC' "$log"; then
      die "The disk is full: free some space (df -h shows where) and type $(again)."
    fi
    die "$hint"
  fi
  say "$title  $(clock $((SECONDS - start)))"
}
