#!/usr/bin/env bash
# kernel-origin.sh up | move | netem FAULT | down (in the machine): an origin that is the kernel's WireGuard, in the namespace "korigin",
# with a web server; it dials the machine's own gateway at 10.9.1.1.
set -euo pipefail
folder=/run/kernel-origin
in_() { ip netns exec korigin "$@"; }

web() {
  mkdir -p $folder/www
  head -c 4000000 /dev/urandom >$folder/www/big
  cat >$folder/nginx.conf <<CONF
user root; pid $folder/nginx.pid; error_log $folder/nginx.log;
events {}
http {
  access_log off; client_body_temp_path $folder/body;
  server {
    listen 192.168.89.2:80; listen [fd89::2]:80;
    root $folder/www;
    location /slow { alias $folder/www/big; limit_rate 22k; }
    location /ip { default_type text/plain; return 200 "\$remote_addr"; }
  }
}
CONF
  in_ nginx -c $folder/nginx.conf
}

up() {
  mkdir -p $folder
  (umask 077; wg genkey >$folder/key; wg genpsk >$folder/psk)
  wg pubkey <$folder/key >$folder/public
  ip netns add korigin
  ip -n korigin link set lo up
  ip link add up1 type veth peer name eth0 netns korigin
  ip addr add 10.9.1.1/24 dev up1
  ip link set up1 up
  ip -n korigin addr add 10.9.1.2/24 dev eth0
  ip -n korigin link set eth0 up
  ip -n korigin addr add 192.168.89.2/32 dev lo
  ip -n korigin addr add fd89::2/128 dev lo
  ip -n korigin link add wg0 type wireguard
  ip -n korigin addr add 10.77.89.2/32 dev wg0
  in_ wg set wg0 private-key $folder/key peer "$(cat /etc/causeway/keys/kyiv.pub)" preshared-key $folder/psk \
    allowed-ips 0.0.0.0/0,::/0 endpoint 10.9.1.1:51820 persistent-keepalive 5
  ip -n korigin link set wg0 mtu 1420 up
  ip -n korigin route add default dev wg0
  ip -n korigin -6 route add default dev wg0
  web
}

move() {
  ip -n korigin addr add 10.9.1.77/32 dev eth0
  ip -n korigin route replace 10.9.1.1/32 dev eth0 src 10.9.1.77
  ip -n korigin addr del 10.9.1.2/24 dev eth0
}

netem() {
  # Unquoted: the fault is several words of tc's.
  tc qdisc replace dev up1 root netem $1
  in_ tc qdisc replace dev eth0 root netem $1
}

down() {
  kill "$(cat $folder/nginx.pid)"
  ip netns del korigin
  ip link del up1 2>/dev/null || true
}

"$@"
