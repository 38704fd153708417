# 2026-03-07 10:16:00 by RouterOS 7.19.4
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
add allowed-address=0.0.0.0/0 endpoint-address=vpn.example.com endpoint-port=13231 \
    interface=wg1 persistent-keepalive=25s public-key="HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
/ip address
add address=192.168.88.1/24 interface=bridge network=192.168.88.0
add address=10.77.88.2/30 interface=wg1 network=10.77.88.0
/ip dhcp-client
add interface=ether1
/ip firewall filter
add action=accept chain=forward connection-state=established,related
add action=accept chain=forward dst-address=192.168.88.2 dst-port=443,8428 \
    in-interface=wg1 protocol=tcp
add action=accept chain=forward out-interface=wg1 src-address=192.168.88.2
add action=drop chain=forward
/ip route
add dst-address=192.168.1.0/24 gateway=wg1
