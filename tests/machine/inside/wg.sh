#!/usr/bin/env bash
# wg.sh KIND_OF_A KIND_OF_B NAME FACT... (in the machine): two WireGuard devices, "kernel" or "causeway", in two namespaces joined by
# a cable; A begins every handshake. NAME keeps runs at the same time apart.
set -uo pipefail
kinds=("$1" "$2") name=$3; shift 3
a=wa$name b=wb$name folder=/run/wg-$name failed=0
spaces=("$a" "$b")

in_() { ip netns exec "$@"; }
pass() { echo "ok    ${kinds[0]} to ${kinds[1]}: $*"; }
fail() { echo "FAIL  ${kinds[0]} to ${kinds[1]}: $*"; failed=1; }
expect() { if [ "$2" = "$3" ]; then pass "$1: $2"; else fail "$1: '$2' instead of '$3'"; fi; }

clean() {
  local space
  for space in "${spaces[@]}"; do ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null; done
  # The socket goes when the process has ended.
  for space in "${spaces[@]}"; do
    for _ in $(seq 100); do [ -n "$(ip netns pids "$space" 2>/dev/null)" ] || break; sleep 0.1; done
    ip netns del "$space" 2>/dev/null
  done
}
trap clean EXIT

device() { # device INDEX: key, device, addresses
  local space=${spaces[$1]} n=$(($1 + 1))
  ip -n "$space" addr add 10.9.0.$n/24 dev e0
  ip -n "$space" addr add fd09::$n/64 dev e0 nodad
  ip -n "$space" link set e0 up
  (umask 077; wg genkey >"$folder/$space.key")
  wg pubkey <"$folder/$space.key" >"$folder/$space.pub"
  if [ "${kinds[$1]}" = kernel ]; then ip -n "$space" link add "$space" type wireguard
  else in_ "$space" causeway-wg "$space" || fail 'causeway-wg does not start'; fi
  ip -n "$space" addr add 10.8.0.$n/24 dev "$space"
  ip -n "$space" addr add fd08::$n/64 dev "$space" nodad
  in_ "$space" wg set "$space" private-key "$folder/$space.key" listen-port $((51821 + $1))
  ip -n "$space" link set "$space" mtu 1420 up
}

up() { # up [ENDPOINT_OF_B]: both devices, new
  clean
  mkdir -p "$folder"
  local space
  for space in "${spaces[@]}"; do ip netns add "$space"; ip -n "$space" link set lo up; done
  ip -n "$a" link add e0 type veth peer name e0 netns "$b"
  device 0
  device 1
  in_ "$a" wg set "$a" peer "$(cat "$folder/$b.pub")" allowed-ips 10.8.0.2/32,fd08::2/128 endpoint "${1:-10.9.0.2:51822}"
  in_ "$b" wg set "$b" peer "$(cat "$folder/$a.pub")" allowed-ips 10.8.0.1/32,fd08::1/128
}

# Five pings, one at a time: after an answer, ping waits only twice the round trip for the next, which a busy machine exceeds.
lost() {
  local lost=0
  for _ in 1 2 3 4 5; do in_ "$1" ping -q -n -c 1 -W "${patience:-10}" "${@:2}" >/dev/null 2>&1 || lost=$((lost + 1)); done
  echo "$lost of 5 lost"
}
# The first answer may take a handshake, and its repetition, under load.
answers() { for _ in $(seq 20); do in_ "$1" ping -q -n -c 1 -W 2 "$2" >/dev/null 2>&1 && return; done; return 1; }
endpoint() { in_ "$1" wg show "$1" endpoints | cut -f2; }
handshake() { in_ "$1" wg show "$1" latest-handshakes | cut -f2; }

basic() {
  up
  answers "$a" 10.8.0.2
  expect 'IPv4 inside' "$(lost "$a" 10.8.0.2)" '0 of 5 lost'
  expect 'IPv6 inside' "$(lost "$a" fd08::2)" '0 of 5 lost'
  expect 'the other way' "$(lost "$b" 10.8.0.1)" '0 of 5 lost'
}

six() {
  up '[fd09::2]:51822'
  answers "$a" 10.8.0.2
  expect 'IPv6 outside' "$(lost "$a" 10.8.0.2)" '0 of 5 lost'
  expect 'B sees A by IPv6' "$(endpoint "$b" | cut -d: -f1,2,3)" '[fd09::1]'
}

psk() {
  up
  (umask 077; wg genpsk >"$folder/psk")
  in_ "$a" wg set "$a" peer "$(cat "$folder/$b.pub")" preshared-key "$folder/psk"
  expect 'a preshared key at one end only' "$(patience=1 lost "$a" 10.8.0.2)" '5 of 5 lost'
  in_ "$b" wg set "$b" peer "$(cat "$folder/$a.pub")" preshared-key "$folder/psk"
  answers "$a" 10.8.0.2
  expect 'a preshared key at both' "$(lost "$a" 10.8.0.2)" '0 of 5 lost'
}

sizes() {
  up
  answers "$a" 10.8.0.2
  expect '1420 bytes whole' "$(lost "$a" 10.8.0.2 -M do -s 1392)" '0 of 5 lost'
  expect '10000 bytes in fragments' "$(lost "$a" 10.8.0.2 -s 9972)" '0 of 5 lost'
  ip -n "$a" link set "$a" mtu 1280
  ip -n "$b" link set "$b" mtu 1280
  expect 'an MTU of 1280 set while up' "$(lost "$a" 10.8.0.2 -M do -s 1252)" '0 of 5 lost'
}

keepalive() {
  up
  answers "$a" 10.8.0.2
  in_ "$a" wg set "$a" peer "$(cat "$folder/$b.pub")" persistent-keepalive 1
  local before; before=$(in_ "$b" wg show "$b" transfer | cut -f2)
  for _ in $(seq 300); do
    [ "$(in_ "$b" wg show "$b" transfer | cut -f2)" -ge $((before + 128)) ] && { pass 'four keepalives arrive'; return; }
    sleep 0.2
  done
  fail 'four keepalives arrive'
}

roam() {
  up
  answers "$a" 10.8.0.2
  ip -n "$a" addr add 10.9.0.77/32 dev e0
  ip -n "$a" route replace 10.9.0.2/32 dev e0 src 10.9.0.77
  ip -n "$a" addr del 10.9.0.1/24 dev e0
  answers "$a" 10.8.0.2
  expect 'A moves' "$(lost "$a" 10.8.0.2)" '0 of 5 lost'
  expect 'B sees A move' "$(endpoint "$b")" 10.9.0.77:51821
  ip -n "$b" addr add 10.9.0.88/32 dev e0
  ip -n "$b" route replace 10.9.0.77/32 dev e0 src 10.9.0.88
  ip -n "$a" route replace 10.9.0.88/32 dev e0 src 10.9.0.77
  ip -n "$b" addr del 10.9.0.2/24 dev e0
  answers "$b" 10.8.0.1
  expect 'B moves and speaks first' "$(lost "$b" 10.8.0.1)" '0 of 5 lost'
  expect 'A sees B move' "$(endpoint "$a")" 10.9.0.88:51822
}

# Nothing is lost when the session is replaced, which A does two minutes after it was made.
rekey() {
  up
  answers "$a" 10.8.0.2
  local first; first=$(handshake "$a")
  in_ "$a" ping -n -i 0.2 -c 700 10.8.0.2 >"$folder/ping"
  expect 'a second handshake' "$([ "$(handshake "$a")" -gt "$first" ] && echo seen)" seen
  # The last answer may be later than ping waits for it; one before it may not be missing.
  expect 'across it, answers missing' "$(sed -n 's/.*icmp_seq=\([0-9]*\) .*/\1/p' "$folder/ping" | sort -un |
    awk '{ last = $1 } END { print last < 690 ? "most" : last - NR }')" 0
}

# What both ends counted, when something failed.
evidence() {
  local space
  for space in "${spaces[@]}"; do
    echo "--- $space"
    in_ "$space" wg show
    ip -n "$space" -s link
    in_ "$space" cat /proc/net/snmp | grep -E '^(Udp|Icmp):'
  done
}

for fact; do
  before=$failed failed=0
  "$fact"
  [ $failed -eq 0 ] || evidence
  failed=$((before | failed))
done
exit $failed
