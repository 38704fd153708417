# 2026-11-21 18:06:40 by RouterOS 7.19.4
# software id = 4E5F-6A7B
#
# model = C53UiG+5HPaxD2HPaxD
/interface bridge
add name=bridge
/interface wireguard
add listen-port=13231 mtu=1420 name=wg-kyiv
add listen-port=13232 mtu=1420 name=wg-oracle
/interface list
add name=WAN
add name=LAN
/routing table
add disabled=no fib name=via-kyiv
add disabled=no fib name=via-oracle
/interface list member
add interface=ether1 list=WAN
add interface=bridge list=LAN
/interface wireguard peers
add allowed-address=0.0.0.0/0 comment=Kyiv endpoint-address=kyiv.example.com \
    endpoint-port=51820 interface=wg-kyiv name=peer1 persistent-keepalive=25s \
    public-key="HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
add allowed-address=0.0.0.0/0 endpoint-address=192.0.2.77 endpoint-port=51820 \
    interface=wg-oracle name=oracle persistent-keepalive=25s public-key=\
    "DxMrtQGq2UO9UWQXMvBiQWzuVX9RLJ9nTo5cKkhBvRc="
/ip address
add address=192.168.88.1/24 interface=bridge network=192.168.88.0
add address=10.77.88.2/30 interface=wg-kyiv network=10.77.88.0
add address=10.88.99.2/30 interface=wg-oracle network=10.88.99.0
/ip dhcp-client
add interface=ether1
/ip firewall address-list
add address=173.245.48.0/20 list=cloudflare
add address=104.16.0.0/13 list=cloudflare
add address=172.64.0.0/13 list=cloudflare
/ip firewall filter
add action=accept chain=input connection-state=established,related,untracked
add action=drop chain=input in-interface-list=!LAN
add action=accept chain=forward connection-state=established,related,untracked
add action=drop chain=forward connection-state=invalid
add action=accept chain=forward comment="https from Kyiv" dst-address=\
    192.168.88.2 dst-port=443 in-interface=wg-kyiv protocol=tcp
add action=accept chain=forward comment="https from Oracle" dst-address=\
    192.168.88.2 dst-port=443 in-interface=wg-oracle protocol=tcp \
    src-address-list=cloudflare
add action=accept chain=forward comment="from the Kyiv LAN" dst-address=\
    192.168.88.2 dst-port=8428,9428,8096,2283 in-interface=wg-kyiv protocol=tcp \
    src-address=192.168.1.0/24
add action=accept chain=forward comment=MQTT dst-address=192.168.88.2 dst-port=\
    8883 in-interface=wg-kyiv protocol=tcp
add action=accept chain=forward comment="NFS in Kyiv" dst-address=192.168.1.2 \
    dst-port=2049 out-interface=wg-kyiv protocol=tcp src-address=192.168.88.2
add action=accept chain=forward comment=Transmission dst-address=192.168.1.2 \
    dst-port=9091 out-interface=wg-kyiv protocol=tcp src-address=192.168.88.2
add action=accept chain=forward comment="ping from Kyiv" in-interface=wg-kyiv \
    protocol=icmp
add action=accept chain=forward comment="LAN to internet" in-interface-list=LAN \
    out-interface-list=WAN
add action=drop chain=forward
/ip firewall mangle
add action=mark-connection chain=prerouting comment="remember Kyiv" \
    connection-state=new in-interface=wg-kyiv new-connection-mark=kyiv-conn \
    passthrough=yes
add action=mark-connection chain=prerouting comment="remember Oracle" \
    connection-state=new in-interface=wg-oracle new-connection-mark=oracle-conn \
    passthrough=yes
add action=mark-routing chain=prerouting connection-mark=kyiv-conn \
    in-interface=bridge new-routing-mark=via-kyiv passthrough=no
add action=mark-routing chain=prerouting connection-mark=oracle-conn \
    in-interface=bridge new-routing-mark=via-oracle passthrough=no
add action=mark-packet chain=forward new-packet-mark=video passthrough=no \
    src-address=192.168.88.2
/ip firewall nat
add action=accept chain=srcnat dst-address=192.168.1.0/24 src-address=\
    192.168.88.0/24
add action=masquerade chain=srcnat out-interface-list=WAN
/ip route
add dst-address=192.168.1.0/24 gateway=wg-kyiv
add dst-address=0.0.0.0/0 gateway=wg-kyiv routing-table=via-kyiv
add dst-address=0.0.0.0/0 gateway=wg-oracle routing-table=via-oracle
add blackhole distance=250 dst-address=0.0.0.0/0 routing-table=via-kyiv
/system identity
set name=Wroclaw
