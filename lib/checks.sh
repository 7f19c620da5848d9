# What ./fleet test runs. Sourced by ./fleet.
# shellcheck shell=bash

check_table=$logs/results
check_names=()
check_commands=()

# One row of the summary: name, passed, failed, seconds. pytest's own counts where the log ends with them.
check_result() {
  local name=$1 code=$2 seconds=$3 log=$4 summary passed failed
  summary=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -aE '^(=+ )?[0-9]+ [a-z]+.* in [0-9.]+s')
  passed=$(grep -oE '[0-9]+ passed' <<<"$summary" | awk '{n += $1} END {if (NR) print n}')
  [ -n "$passed" ] || passed=$([ "$code" -eq 0 ] && echo 1 || echo 0)
  failed=$(grep -oE '[0-9]+ (failed|error)' <<<"$summary" | awk '{n += $1} END {if (NR) print n}')
  [ -n "$failed" ] || failed=$([ "$code" -eq 0 ] && echo 0 || echo 1)
  printf '%s\t%s\t%s\t%s\n' "$name" "$passed" "$failed" "$seconds" >>"$check_table"
}

check() {
  check_names+=("$1")
  check_commands+=("$2")
}

checks_without_machines() {
  check ansible-lint 'ansible-lint --offline --strict'
  check yamllint 'yamllint --strict .'
  check shellcheck 'git grep -lIE "^#!.*bash" | xargs shellcheck --external-sources --check-sourced'
  check ruff 'ruff check . && ruff check app'
  check mypy 'mypy && cd app && mypy'
  check 'tests/' 'pytest -q -n 2 --dist loadfile tests'
  check 'app/tests/unit' 'cd app && pytest -q tests/unit'
}

checks_on_containers() {
  check_names=() check_commands=()
  check 'tests/standin' 'pytest -q -n 3 --dist loadfile tests/standin'
  check 'app/tests/integration' 'cd app && pytest -q -n 2 --dist loadfile tests/integration'
}

# All of them at once; each writes its own log, and a failed one shows its end.
run_side_by_side() {
  local index failed=0 pids=()
  for index in "${!check_names[@]}"; do
    (
      # A failed check is counted, not fled from.
      set +e
      start=$SECONDS code=0
      log=$logs/check-$index.log
      bash -c "${check_commands[index]}" >"$log" 2>&1 || code=$?
      check_result "${check_names[index]}" "$code" "$((SECONDS - start))" "$log"
      echo "$([ "$code" -eq 0 ] && echo passed || echo failed): ${check_names[index]}"
      exit "$code"
    ) &
    pids+=($!)
  done
  for index in "${!check_names[@]}"; do
    wait "${pids[index]}" && continue
    failed=1
    printf '\n%s (%s):\n' "${check_commands[index]}" "$logs/check-$index.log"
    tail -n 15 "$logs/check-$index.log"
  done
  return "$failed"
}

# side_by_side "What is done": the checks named last; ends ./fleet when one fails.
side_by_side() {
  attempt "$1" run_side_by_side
  [ "$step_code" -eq 0 ] && return
  cat "$step_log"
  die "Put right what the checks above found, then type $(again)."
}

# on_stand_ins SCENARIO: one step, one row of the summary; ends ./fleet when it fails.
on_stand_ins() {
  local name="molecule $1"
  attempt "$name" molecule_scenario "$1"
  check_result "$name" "$step_code" "$step_seconds" "$step_log"
  [ "$step_code" -eq 0 ] || step_failed "$name failed: see $step_log, then type $(again)."
}

molecule_scenario() { molecule test --no-command-borders --scenario-name "$1"; }

# The table of durations, then the line that counts everything.
check_summary() {
  [ -s "$check_table" ] || return
  printf '\n%-28s %8s %8s %8s\n' check passed failed time
  sort "$check_table" | awk -F '\t' -v all="$(clock $((SECONDS - $1)))" '
    {printf "%-28s %8d %8d %5d:%02d\n", $1, $2, $3, $4 / 60, $4 % 60; passed += $2; failed += $3}
    END {printf "\n%s in all\n%d passed, %d failed\n", all, passed, failed}'
}
