# shellcheck shell=bash
# What tpu_vm.sh does to a slice and to its hosts, one function each. tpu_vm.sh sources this file after functions.sh.
# They read its options: name, zone, project, type, runtime, spot, direct, nfs, setup, poll, dry_run.
# shellcheck disable=SC2154

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

# gcloud, or in a dry run the command that it would be.
call() {
  if ((dry_run)); then
    quoted gcloud "$@"
  else
    gcloud "$@"
  fi
}

# --- the slice -------------------------------------------------------------------------------------------------------

create_slice() {
  local options=("--zone=$zone" "--accelerator-type=$type" "${project[@]}")
  ((!spot)) || options+=(--spot)
  if ((direct)); then
    call compute tpus tpu-vm create "$name" "${options[@]}" "--version=$runtime" --quiet
  else
    call compute tpus queued-resources create "$name" "--node-id=$name" "${options[@]}" "--runtime-version=$runtime" \
      --quiet
  fi
}

delete_slice() {
  if ((direct)); then
    call compute tpus tpu-vm delete "$name" "--zone=$zone" "${project[@]}" --quiet
  else
    call compute tpus queued-resources delete "$name" "--zone=$zone" "${project[@]}" --force --quiet
  fi
}

# State of one resource as gcloud names it, ABSENT if there is none, UNKNOWN if gcloud could not say: an expired login
# or a lost network must not look like a slice that has to be created.
describe() {
  local kind=$1 format=$2 output
  if output=$(gcloud compute tpus "$kind" describe "$name" "--zone=$zone" "${project[@]}" "--format=value($format)" \
    2>"$errors"); then
    printf '%s\n' "$output"
  elif grep -qE 'NOT_FOUND|was not found' "$errors"; then
    echo ABSENT
  else
    say "gcloud: $(tail -n 1 "$errors")"
    echo UNKNOWN
  fi
}

# absent, waiting, ready, lost (preempted), stopped (by somebody), failed or unknown.
slice_state() {
  local queue=ACTIVE node
  ((direct)) || queue=$(describe queued-resources state.state,state.stateInitiator)
  case $queue in
    ABSENT) echo absent ;;
    UNKNOWN) echo unknown ;;
    SUSPENDED*USER) echo stopped ;;
    SUSPENDED*) echo lost ;;
    FAILED*) echo failed ;;
    ACTIVE*)
      node=$(describe tpu-vm state)
      case $node in
        READY) echo ready ;;
        UNKNOWN) echo unknown ;;
        PREEMPTED | TERMINATED) echo lost ;;
        STOPPED) echo stopped ;;
        ABSENT) if ((direct)); then echo absent; else echo waiting; fi ;;
        *) echo waiting ;;
      esac
      ;;
    *) echo waiting ;;
  esac
}

# Waits while the state is one of the given ones; the first other is then in $state.
wait_while() {
  local before='' unknown=0
  while :; do
    state=$(slice_state)
    if [[ $state == unknown ]]; then
      ((++unknown < 20)) || die "gcloud has not answered 20 times; the slice $name may still cost: $0 list --zone $zone"
    elif [[ " $* " != *" $state "* ]]; then
      return
    else
      unknown=0
      [[ $state == "$before" ]] || say "slice $name: $state"
      before=$state
    fi
    sleep "$poll"
  done
}

# --- the hosts -------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2016  # expanded on the host, in ~/jaxrobust
readonly NOT_RUNNING='{ ! kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null || { echo "the trainer is running"; exit 1; }; }'

on_workers() {
  local worker=$1 command=$2
  shift 2
  call compute tpus tpu-vm ssh "$name" "--zone=$zone" "${project[@]}" "--worker=$worker" "--command=$command" --quiet \
    "$@"
}

# A rebooted host has lost the mount, and would write to its own disk.
mount_shared() {
  printf '%s' "{ sudo mkdir -p /mnt/shared; mountpoint -q /mnt/shared || sudo mount -t nfs $nfs /mnt/shared; }"
}

install_project() {
  local archive=/tmp/jaxrobust-source.tar.gz setup_all
  if ((dry_run)); then
    quoted git -C "$repository" archive --format=tar.gz "--output=$archive" HEAD
  else
    archive=$scratch/jaxrobust-source.tar.gz
    [[ -z $(git -C "$repository" status --porcelain) ]] || say "note: uncommitted changes are not installed"
    git -C "$repository" archive --format=tar.gz "--output=$archive" HEAD || return
  fi
  call compute tpus tpu-vm scp "$archive" "$name:jaxrobust-source.tar.gz" "--zone=$zone" "${project[@]}" --worker=all \
    --quiet || return
  # The images bring Python 3.10, the project needs 3.11: uv brings its own.
  # shellcheck disable=SC2016  # expanded on the host
  setup_all='set -e; mkdir -p ~/jaxrobust; cd ~/jaxrobust'
  setup_all+="; $NOT_RUNNING; rm -rf src venv installed; mkdir src; tar -xzf ~/jaxrobust-source.tar.gz -C src"
  setup_all+='; python3 -m pip install --quiet --user uv; python3 -m uv venv --quiet --python 3.12 venv'
  setup_all+='; python3 -m uv pip install --quiet --python venv/bin/python -e "src[tpu]"'
  [[ -z $nfs ]] || setup_all+="; sudo apt-get install -qq -y nfs-common >/dev/null; $(mount_shared)"
  [[ -z $setup ]] || setup_all+="; $setup"
  on_workers all "$setup_all; touch ~/jaxrobust/installed"
}

start_trainer() {
  local trainer command="cd ~/jaxrobust && $NOT_RUNNING"
  [[ -z $nfs ]] || command+=" && $(mount_shared)"
  trainer="JAX_PLATFORMS=tpu,cpu $(quoted ../venv/bin/python -m jaxrobust.main "$@"); echo \$? >../exit"
  command+=" && cd src && rm -f ../exit ../stop"
  command+=" && { nohup setsid bash -c ${trainer@Q} >>../log 2>&1 </dev/null & echo \$! >../pid; }"
  on_workers all "$command"
}

stop_trainer() {
  # shellcheck disable=SC2016  # expanded on the host
  on_workers all 'touch ~/jaxrobust/stop; test -s ~/jaxrobust/pid && pkill -TERM -P "$(cat ~/jaxrobust/pid)" || echo not running'
}

# One word a host: absent, none, running, or exit-CODE, with -asked after a stop.
# shellcheck disable=SC2016  # expanded on the host
trainer_states() {
  local command='cd ~/jaxrobust 2>/dev/null && test -e installed || { echo trainer=absent; exit 0; }'
  command+='; if test -e exit; then echo "trainer=exit-$(cat exit)$(test ! -e stop || echo -asked)"'
  command+='; elif kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then echo trainer=running; else echo trainer=none; fi'
  on_workers all "$command" | grep -o 'trainer=[a-z0-9-]*' | cut -d= -f2
}

# What the hosts' states come to: absent, running, restart, stopped, finished, or the exit code that ends the run.
verdict() {
  any() { grep -qxE "$1" <<<"$states"; }
  local states=$1
  if any 'exit-2(-asked)?'; then
    echo 2 # the cause, where other hosts were cut off
  elif any 'exit-1(-asked)?'; then
    echo 1
  elif any running; then
    echo running
  elif any absent; then
    echo absent
  elif ! any '(none|exit-([1-9].*))'; then
    echo finished
  elif any '.*-asked'; then
    echo stopped
  else
    echo restart
  fi
}

follow_log() {
  on_workers "$1" 'tail -n 200 -F ~/jaxrobust/log'
}
