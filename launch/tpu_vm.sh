#!/usr/bin/env bash
# Cloud TPU: create a slice, install the project, train on its hosts, watch, delete. See --help and launch/README.md.
set -euo pipefail

usage() {
  cat <<'EOF'
Train on a Cloud TPU slice.

  launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [OPTIONS] [-- TRAINER ARGUMENTS]

Commands
  run          all of it: create (if NAME is not there), install, start, follow the log until the run ends; a spot slice
               that is preempted is deleted, created again, and the run continues from its last checkpoint
  create       request the slice NAME and wait until it is there                      COSTS from then on until delete
  install      copy the committed files (git HEAD) to all hosts and install them
  start        start the trainer on all hosts, in the background
  status       state of the slice and of the trainer on each host
  logs         follow the log of one host
  stop         SIGTERM to the trainer on all hosts: it saves and exits; the slice stays and goes on costing
  tensorboard  serve the TensorBoard of --logdir through host 0 at http://localhost:PORT
  delete       delete the slice NAME with its disks; asks for the name first
  list         every TPU VM and queued resource in ZONE: what is costing now (needs no --name)

Options
  --project PROJECT   default: gcloud's own
  --type TYPE         accelerator type, for example v5litepod-16, v5p-32, v6e-8       (run, create)
  --runtime VERSION   default: the one for TYPE                                       (run, create)
  --spot              cheaper, and preempted at any time                              (run, create)
  --price USD         price of a chip-hour, to have the cost per hour stated; https://cloud.google.com/tpu/pricing
  --direct            a TPU VM without a queued resource; give it to every command on that slice
  --nfs SERVER:/PATH  mounted as /mnt/shared on all hosts; put --workdir there        (run, install, start)
  --setup COMMAND     run on every host after the installation, for example another mount (run, install)
  --max-restarts N    restarts after preemptions and crashes together (default 50)    (run)
  --delete-when-done  delete the slice when the run has ended, well or not            (run)
  --worker N          whose log (default 0)                                           (logs)
  --logdir DIR        on the hosts, for example WORKDIR/tensorboard                   (tensorboard)
  --port PORT         default 6006                                                    (tensorboard)
  --poll SECONDS      between looks at the state (default 30)
  --yes               do not ask
  --dry-run           print the gcloud commands, run none

  launch/tpu_vm.sh run --name at-cifar10 --zone us-central1-a --type v5litepod-16 --spot --nfs 10.0.0.2:/share \
      -- --config configs/cifar10.py --workdir /mnt/shared/runs/cifar10

Exit codes of run are the trainer's: 0 finished, 1 diverged or failed, 2 an error of the user's, 143 stopped.
EOF
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=SCRIPTDIR/functions.sh
source "$repository/launch/functions.sh"
# shellcheck source=SCRIPTDIR/tpu_functions.sh
source "$repository/launch/tpu_functions.sh"

# --- run -------------------------------------------------------------------------------------------------------------

costs_on() {
  say "the slice $name is still there and goes on costing; delete it: $0 delete --name $name --zone $zone$direct_option"
}

stop_following() {
  [[ -n $follower ]] || return 0
  pkill -P "$follower" || true
  kill "$follower" 2>/dev/null || true
}

finish() {
  stop_following
  if ((delete_when_done)); then
    say "deleting the slice $name (--delete-when-done)"
    delete_slice || costs_on
  else
    costs_on
  fi
  exit "$1"
}

count_restart() {
  if ((++restarts > max_restarts)); then
    say "$max_restarts restarts: given up (--max-restarts); the same command continues"
    finish 1
  fi
  say "restart $restarts of at most $max_restarts"
}

# A step on the hosts; a preemption may cut it off, so the loop looks again before it despairs.
attempt() {
  if "$@"; then
    failures=0
  elif ((++failures == 3)); then
    say "$1 failed three times in a row"
    finish 1
  else
    sleep "$poll"
    return 1
  fi
}

run_all() {
  local states code may_create=1 started=0
  trap 'stop_following; say "no longer watching; the trainer goes on by itself"; costs_on; exit 130' INT TERM
  while :; do
    wait_while waiting
    case $state in
      absent)
        # Only what this command was asked for, or has itself deleted: not what someone else took away.
        ((may_create)) || { say "the slice $name was deleted by somebody: not created again" && exit 1; }
        say "creating the slice $name"
        if create_slice; then
          may_create=0
        else
          ((restarts)) || { say "not created; what is there: $0 list --zone $zone" && exit 1; }
          count_restart
          sleep "$poll"
        fi
        ;;
      failed)
        say "the request for $name failed: no quota, no capacity, or no such type; $0 status says which"
        finish 1
        ;;
      stopped)
        say "the slice $name was stopped, or its TPU VM deleted, by somebody: left as it is"
        stop_following
        costs_on
        exit 1
        ;;
      lost)
        say "the slice $name was preempted"
        ((spot)) || finish 1
        count_restart
        ((may_create)) && sleep "$poll" # the deletion before this one did not work
        delete_slice || true
        may_create=1
        ;;
      ready)
        may_create=0
        states=$(trainer_states) || { sleep "$poll" && continue; } # the state of the slice will say why
        code=$(verdict "$states")
        case $code in
          absent)
            say "installing"
            attempt install_project || true
            ;;
          restart)
            ((!started)) || count_restart
            say "starting the trainer; hosts were: ${states//$'\n'/ }"
            attempt start_trainer "$@" && started=1
            ;;
          running)
            started=1
            if [[ -z $follower ]] || ! kill -0 "$follower" 2>/dev/null; then
              follow_log 0 &
              follower=$!
            fi
            sleep "$poll"
            ;;
          *)
            say "the trainer has ended on all hosts: $code"
            code=${code/finished/0}
            finish "${code/stopped/143}"
            ;;
        esac
        ;;
    esac
  done
}

# --- arguments -------------------------------------------------------------------------------------------------------

# Chips of an accelerator type: the number after the dash counts cores in the older generations, two to a chip.
chips_of() {
  local generation=${1%-*} number=${1##*-}
  case $generation in
    v5litepod | v6e) echo "$number" ;;
    *) echo $((number / 2)) ;;
  esac
}

state_cost() {
  local chips kind=on-demand until="you delete it: $0 delete --name $name --zone $zone$direct_option"
  local cost="chips x their price an hour (https://cloud.google.com/tpu/pricing; --price computes it)"
  chips=$(chips_of "$type")
  ((!spot)) || kind=spot
  ((!delete_when_done)) || until="the run ends (--delete-when-done)"
  [[ -z $price ]] ||
    cost=$(awk -v n="$chips" -v p="$price" 'BEGIN { printf "%.2f USD an hour, %.0f USD a day", n * p, 24 * n * p }')
  cat >&2 <<EOF
This creates and pays for:
  slice     $name in $zone, $type ($chips chips, $kind), runtime $runtime
  costs     $cost
  until     $until
EOF
}

# Asks for the name, so that a hurried Enter creates and deletes nothing.
confirm() {
  local answer
  ((!yes && !dry_run)) || return 0
  [[ -t 0 ]] || die "$1 needs an answer and there is no terminal; add --yes if you mean it"
  read -r -p "Type $name to $1: " answer
  [[ $answer == "$name" ]] || die "nothing done: '$answer' is not '$name'"
}

command=${1:-}
case $command in
  -h | --help)
    usage
    exit 0
    ;;
  run | create | install | start | status | logs | stop | tensorboard | delete | list) shift ;;
  '') die "no command; see $0 --help" ;;
  *) die "'$command' is no command; see $0 --help" ;;
esac

name='' zone='' type='' runtime='' price='' nfs='' setup='' logdir='' project=()
state='' follower='' failures=0 restarts=0
spot=0 direct=0 yes=0 dry_run=0 delete_when_done=0 worker=0 port=6006 poll=30 max_restarts=50 direct_option=''
while (($#)); do
  option=$1
  shift
  case $option in
    --) break ;;
    -h | --help) usage && exit 0 ;;
    --spot) spot=1 && continue ;;
    --yes) yes=1 && continue ;;
    --dry-run) dry_run=1 && continue ;;
    --delete-when-done) delete_when_done=1 && continue ;;
    --direct) direct=1 direct_option=' --direct' && continue ;;
  esac
  if [[ $option == --*=* ]]; then
    value=${option#*=}
    option=${option%%=*}
  else
    (($#)) || die "$option needs a value, or is no option; see $0 --help"
    value=$1
    shift
  fi
  case $option in
    --name) name=$value ;;
    --zone) zone=$value ;;
    --project) project=("--project=$value") ;;
    --type) type=$value ;;
    --runtime) runtime=$value ;;
    --price) price=$value ;;
    --nfs) nfs=$value ;;
    --setup) setup=$value ;;
    --logdir) logdir=$value ;;
    --worker) worker=$value ;;
    --port) port=$value ;;
    --poll) poll=$value ;;
    --max-restarts) max_restarts=$value ;;
    *) die "'$option' is no option; trainer arguments go after --; see $0 --help" ;;
  esac
done

[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$ ]] || die "--zone = '$zone': no zone; give for example us-central1-a"
[[ $command == list || $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
  die "--name = '$name': give lower-case letters, digits and dashes, beginning with a letter"
[[ -z ${project[*]} || ${project[0]} =~ ^--project=[a-z0-9.:-]+$ ]] || die "${project[0]}: no project id"
[[ -z $price || $price =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--price = '$price': give USD per chip-hour, for example 1.20"
[[ -z $nfs || $nfs =~ ^[A-Za-z0-9.-]+:/[A-Za-z0-9._/-]*$ ]] || die "--nfs = '$nfs': give SERVER:/PATH"
[[ $worker =~ ^[0-9]+$ ]] || die "--worker = '$worker': give a host's number, from 0"
[[ $port =~ ^[0-9]+$ ]] || die "--port = '$port': give a number"
[[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--poll = '$poll': give seconds"
[[ $max_restarts =~ ^[0-9]+$ ]] || die "--max-restarts = '$max_restarts': give a number"
if [[ $command == run || $command == create ]]; then
  [[ $type =~ ^v[0-9]+[a-z]*-[0-9]+$ ]] || die "--type = '$type': give an accelerator type, for example v5litepod-16"
  case ${type%-*} in
    v5litepod) : "${runtime:=v2-alpha-tpuv5-lite}" ;;
    v5p) : "${runtime:=v2-alpha-tpuv5}" ;;
    v6e) : "${runtime:=v2-alpha-tpuv6e}" ;;
    v2 | v3 | v4) : "${runtime:=tpu-ubuntu2204-base}" ;;
    *) [[ -n $runtime ]] || die "--type = '$type': no runtime known for it; give --runtime" ;;
  esac
fi
case $command in
  run | start)
    (($#)) || die "no trainer arguments; give them after --, for example -- --config configs/cifar10.py --workdir DIR"
    [[ " $* " =~ \ --?workdir[=\ ] ]] || die "--workdir is missing among the trainer arguments; name the run's folder"
    ;;
  tensorboard) [[ -n $logdir ]] || die "--logdir is missing; give for example /mnt/shared/runs/cifar10/tensorboard" ;;
esac
if [[ $command == run ]]; then
  case ${type%-*} in
    v5litepod | v6e) chips_per_host=8 ;;
    *) chips_per_host=4 ;;
  esac
  if ((spot || delete_when_done || $(chips_of "$type") > chips_per_host)) && [[ -z $nfs$setup ]]; then
    die "a slice's disks are per host and go with it; give --nfs SERVER:/PATH and --workdir /mnt/shared/..., or --setup"
  fi
fi
((dry_run)) || command -v gcloud >/dev/null || die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

scratch=$(mktemp -d)
errors=$scratch/errors
trap 'rm -rf "$scratch"' EXIT

case $command in
  run)
    state_cost
    confirm "create it and start the run"
    if ((dry_run)); then
      create_slice
      install_project
      start_trainer "$@"
      follow_log 0
      if ((spot)); then
        echo "# after a preemption, at most $max_restarts times; then the three steps above again:"
        delete_slice
        create_slice
      fi
      ((!delete_when_done)) || { echo "# at the end:" && delete_slice; }
    else
      run_all "$@"
    fi
    ;;
  create)
    state_cost
    confirm "create it"
    create_slice
    if ((!dry_run)); then
      wait_while waiting
      [[ $state == ready ]] || die "the slice $name did not get ready ($state): $0 status --name $name --zone $zone"
      costs_on
    fi
    ;;
  install) install_project ;;
  start) start_trainer "$@" ;;
  status)
    ((direct)) || call compute tpus queued-resources describe "$name" "--zone=$zone" "${project[@]}"
    call compute tpus tpu-vm describe "$name" "--zone=$zone" "${project[@]}" \
      "--format=value(state,health,acceleratorType)"
    if ((dry_run)); then on_workers all 'cat ~/jaxrobust/exit'; else trainer_states; fi
    ;;
  logs) follow_log "$worker" ;;
  stop)
    stop_trainer
    ((dry_run)) || costs_on
    ;;
  tensorboard)
    on_workers 0 "jaxrobust/venv/bin/tensorboard --port=$port --logdir=${logdir@Q}" "--ssh-flag=-L$port:localhost:$port"
    ;;
  delete)
    say "this deletes the slice $name in $zone with everything on its disks"
    confirm "delete it"
    delete_slice || {
      say "NOT deleted; one created with --direct is deleted with --direct; what is there: $0 list --zone $zone"
      exit 1
    }
    ;;
  list)
    call compute tpus queued-resources list "--zone=$zone" "${project[@]}"
    call compute tpus tpu-vm list "--zone=$zone" "${project[@]}"
    ;;
esac
