# 2026-03-07 10:16:00 by RouterOS 7.16.2
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
add address=192.168.1.3/24 interface=bridge network=192.168.1.0
add address=192.168.1.1 interface=vrrp1 network=192.168.1.1
add address=203.0.113.2/29 interface=ether1 network=203.0.113.0
add address=10.77.88.1/30 interface=wg1 network=10.77.88.0
/ip firewall filter
add action=accept chain=forward connection-state=established,related
add action=accept chain=forward comment="one of two" dst-address=192.168.88.2 \
    dst-port=8428 in-interface=bridge out-interface=wg1 protocol=tcp
add action=accept chain=forward comment="by address" dst-address=192.168.88.2 \
    dst-port=9428 out-interface=wg1 protocol=tcp src-address=192.168.1.0/24
add action=drop chain=forward
/interface vrrp
add interface=bridge name=vrrp1 vrid=10
/system identity
set name=Edge
