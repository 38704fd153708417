#!/usr/bin/env bash
# uplinks.sh FACT... (in the machine): further ways to the internet that come up while the edge runs, each to the namespace "outside",
# whose client must reach what is accepted and published there, and no other port of the machine or of a LAN host.
set -uo pipefail
folder=/run/uplinks failed=0
client4=198.51.100.77 client6=2001:db8:77::77
pass() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; failed=1; }
out() { ip netns exec outside "$@"; }

web() { # web NAMESPACE: answers at port 8080 of every address
  mkdir -p $folder
  printf 'user root; pid %s; error_log %s;\nevents {}\nhttp { access_log off; server { listen 8080; listen [::]:8080; return 200 "open"; } }\n' \
    "$folder/$1.pid" "$folder/$1.log" >$folder/$1.conf
  if [ "$1" = here ]; then nginx -c $folder/$1.conf; else ip netns exec "$1" nginx -c $folder/$1.conf; fi
}

# The internet of these uplinks, and a host of the LAN behind a card of its own.
begin() {
  local space
  for space in outside lanhost; do ip netns add $space; ip -n $space link set lo up; done
  ip -n outside addr add $client4/32 dev lo
  ip -n outside addr add $client6/128 dev lo
  ip link add up5 type veth peer name eth0 netns outside
  ip link set up5 up
  ip -n outside link set eth0 up
  ip link add lan5 type veth peer name eth0 netns lanhost
  ip link set lan5 up
  ip route add 192.168.1.50/32 dev lan5
  ip -n lanhost addr add 192.168.1.50/24 dev eth0
  ip -n lanhost link set eth0 up
  ip -n lanhost route add default via 192.168.1.2
  web here
  web lanhost
}

end() {
  kill "$(cat $folder/here.pid)" "$(cat $folder/lanhost.pid)" 2>/dev/null
  for space in outside lanhost; do ip netns del $space; done
  ip link del up5 2>/dev/null
  ip link del lan5 2>/dev/null
}
trap end EXIT

# asked SOURCE ADDRESS PORT: whether a connection succeeds.
asked() { out nc -z -w 4 -s "$1" "$2" "$3" >/dev/null 2>&1; }
# The daemon may still be learning about the uplink.
opens() { local begin=$SECONDS; until asked "$@"; do [ $((SECONDS - begin)) -lt 60 ] || return 1; sleep 1; done; }

# judged WHAT SOURCE ADDRESS: ssh is accepted; the other port is not.
judged() {
  opens "$2" "$3" 22 && pass "$1: what is accepted is reached" || fail "$1: $3 port 22 is not reached"
  asked "$2" "$3" 8080 && fail "$1: $3 port 8080 is open" || pass "$1: a port of the machine is closed"
}

forwarded() { # forwarded WHAT: the way to a LAN host, by the address of the machine on this uplink
  out ip route replace 192.168.1.0/24 via "$2"
  asked $client4 192.168.1.50 8080 && fail "$1: a LAN host is reached" || pass "$1: a LAN host is not reached"
  asked $client4 192.168.1.2 8080 && fail "$1: the LAN's address is reached" || pass "$1: the LAN's address is not reached"
  out ip route del 192.168.1.0/24
}

published() { # published WHAT ADDRESS: the page, whose answers must take this uplink
  local begin=$SECONDS
  until [ "$(out curl -s -k --max-time 10 --interface $client4 --resolve "emby.example.com:443:$2" https://emby.example.com/ip)" = $client4 ]; do
    [ $((SECONDS - begin)) -lt 60 ] || { fail "$1: the page"; return; }
    sleep 1
  done
  pass "$1: the page, the client's address kept"
}

vlan() {
  ip link add link up5 name up5.7 type vlan id 7
  ip addr add 198.18.7.2/24 dev up5.7
  ip addr add 2001:db8:7::2/64 dev up5.7 nodad
  ip link set up5.7 up
  ip -n outside link add link eth0 name eth0.7 type vlan id 7
  ip -n outside addr add 198.18.7.1/24 dev eth0.7
  ip -n outside addr add 2001:db8:7::1/64 dev eth0.7 nodad
  ip -n outside link set eth0.7 up
  ip route add default via 198.18.7.1 dev up5.7 metric 5000
  ip -6 route add default via 2001:db8:7::1 dev up5.7 metric 5000
  judged 'VLAN, IPv4' $client4 198.18.7.2
  judged 'VLAN, IPv6' $client6 2001:db8:7::2
  forwarded VLAN 198.18.7.2
  published VLAN 198.18.7.2
}

# IPv6 by a tunnel over the VLAN's IPv4.
six_in_four() {
  ip tunnel add sit5 mode sit local 198.18.7.2 remote 198.18.7.1 ttl 64
  ip addr add 2001:db8:5::2/64 dev sit5
  ip link set sit5 up
  ip -n outside tunnel add sit5 mode sit local 198.18.7.1 remote 198.18.7.2 ttl 64
  ip -n outside addr add 2001:db8:5::1/64 dev sit5
  ip -n outside link set sit5 up
  ip -n outside route replace 2001:db8:5::2/128 dev sit5
  ip -6 route add default dev sit5 metric 6000
  # The edge sends first and keeps the way back open, as the client of every such tunnel does.
  ping -q -c 2 -W 5 2001:db8:5::1 >/dev/null
  judged '6in4' $client6 2001:db8:5::2
}

# PPP over Ethernet, with a provider's server at the other end; only where the kernel has PPP.
pppoe() {
  printf 'noauth\nlocal\nlogfile %s\n' $folder/server.log >$folder/server
  out pppoe-server -I eth0 -L 198.18.9.1 -R 198.18.9.2 -N 1 -O $folder/server
  pppd plugin pppoe.so nic-up5 noauth nodetach usepeerdns noipdefault nodefaultroute ifname ppp5 unit 5 >$folder/pppd.log 2>&1 &
  local begin=$SECONDS
  until ip -brief addr show dev ppp5 2>/dev/null | grep -q 198.18.9.2; do
    [ $((SECONDS - begin)) -lt 60 ] || { fail 'PPPoE: no session'; cat $folder/pppd.log $folder/server.log; return; }
    sleep 1
  done
  ip route add default dev ppp5 metric 7000
  judged PPPoE $client4 198.18.9.2
  forwarded PPPoE 198.18.9.2
  published PPPoE 198.18.9.2
}

begin
for fact; do "$fact"; done
exit $failed
