# wroclaw: the far end of the tunnel to kyiv, for RouterOS 7. Written by `gatewayctl export mikrotik`.
# The router generates a private key: write its public key (/interface wireguard print) into gateway.toml, or set the
# old private key. Move the filter rules above your final drop, and the NAT rule above masquerade.
/interface wireguard
add comment="to kyiv" listen-port=13231 mtu=1420 name=causeway
/interface wireguard peers
add allowed-address=0.0.0.0/0 endpoint-address=kyiv.example.com endpoint-port=51820 interface=causeway name=kyiv persistent-keepalive=25s public-key="BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
/ip address
add address=10.77.88.2/30 interface=causeway
/routing table
add disabled=no fib name=causeway
/ip route
add dst-address=192.168.1.0/24 gateway=causeway
add dst-address=0.0.0.0/0 gateway=causeway routing-table=causeway
add blackhole distance=250 dst-address=0.0.0.0/0 routing-table=causeway
/ip firewall mangle
add action=mark-connection chain=prerouting connection-state=new in-interface=causeway new-connection-mark=causeway passthrough=yes
add action=mark-routing chain=prerouting connection-mark=causeway in-interface=!causeway new-routing-mark=causeway passthrough=no
add action=mark-routing chain=output connection-mark=causeway new-routing-mark=causeway passthrough=no
add action=change-mss chain=forward new-mss=clamp-to-pmtu in-interface=causeway passthrough=yes protocol=tcp tcp-flags=syn
add action=change-mss chain=forward new-mss=clamp-to-pmtu out-interface=causeway passthrough=yes protocol=tcp tcp-flags=syn
/ip firewall nat
add action=accept chain=srcnat dst-address=192.168.1.0/24 src-address=10.77.88.2/32
add action=accept chain=srcnat dst-address=192.168.1.0/24 src-address=192.168.88.0/24
/ip firewall filter
add action=accept chain=forward connection-state=established,related
add action=accept chain=forward comment=https dst-address=192.168.88.2 in-interface=causeway dst-port=443 protocol=tcp
add action=accept chain=forward comment=mqtt dst-address=192.168.88.2 in-interface=causeway dst-port=8883 protocol=tcp
add action=accept chain=forward comment=nfs dst-address=192.168.1.2 out-interface=causeway dst-port=2049 protocol=tcp
add action=accept chain=forward comment=monitoring dst-address=192.168.88.2 in-interface=causeway dst-port=2283,8096,8428,9428 protocol=tcp
add action=accept chain=forward comment=ping dst-address=192.168.88.2 in-interface=causeway protocol=icmp
add action=drop chain=forward comment="the rest of the tunnel" in-interface=causeway
