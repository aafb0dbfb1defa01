# shellcheck shell=bash
# What gpu_node.sh and tpu_vm.sh share. The SLURM scripts do not source it: sbatch runs a copy of a script in another
# folder, so each of them is self-contained.

# Print an error and exit with 2, the code of an error of the user's.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# The arguments on one line, quoted so that a shell reads the same words.
quoted() {
  local word line=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s\n' "${line% }"
}
