# How ./fleet speaks: one line a step with its place and its time; noise goes to a log file. Sourced.
# shellcheck shell=bash

# Set by attempt.
step_code=0
step_seconds=0
step_log=

steps_done=0
steps_total=0
steps_watcher=
steps_child=

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

# End the step and all that it started; ansible-playbook heeds INT, and nothing outlives KILL.
steps_end_child() {
  local deadline=$((SECONDS + 10))
  kill -INT -- "-$steps_child" 2>/dev/null
  while kill -0 -- "-$steps_child" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do
    sleep 0.2
  done
  kill -KILL -- "-$steps_child" 2>/dev/null
}

# Show that a step is alive: in a terminal every second in place, elsewhere a line every 20 seconds.
# When ./fleet itself is gone (kill -9), end the step, so that the next run finds nobody at work.
steps_watch() {
  local title=$1 log=$2 start=$SECONDS next=20 passed
  while sleep 1; do
    grep -qs "^PPid:[[:space:]]*$$\$" "/proc/$BASHPID/status" || { steps_end_child; exit; }
    passed=$((SECONDS - start))
    if [ -t 1 ]; then
      printf '\r\033[K%.*s' "$((${COLUMNS:-100} - 1))" "$title  $(clock "$passed")  $(steps_at "$log")"
    elif [ "$passed" -ge "$next" ]; then
      printf '%s  %s  %.70s\n' "$title" "$(clock "$passed")" "$(steps_at "$log")"
      next=$((passed + 20))
    fi
  done
}

steps_interrupt() {
  trap - INT TERM HUP
  steps_stop_watch
  if [ -n "$steps_child" ]; then
    steps_end_child
    wait "$steps_child" 2>/dev/null
  fi
  printf '\nInterrupted: type %s to go on from here.\n' "$(again)" >&2
  exit 130
}

steps_stop_watch() {
  if [ -n "$steps_watcher" ]; then
    kill "$steps_watcher" 2>/dev/null
    wait "$steps_watcher" 2>/dev/null
    steps_watcher=
  fi
}

# attempt "What is done" command...: run it and set step_code and step_seconds.
# Always returns 0 and must not stand in a condition: bash would then run the functions of a step without -e.
attempt() {
  local title=$1 start=$SECONDS
  shift
  steps_done=$((steps_done + 1))
  title="[$steps_done/$steps_total] $title"
  step_log="$logs/$(printf '%02d' "$steps_done")-$(basename "$1").log"
  step_code=0
  : >"$step_log"
  [ -t 1 ] || say "$title"
  # A process group of its own, so that all of it can be ended; -e, so that a function stops where it fails.
  set -m
  (set -e; "$@") >"$step_log" 2>&1 </dev/null &
  steps_child=$!
  set +m
  steps_watch "$title" "$step_log" 9>&- &
  steps_watcher=$!
  wait "$steps_child" || step_code=$?
  steps_child=
  steps_stop_watch
  step_seconds=$((SECONDS - start))
  [ -t 1 ] && printf '\r\033[K'
  say "$title  $([ "$step_code" -eq 0 ] || echo "failed after ")$(clock "$step_seconds")"
}

# step "What is done" "What to type when it fails" command...
step() {
  local title=$1 hint=$2
  shift 2
  attempt "$title" "$@"
  [ "$step_code" -eq 0 ] || step_failed "$hint"
}

# The sentences of the errors in an Ansible log, each once.
ansible_errors() {
  awk '/^\[ERROR\]: / {sub(/^\[ERROR\]: (Task failed: )?((Action|Module) failed: )?/, ""); on = 1}
    /^(Origin:|fatal:|$)/ {on = 0}
    on && !seen[$0]++' "$1"
}

# Say what failed: Ansible's own sentences, else the end of the step's log. Then what to type.
step_failed() {
  local lines
  lines=$(ansible_errors "$step_log")
  # A command's "non-zero return code" alone says nothing.
  grep -qv '^non-zero return code$' <<<"$lines" && [ -n "$lines" ] || lines=$(tail -n 25 "$step_log")
  say "$lines" | sed 's/^/    /'
  say "    ($step_log)"
  if grep -qaiE 'no space left on device' "$step_log"; then
    die "The disk is full: free some space (df -h shows where), then type $(again)."
  fi
  die "$1"
}
