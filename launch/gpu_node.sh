#!/usr/bin/env bash
# Train on one node with one or several GPUs, and start again after a crash. See --help and launch/README.md.
set -euo pipefail

usage() {
  cat <<'EOF'
Train on this machine: one process drives all its GPUs.

  launch/gpu_node.sh [OPTIONS] -- TRAINER ARGUMENTS

  --gpus LIST        use these GPUs alone, for example 0,1 (default: all that nvidia-smi shows)
  --python PATH      interpreter of the environment the project is installed in (default: python)
  --log FILE         append everything to FILE as well (default: WORKDIR.log)
  --max-restarts N   starts after crashes (default 10)
  --wait SECONDS     before such a start (default 10)
  --deterministic    the same bits after every restart, at some cost in speed
  --dry-run          print the command, run nothing

  launch/gpu_node.sh -- --config configs/cifar10.py --workdir runs/cifar10

Started again: after a crash (killed, out of memory, lost GPU). Not started again: exit 0 (finished), 1 (diverged, or a
bug), 2 (an error of the user's). Ctrl-C and SIGTERM are passed on: the trainer saves and exits with 130 or 143, and the
same command continues. JAX_PLATFORMS, if set, is kept (default cuda,cpu, which fails where no GPU is found).
EOF
}

say() { printf '%s gpu_node.sh: %s\n' "$(date -u +%FT%TZ)" "$*"; }

# shellcheck source=SCRIPTDIR/functions.sh
source "$(dirname "${BASH_SOURCE[0]}")/functions.sh"

workdir_of() {
  local previous='' argument workdir=''
  for argument in "$@"; do
    [[ $previous != --workdir && $previous != -workdir ]] || workdir=$argument
    [[ $argument != --workdir=* && $argument != -workdir=* ]] || workdir=${argument#*=}
    previous=$argument
  done
  printf '%s' "$workdir"
}

gpus='' python=python log='' max_restarts=10 wait_seconds=10 deterministic=0 dry_run=0
while (($#)); do
  option=$1
  shift
  case $option in
    --) break ;;
    -h | --help) usage && exit 0 ;;
    --deterministic) deterministic=1 && continue ;;
    --dry-run) dry_run=1 && continue ;;
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
    --gpus) gpus=$value ;;
    --python) python=$value ;;
    --log) log=$value ;;
    --max-restarts) max_restarts=$value ;;
    --wait) wait_seconds=$value ;;
    *) die "'$option' is no option; trainer arguments go after --; see $0 --help" ;;
  esac
done
(($#)) || die "no trainer arguments; give them after --, for example -- --config configs/cifar10.py --workdir DIR"
workdir=$(workdir_of "$@")
[[ -n $workdir ]] || die "--workdir is missing among the trainer arguments; name the run's folder"
[[ -z $gpus || $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--gpus = '$gpus': give numbers, for example 0,1"
[[ $max_restarts =~ ^[0-9]+$ ]] || die "--max-restarts = '$max_restarts': give a number"
[[ $wait_seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--wait = '$wait_seconds': give seconds"
: "${log:=${workdir%/}.log}"

environment=("JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}")
[[ -z $gpus ]] || environment+=("CUDA_VISIBLE_DEVICES=$gpus")
((!deterministic)) || environment+=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_gpu_deterministic_ops=true")
launch=(env "${environment[@]}" "$python" -m jaxrobust.main "$@")

if ((dry_run)); then
  printf '%s 2>&1 | tee -a %s\n' "$(quoted "${launch[@]}")" "$(quoted "$log")"
  exit 0
fi

command -v "$python" >/dev/null || die "--python = '$python': no such command; give the interpreter of the environment"
if [[ ${environment[0]} == *=cuda* ]]; then
  command -v nvidia-smi >/dev/null || die "nvidia-smi is not there, so no GPU; JAX_PLATFORMS=cpu trains on processors"
  nvidia-smi ${gpus:+"--id=$gpus"} --query-gpu=index,name,memory.used,memory.total --format=csv ||
    die "nvidia-smi does not see these GPUs (above); correct --gpus, or look at the driver"
  busy=$(nvidia-smi ${gpus:+"--id=$gpus"} --query-compute-apps=pid --format=csv,noheader)
  [[ -z $busy ]] || say "note: other processes use these GPUs, and JAX takes most of the memory: ${busy//$'\n'/ }"
fi
mkdir -p "$(dirname "$log")"
# Ctrl-C reaches all of a terminal's processes; the log has to outlive the trainer's last words.
exec > >(trap '' INT TERM && exec tee -a "$log") 2>&1
tee=$!
trap 'exec >&- 2>&-; wait "$tee"' EXIT

asked=0
# Always SIGTERM: bash starts background processes deaf to SIGINT.
# shellcheck disable=SC2317  # called by trap
pass_on() {
  asked=$((asked + 1))
  [[ -z $trainer ]] || kill -TERM "$trainer" 2>/dev/null || true
}

restarts=0 trainer=''
trap pass_on TERM INT
while :; do
  say "start $((restarts + 1)): $(quoted "${launch[@]}")"
  "${launch[@]}" &
  trainer=$!
  while :; do
    signalled=$asked
    code=0
    wait "$trainer" || code=$?
    ((asked != signalled)) || break # a signal ends wait, not the trainer
  done
  case $code in
    0) say "finished; if this machine costs by the hour, stop it" && exit 0 ;;
    1 | 2) say "the trainer ended with exit code $code: not started again" && exit "$code" ;;
  esac
  ((!asked)) || { say "stopped (exit code $code); the same command continues" && exit "$code"; }
  if ((restarts == max_restarts)); then
    say "exit code $code after $restarts restarts: given up (--max-restarts); the same command continues"
    exit "$code"
  fi
  ((++restarts))
  say "exit code $code: started again in $wait_seconds s ($restarts of at most $max_restarts)"
  trainer=''
  sleep "$wait_seconds"
  ((!asked)) || exit "$code"
done
