#!/usr/bin/env bash
# Shows that the CUDA backend is right on this machine's GPU, from a checkout that `npm run build:cuda` has built:
# the contract table with every kernel forced, the goldens, the limits, and compute-sanitizer over the reduced table.
#   bench/cuda-check.sh [results folder]     default .cache/cuda-check; about 3 minutes on 16 cores
# OCTET names another command line than this checkout's, SKIP steps to leave out: "limits racecheck".
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$here/.cache/cuda-check}
octet=${OCTET:-node $here/packages/octet/bin/octet.js}
waivers=$here/bench/cuda-waivers.txt
mkdir -p "$out"
failed=0 steps=0

step() { # NAME COMMAND...: runs it into NAME.log, prints its last line
  local name=$1; shift
  case " ${SKIP:-} " in *" $name "*) echo "skip $name"; return ;; esac
  local begin=$SECONDS
  steps=$((steps + 1))
  if "$@" >"$out/$name.log" 2>&1; then echo "ok   $name ($((SECONDS - begin)) s): $(grep -v '^octet:' "$out/$name.log" | tail -1)"
  else failed=$((failed + 1)); echo "FAIL $name ($((SECONDS - begin)) s): see $out/$name.log"; grep -E '^(FAIL|octet:|=========)' "$out/$name.log" | head -5; fi
}

# One tool over the reduced table, ops side by side; ops that the waivers name for it are left out, and said.
sanitize() {
  local tool=$1 folder=$out/$1 code=0
  rm -rf "$folder"; mkdir -p "$folder"
  local ops; ops=$($octet verify --device cuda --mode support | awk '/cuda:0/ {print $1}')
  for op in $ops; do
    if grep -q "^$tool $op " "$waivers"; then echo "waived: $(grep "^$tool $op " "$waivers")"; else echo "$op"; fi
  done >"$folder/list"
  grep '^waived' "$folder/list"
  # shellcheck disable=SC2016
  grep -v '^waived' "$folder/list" | TOOL=$tool FOLDER=$folder OCTET_COMMAND=$octet xargs -P "$(nproc)" -I{} sh -c \
    'compute-sanitizer --tool "$TOOL" --error-exitcode 9 $OCTET_COMMAND verify --device cuda --reduced --jobs 1 --op {} >"$FOLDER/{}.log" 2>&1 || { echo "FAIL $TOOL {}"; grep -E "^(FAIL|=========)" "$FOLDER/{}.log" | head -8; exit 1; }' || code=1
  echo "$tool: $(grep -vc '^waived' "$folder/list") ops, $(cat "$folder"/*.log | sed -n 's/^CUDA: \([0-9]*\) cases.*/\1/p' | paste -sd+ | sed 's/^$/0/' | xargs -I{} sh -c 'echo $(({}))') cases"
  return $code
}

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
step table $octet verify --device cuda
step goldens $octet verify --device cuda --goldens "$here/fixtures"
step limits $octet verify --device cuda --limits "$here/fixtures/fairy-llama"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck synccheck racecheck; do step $tool sanitize $tool; done
else
  echo 'compute-sanitizer was not found: NOT RUN (memcheck, synccheck, racecheck)'
fi
echo "cuda-check: $steps steps, $failed failed"
[ "$failed" -eq 0 ]
