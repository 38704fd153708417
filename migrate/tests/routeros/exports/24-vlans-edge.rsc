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
add address=10.10.20.1/24 interface=vlan-server network=10.10.20.0
add address=10.10.30.1/24 interface=vlan-iot network=10.10.30.0
add address=10.10.90.1/24 interface=vlan-guest network=10.10.90.0
add address=203.0.113.2/29 interface=ether1 network=203.0.113.0
add address=10.77.88.1/30 interface=wg1 network=10.77.88.0
/ip firewall filter
add action=accept chain=forward connection-state=established,related
add action=accept chain=forward comment="servers into the tunnel" dst-port=8428 \
    in-interface=vlan-server out-interface=wg1 protocol=tcp
add action=accept chain=forward comment="tunnel into IoT" dst-port=1883 \
    in-interface=wg1 out-interface=vlan-iot protocol=tcp
add action=drop chain=forward
/ip firewall nat
add action=masquerade chain=srcnat out-interface-list=WAN
/interface vlan
add interface=bridge name=vlan-server vlan-id=20
add interface=bridge name=vlan-iot vlan-id=30
add interface=bridge name=vlan-guest vlan-id=90
/system identity
set name=Edge
