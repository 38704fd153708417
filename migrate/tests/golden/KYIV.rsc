# 2026-11-21 19:04:11 by RouterOS 7.19.4
# software id = 0A1B-2C3D
#
# model = RB5009UG+S+
# serial number = HEX0EXAMPLE
/interface bridge
add admin-mac=02:00:00:00:01:01 auto-mac=no comment=defconf name=bridge
/interface wireguard
add comment="to Wroclaw" listen-port=51820 mtu=1420 name=wg-wroclaw
add listen-port=13231 mtu=1420 name=wg-phones
/interface list
add comment=defconf name=WAN
add comment=defconf name=LAN
/ip pool
add name=dhcp ranges=192.168.1.100-192.168.1.199
/routing table
add disabled=no fib name=to-isp2
/interface bridge port
add bridge=bridge comment=defconf interface=ether2
add bridge=bridge comment=defconf interface=ether3
/interface list member
add comment=defconf interface=bridge list=LAN
add comment=defconf interface=ether1 list=WAN
/interface wireguard peers
add allowed-address=10.77.88.2/32,192.168.88.0/24 comment=Wroclaw interface=\
    wg-wroclaw name=peer1 persistent-keepalive=25s public-key=\
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
add allowed-address=10.99.0.2/32 comment=phone interface=wg-phones name=peer2 \
    public-key="TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
/ip address
add address=192.168.1.1/24 comment=defconf interface=bridge network=192.168.1.0
add address=10.77.88.1/30 interface=wg-wroclaw network=10.77.88.0
add address=10.99.0.1/24 interface=wg-phones network=10.99.0.0
/ip dhcp-client
add comment=defconf interface=ether1
/ip dhcp-server lease
add address=192.168.1.2 comment="Raspberry Pi" mac-address=02:00:00:00:01:02
add address=192.168.1.50 mac-address=02:00:00:00:01:50
/ip firewall address-list
add address=198.51.100.166 list=blacklist
add address=203.0.113.0/24 comment="the office" list=partners
add address=198.51.100.0/25 list=partners
/ip firewall filter
add action=accept chain=input comment="defconf: accept established" \
    connection-state=established,related,untracked
add action=accept chain=input comment=WireGuard dst-port=51820,13231 protocol=\
    udp
add action=drop chain=input comment="defconf: drop all not coming from LAN" \
    in-interface-list=!LAN
add action=fasttrack-connection chain=forward comment="defconf: fasttrack" \
    connection-state=established,related hw-offload=yes
add action=accept chain=forward comment="defconf: accept established" \
    connection-state=established,related,untracked
add action=drop chain=forward comment="defconf: drop invalid" connection-state=\
    invalid
add action=drop chain=forward src-address-list=blacklist
add action=accept chain=forward comment="published ports" connection-nat-state=\
    dstnat in-interface-list=WAN
add action=accept chain=forward comment="NFS for the Mac" dst-address=\
    192.168.1.2 dst-port=2049 in-interface=wg-wroclaw protocol=tcp \
    src-address=192.168.88.2
add action=accept chain=forward comment=Transmission dst-address=192.168.1.2 \
    dst-port=9091 in-interface=wg-wroclaw protocol=tcp
add action=accept chain=forward comment=Monitoring dst-address=192.168.88.2 \
    dst-port=8428,9428,8096,2283 out-interface=wg-wroclaw protocol=tcp \
    src-address=192.168.1.0/24
add action=accept chain=forward comment="ping Wroclaw" dst-address=\
    192.168.88.0/24 protocol=icmp src-address=192.168.1.0/24
add action=accept chain=forward comment="printer at night" dst-address=\
    192.168.88.9 dst-port=631 out-interface=wg-wroclaw protocol=tcp time=\
    22h-6h,mon,tue
add action=accept chain=forward comment="LAN to internet" in-interface-list=LAN \
    out-interface-list=WAN
add action=drop chain=forward comment="drop the rest" log=yes
/ip firewall mangle
add action=change-mss chain=forward comment="clamp MSS" new-mss=clamp-to-pmtu \
    out-interface=wg-wroclaw passthrough=yes protocol=tcp tcp-flags=syn
add action=mark-routing chain=prerouting comment="guests by ISP 2" dst-address=\
    !192.168.88.0/24 in-interface=bridge new-routing-mark=to-isp2 passthrough=no src-address=192.168.1.200-192.168.1.220
/ip firewall nat
add action=accept chain=srcnat comment="no NAT between the LANs" dst-address=\
    192.168.88.0/24 src-address=192.168.1.0/24
add action=masquerade chain=srcnat comment="defconf: masquerade" ipsec-policy=\
    out,none out-interface-list=WAN
add action=dst-nat chain=dstnat comment=https dst-port=443 in-interface-list=\
    WAN protocol=tcp to-addresses=192.168.88.2 to-ports=443
add action=dst-nat chain=dstnat comment="MQTT for partners" dst-port=8883 \
    in-interface-list=WAN protocol=tcp src-address-list=partners to-addresses=\
    192.168.88.2
add action=dst-nat chain=dstnat comment="Pi SSH" dst-port=2222 \
    in-interface-list=WAN protocol=tcp to-addresses=192.168.1.2 to-ports=22
add action=dst-nat chain=dstnat comment="old game" disabled=yes dst-port=27015 \
    in-interface-list=WAN protocol=udp to-addresses=192.168.88.2
/ip route
add comment="Wroclaw LAN" disabled=no distance=1 dst-address=192.168.88.0/24 \
    gateway=wg-wroclaw routing-table=main scope=30 suppress-hw-offload=no \
    target-scope=10
add dst-address=0.0.0.0/0 gateway=100.64.7.1 routing-table=to-isp2
/ip service
set telnet disabled=yes
set ssh address=192.168.1.0/24
/system clock
set time-zone-name=Europe/Kyiv
/system identity
set name=Kyiv
