#!/usr/bin/env bash
# edge.sh up PUBLIC_KEY_OF_THE_ORIGIN | checks | down (in the machine): a kernel WireGuard edge in the namespace "edge", with a client
# behind its addresses, for the machine's own forwarder.service and a web server behind it.
set -uo pipefail
folder=/run/edge failed=0
pass() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; failed=1; }
expect() { if [ "$2" = "$3" ]; then pass "$1: $2"; else fail "$1: '$2' instead of '$3'"; fi; }
get() { ip netns exec edge curl -s --max-time 300 --interface 203.0.113.77 "http://192.168.88.2:443$1" "${@:2}"; }
served() { [ "$(get /ip --max-time 5)" = 203.0.113.77 ]; }
await() { # await WHAT COMMAND...: two minutes at most
  local what=$1 begin=$SECONDS; shift
  until "$@" >/dev/null 2>&1; do [ $((SECONDS - begin)) -lt 120 ] || { fail "$what (waited 120 s)"; return 1; }; sleep 0.3; done
  pass "$what"
}

web() {
  mkdir -p $folder/www
  head -c 4000000 /dev/urandom >$folder/www/big
  cat >$folder/nginx.conf <<CONF
user root; pid $folder/nginx.pid; error_log $folder/nginx.log;
events {}
http {
  access_log off; client_body_temp_path $folder/body;
  server {
    listen 127.0.0.1:8443 proxy_protocol;
    root $folder/www;
    location /slow { alias $folder/www/big; limit_rate 22k; }
    location /ip { default_type text/plain; return 200 "\$proxy_protocol_addr"; }
  }
}
CONF
  nginx -c $folder/nginx.conf
}

up() {
  mkdir -p $folder
  (umask 077; wg genkey >$folder/key)
  wg pubkey <$folder/key >$folder/public
  ip netns add edge
  ip -n edge link set lo up
  ip -n edge addr add 203.0.113.77/32 dev lo
  ip link add up0 type veth peer name eth0 netns edge
  ip addr add 10.9.0.2/24 dev up0
  ip link set up0 up
  ip -n edge addr add 10.9.0.1/24 dev eth0
  ip -n edge link set eth0 up
  ip -n edge link add wg0 type wireguard
  ip -n edge addr add 10.77.88.1/30 dev wg0
  ip netns exec edge wg set wg0 private-key $folder/key listen-port 51820 peer "$1" allowed-ips 10.77.88.2/32,192.168.88.0/24
  ip -n edge link set wg0 mtu 1420 up
  ip -n edge route add 192.168.88.0/24 dev wg0
  web
}

# across WHAT COMMAND...: a download that is under way when the command is given arrives whole.
across() {
  local what=$1 download; shift
  rm -f $folder/download
  get /big --limit-rate 400k -o $folder/download & download=$!
  await "$what: a download has begun" test -s $folder/download
  "$@"
  wait $download
  cmp -s $folder/download $folder/www/big && pass "$what: the download is whole" || fail "$what: the download"
}

handshake() { ip netns exec edge wg show wg0 latest-handshakes | cut -f2; }

restarts() { systemctl show -p NRestarts --value forwarder; }
more_than() { [ "$(restarts)" -gt "$1" ]; }
killed() { # killed WHAT SIGNAL
  local before; before=$(restarts)
  kill "-$2" "$(systemctl show -p MainPID --value forwarder)"
  await "$1: systemd started it again" more_than "$before"
  await "$1: served" served
}

checks() {
  await 'the address of the client, over the kernel WireGuard' served
  expect 'a file' "$(get /big | sha256sum)" "$(sha256sum <$folder/www/big)"
  # Three minutes, in which the session is replaced (two minutes after it was made).
  local first slow; first=$(handshake)
  get /slow -o $folder/slow & slow=$!
  # Damaged datagrams of a peer on the same machine once stopped the kernel's receive call.
  ip netns exec edge tc qdisc replace dev eth0 root netem delay 20ms 5ms loss 1% reorder 25% duplicate 2% corrupt 1%
  tc qdisc replace dev up0 root netem delay 20ms 5ms loss 1% reorder 25% duplicate 2% corrupt 1%
  expect 'a file through a faulty path' "$(get /big | sha256sum)" "$(sha256sum <$folder/www/big)"
  ip netns exec edge tc qdisc del dev eth0 root
  tc qdisc del dev up0 root
  await 'served after it' served
  across reload systemctl reload forwarder
  wait $slow
  expect 'another handshake while a slow download goes on' "$([ "$(handshake)" -gt "$first" ] && echo seen)" seen
  cmp -s $folder/slow $folder/www/big && pass 'the slow download is whole' || fail 'the slow download'
  killed 'kill -9' KILL
  killed watchdog STOP
  across 'stop, which lets flows end' systemctl stop forwarder
  systemctl start forwarder
  await 'started again' served
  exit $failed
}

down() {
  kill "$(cat $folder/nginx.pid)"
  ip netns del edge
  ip link del up0 2>/dev/null || true
}

"$@"
