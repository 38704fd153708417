# 2026-03-05 10:14:00 by RouterOS 7.13
# software id = 0A1B-2C3D
#
# model = RB5009UG+S+
/interface bridge
add name=bridge
/interface wireguard
add listen-port=13231 mtu=1420 name=wg1
/interface list
add name=WAN
add name=LAN
/interface list member
add interface=ether1 list=WAN
add interface=bridge list=LAN
/interface wireguard peers
add allowed-address=10.77.88.2/32,192.168.88.0/24 interface=wg1 public-key=\
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
/ip address
add address=192.168.1.1/24 interface=bridge network=192.168.1.0
add address=10.77.88.1/30 interface=wg1 network=10.77.88.0
/ip firewall nat
add action=dst-nat chain=dstnat comment=https dst-port=443 dst-address-type=local protocol=tcp \
    to-addresses=192.168.88.2
add action=masquerade chain=srcnat out-interface-list=WAN
/ip dhcp-client
add interface=ether1
/system identity
set name=Edge
/ip route
add dst-address=192.168.88.0/24 gateway=wg1
