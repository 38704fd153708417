# shellcheck shell=bash
# What every check begins with. A check prints one line per fact, goes on after a false one, and fails if there was any.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/vm.sh"
. "$HERE/world.sh"

failed=0
pass() { printf 'ok    %s\n' "$*"; }
fail() { printf 'FAIL  %s\n' "$*"; failed=1; }
note() { printf '      %s\n' "$*"; }
trap 'status=$?; [ $status -ne 0 ] || status=$failed; exit $status' EXIT

# expect WHAT GOT WANTED
expect() { if [ "$2" = "$3" ]; then pass "$1: $2"; else fail "$1: '$2' instead of '$3'"; fi; }

# holds WHAT COMMAND...
holds() { local what=$1; shift; if "$@"; then pass "$what"; else fail "$what"; fi; }

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
  local limit=$1 what=$2 begin=$SECONDS; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $((SECONDS - begin)) -lt "$limit" ] || { fail "$what (waited ${limit} s)"; return 1; }
    sleep 0.3
  done
  pass "$what"
}

# A file as it is, by its hash.
sha() { sha256sum | cut -d' ' -f1; }

# both_ways 4|6: the same bytes arrive, down and up.
both_ways() {
  local sum; sum=$(sha <"$RUN/origin/www/big")
  expect "8 MB down over IPv$1" "$(get "$1" /big | sha)" "$sum"
  expect "8 MB up over IPv$1" "$(get "$1" /sha256 -T "$RUN/origin/www/big")" "$sum"
}

# steps HEADING N [FOLDER]: the Nth block of commands below a heading of README, or of DOCUMENT, in the machine, in the built tree.
steps() {
  { echo "set -eux; cd ${3:-/root/causeway}"; "$HERE/readme" "$1" sh "$2"; } | vm 'cat >/root/steps'
  vm 'sh /root/steps 2>&1'
}

# provoked REGEX: a line of the journal that this check is the cause of, whole.
provoked() { printf '^ *[0-9]+ %s$\n' "$1" >>"$RUN/provoked"; }

property() { vm systemctl show -p "$2" --value "$1"; }

# across WHAT COMMAND...: a download that is under way when the command is given arrives whole.
across() {
  local what=$1 file=$RUN/download download; shift
  rm -f "$file"
  get 4 /big --max-time 400 --limit-rate 500k -o "$file" & download=$!
  await 60 "$what: a download has begun" test -s "$file"
  "$@"
  wait $download || fail "$what: the download broke off"
  expect "$what: the download" "$(sha <"$file")" "$(sha <"$RUN/origin/www/big")"
}
