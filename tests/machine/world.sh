# shellcheck shell=bash
# What surrounds the machine. This network namespace is the internet: the cable's other end (192.0.2.1), a client (203.0.113.10,
# 2001:db8:cafe::10), and the carrier's NAT in front of the namespace "origin", where the hidden machine runs natively.

mac=52:54:00:00:00:01
client4=203.0.113.10 client6=2001:db8:cafe::10
edge4=192.0.2.2 edge6=2001:db8:1::2

origin() { ip netns exec origin "$@"; }

world_start() {
  mount -t tmpfs -o mode=755 run /run
  mkdir /run/netns
  ip link set lo up
  ip tuntap add cable mode tap vnet_hdr
  ip address add 192.0.2.1/24 dev cable
  ip address add 2001:db8:1::1/64 dev cable nodad
  ip link set cable up
  ip address add $client4/32 dev lo
  ip address add $client6/128 dev lo
  ip netns add origin
  ip link add nat0 type veth peer name eth0 netns origin
  ip address add 100.64.0.1/24 dev nat0
  ip link set nat0 up
  ip -n origin link set lo up
  ip -n origin address add 100.64.0.2/24 dev eth0
  ip -n origin link set eth0 up
  ip -n origin route add default via 100.64.0.1
  echo 1 >/proc/sys/net/ipv4/ip_forward
  nft -f - <<'NFT'
table ip carrier {
  chain post { type nat hook postrouting priority 100; ip saddr 100.64.0.0/24 oifname "cable" masquerade; }
}
NFT
}

# The hidden machine: web server, and the forwarder with the configuration of README and IPv6 inside the tunnel besides.
origin_start() { # origin_start PUBLIC_KEY_OF_THE_EDGE
  local folder=$RUN/origin
  origin "$CADDY" run --config "$folder/Caddyfile" --adapter caddyfile >"$folder/caddy.log" 2>&1 &
  echo $! >"$folder/caddy.pid"
  origin python3 "$HERE/hashes.py" >"$folder/hashes.log" 2>&1 &
  echo $! >"$folder/hashes.pid"
  DOCUMENT=docs/INSTALL.md "$HERE/readme" '4. The origin' toml 1 | sed -e "s|<the Pi's public key>|$1|" -e 's|kyiv.example.com|192.0.2.2|' >"$folder/forwarder.toml"
  sed -i 's|^address = .*|address = ["10.77.88.2/30", "fd77:88::2/64"]|' "$folder/forwarder.toml"
  cat >>"$folder/forwarder.toml" <<'TOML'

[[service]]
name = "https6"
protocol = ["tcp"]
match = "[fd88::2]:443"
upstream = "127.0.0.1:8443"
proxy_protocol = "v2"

[control]
socket = "forwarder.sock"

[state]
directory = "state"
TOML
  sed -i -e "s|^socket = .*|socket = \"$folder/forwarder.sock\"|" -e "s|^directory = .*|directory = \"$folder/state\"|" "$folder/forwarder.toml"
  origin "$NATIVE/forwarder" --config "$folder/forwarder.toml" >"$folder/forwarder.log" 2>&1 &
  echo $! >"$folder/forwarder.pid"
}

# The key pair of the origin and what its web server shows; before anything is started.
origin_prepare() {
  local folder=$RUN/origin
  mkdir -p "$folder/www" "$folder/state" "$folder/keys"
  "$NATIVE/gatewayctl" keygen "$folder/keys" --name wroclaw >/dev/null
  head -c 8000000 /dev/urandom >"$folder/www/big"
  echo 'a page' >"$folder/www/page"
  cat >"$folder/Caddyfile" <<CADDY
{
	admin off
	skip_install_trust
	storage file_system $folder/caddy
	auto_https disable_redirects
	servers 127.0.0.1:8443 {
		protocols h1 h2
		listener_wrappers {
			proxy_protocol {
				timeout 2s
				fallback_policy require
			}
			tls
		}
	}
}
https://emby.example.com:8443 {
	bind 127.0.0.1
	tls internal
	respond /ip "{remote_host}"
	reverse_proxy /sha256 127.0.0.1:9000
	file_server {
		root $folder/www
	}
}
CADDY
}

# A request of the client's over IPv4 or IPv6: get 4|6 PATH OPTION...
get() {
  local address=$edge4 from=$client4
  [ "$1" = 4 ] || { address="[$edge6]" from=$client6; }
  curl -s -k --max-time 300 --connect-timeout 30 --interface "$from" --resolve "emby.example.com:443:$address" "https://emby.example.com$2" "${@:3}"
}

served() { [ "$(get 4 /ip --max-time 10)" = $client4 ]; }
