# The edge's part for RouterOS 7. Written by `gatewayctl export mikrotik-edge`.
# Remove the tunnel's address from the edge first, and set the edge's private key by hand. Move the filter rules above
# your final drop, and the NAT exemption above masquerade. The interface list WAN must contain the public interface.
/interface wireguard
add listen-port=51820 mtu=1420 name=causeway
/interface wireguard peers
add allowed-address=10.77.88.2/32,192.168.88.0/24 interface=causeway name=wroclaw public-key="xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
/ip address
add address=10.77.88.1/30 interface=causeway
/ip route
add dst-address=192.168.88.0/24 gateway=causeway
add blackhole distance=250 dst-address=192.168.88.0/24
/ip firewall address-list
add address=10.77.88.2 list=peer-wroclaw
add address=192.168.88.0/24 list=peer-wroclaw
add address=203.0.113.0/24 list=allow-mqtt
/ipv6 firewall address-list
add address=2001:db8:7::/48 list=allow-mqtt
/ip firewall nat
add action=accept chain=srcnat dst-address=10.77.88.2/32 src-address=192.168.1.0/24
add action=accept chain=srcnat dst-address=192.168.88.0/24 src-address=192.168.1.0/24
add action=dst-nat chain=dstnat comment=https dst-port=443 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2 to-ports=443
add action=dst-nat chain=dstnat comment=mqtt dst-port=8883 in-interface-list=WAN protocol=tcp src-address-list=allow-mqtt to-addresses=192.168.88.2 to-ports=8883
/ip firewall filter
add action=accept chain=forward connection-state=established,related
add action=accept chain=forward connection-nat-state=dstnat in-interface-list=WAN
add action=accept chain=forward comment=nfs dst-address=192.168.1.2 src-address-list=peer-wroclaw in-interface=causeway dst-port=2049 protocol=tcp
add action=accept chain=forward comment=monitoring dst-address=192.168.88.2 src-address=192.168.1.0/24 out-interface=causeway dst-port=2283,8096,8428,9428 protocol=tcp
add action=drop chain=forward comment="the rest of the tunnel" in-interface=causeway
add action=drop chain=forward comment="the rest into the tunnel" out-interface=causeway
