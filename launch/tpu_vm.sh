#!/usr/bin/env bash
# restem on a TPU VM slice, with gcloud alone.
#
#   launch/tpu_vm.sh VERB [--dry_run] [RESTEM ARGUMENTS ...]
#
# verbs: create, install, run, logs, stop, delete, or `all` (create, install, run).
# Settings come from the environment:
#   NAME=restem ZONE=us-east5-a TYPE=v5p-128 VERSION=v2-alpha-tpuv5 [PROJECT=...] [SPOT=1]
#   SOURCE=.        the checkout that is copied to every worker
#
#   NAME=math ZONE=us-east5-a TYPE=v5p-128 launch/tpu_vm.sh all \
#       --gin_file=restem_math.gin --gin_file=hardware/v5p_64.gin \
#       --gin.MODEL=hf:/models/gemma-3-27b-pt --workdir=gs://bucket/runs/math
#
# Workers that are preempted, or lose another one, start again by themselves and go on. Where the
# slice itself was taken away, `create`, `install` and `run` with the same arguments go on.
set -euo pipefail

NAME=${NAME:-restem}
ZONE=${ZONE:-us-east5-a}
TYPE=${TYPE:-v5p-128}
VERSION=${VERSION:-v2-alpha-tpuv5}
SOURCE=${SOURCE:-.}
DRY_RUN=0

usage() { sed -n '2,16p' "$0" | sed 's/^# \{0,1\}//'; }

[[ $# -gt 0 ]] || { usage >&2; exit 2; }
VERB=$1
shift
ARGUMENTS=()
for argument in "$@"; do
  if [[ $argument == --dry_run ]]; then DRY_RUN=1; else ARGUMENTS+=("$argument"); fi
done

WHERE=(--zone="$ZONE")
if [[ -n ${PROJECT:-} ]]; then WHERE+=(--project="$PROJECT"); fi

# Runs a command, or prints it so that it can be pasted.
run() {
  if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=all --command="$1"
}

create() {
  local options=(--accelerator-type="$TYPE" --version="$VERSION")
  if [[ -n ${SPOT:-} ]]; then options+=(--spot); fi
  run gcloud compute tpus tpu-vm create "$NAME" "${WHERE[@]}" "${options[@]}"
}

install() {
  local archive
  archive=$(mktemp -u "${TMPDIR:-/tmp}/restem-XXXXXX.tar.gz")
  run tar --exclude=.git --exclude=.venv --exclude=runs -C "$SOURCE" -czf "$archive" .
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:restem.tar.gz" "${WHERE[@]}" --worker=all
  run rm -f "$archive"
  on_all_workers 'mkdir -p restem && tar -xzf restem.tar.gz -C restem && python3 -m venv restem-env && restem-env/bin/pip install -q -U pip "jax[tpu]" "./restem[gcs]"'
}

start() {
  [[ ${#ARGUMENTS[@]} -gt 0 ]] || { echo "tpu_vm.sh run: give restem's arguments, such as --gin_file=restem_math.gin --workdir=gs://..." >&2; exit 2; }
  local quoted
  quoted=$(printf '%q ' "${ARGUMENTS[@]}")
  # Detached, so that a lost connection does not end the run; its exit code is the log's last line.
  # 75, 76, 134: preempted, or another worker was lost; all start again.
  on_all_workers "cd restem && nohup sh -c 'while :; do ../restem-env/bin/restem run $quoted; code=\$?; echo exit code \$code; case \$code in 75|76|134) sleep 10 ;; *) break ;; esac; done' >> ../restem.log 2>&1 < /dev/null & echo \$! > restem.pid"
}

logs() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker="${WORKER:-0}" --command='tail -n 100 -f restem.log'
}

case $VERB in
  create) create ;;
  install) install ;;
  run) start ;;
  logs) logs ;;
  # [r] so that the pattern does not match the shell that holds it; the loop around restem ends too.
  stop) on_all_workers 'pkill -TERM -f "[r]estem-env/bin/restem" || true' ;;
  delete) run gcloud compute tpus tpu-vm delete "$NAME" "${WHERE[@]}" --quiet ;;
  all) create; install; start ;;
  *) echo "tpu_vm.sh: unknown verb $VERB" >&2; usage >&2; exit 2 ;;
esac
