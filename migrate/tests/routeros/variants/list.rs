//! The variants, by what refuses.

use super::{PRIVATE, Variant, Wan, after, base, before, filter, leased, origin};

pub(crate) const VARIANTS: &[Variant] = &[
    base("as it is"),
    leased(base("as it is, with a lease")),
    // Routes.
    before(
        "route is disabled",
        "/ip route\nadd disabled=yes dst-address=192.168.88.0/24 gateway=wg-wroclaw\n",
    ),
    leased(before("no route", "/ip route\n")),
    before(
        "route to a host of the LAN",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=192.168.1.254\n",
    ),
    before(
        "route in a table that nothing uses",
        "/routing table\nadd fib name=other\n/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw routing-table=other\n",
    ),
    before(
        "longer blackhole",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd blackhole dst-address=192.168.88.2/32\n",
    ),
    before(
        "longer route elsewhere",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd dst-address=192.168.88.0/28 gateway=192.168.1.9\n",
    ),
    before(
        "nearer route elsewhere",
        "/ip route\nadd distance=2 dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd dst-address=192.168.88.0/24 gateway=192.168.1.9\n",
    ),
    before(
        "one of two gateways",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw,192.168.1.9\n",
    ),
    before(
        "connected network",
        "/ip address\nadd address=192.168.88.9/24 interface=ether5 network=192.168.88.0\n",
    ),
    before("route by the other end", "/ip route\nadd dst-address=192.168.88.0/24 gateway=10.77.88.2\n"),
    before(
        "route by both names",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=10.77.88.2%wg-wroclaw\n",
    ),
    before("routes by a protocol", "/ip route\n/routing ospf instance\nadd name=ospf\n"),
    before(
        "mark into a table without the tunnel",
        "/routing table\nadd fib name=isp\n/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd dst-address=0.0.0.0/0 \
         gateway=203.0.113.1 routing-table=isp\n/ip firewall mangle\nadd action=mark-routing chain=prerouting in-interface=ether1 \
         new-routing-mark=isp\n",
    ),
    before(
        "mark into the tunnel's table",
        "/routing table\nadd fib name=via\n/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw routing-table=via\n/ip \
         firewall mangle\nadd action=mark-routing chain=prerouting in-interface=ether1 new-routing-mark=via\n",
    ),
    after(
        "routing rule drops",
        "/routing rule\nadd action=drop dst-address=192.168.88.0/24 interface=ether1\n",
    ),
    after(
        "routing rule is unreachable",
        "/routing rule\nadd action=unreachable src-address=198.51.100.0/24\n",
    ),
    after(
        "routing rule looks in a table without the route",
        "/routing table\nadd fib name=other\n/routing rule\nadd action=lookup-only-in-table dst-address=192.168.88.0/24 table=other\n",
    ),
    after("routing rule about others", "/routing rule\nadd action=drop dst-address=192.168.77.0/24\n"),
    origin("origin's blackhole", "add blackhole dst-address=192.168.88.2/32\n"),
    origin("origin's routing rule", "/routing rule\nadd action=drop dst-address=192.168.88.2/32\n"),
    // What stops forwarding.
    before("no connection tracking", "/ip firewall connection tracking\nset enabled=no\n"),
    before("tracking is automatic", "/ip firewall connection tracking\nset enabled=auto udp-timeout=30s\n"),
    before("no forwarding", "/ip settings\nset ip-forward=no rp-filter=strict\n"),
    origin("no forwarding at the origin", "/ip settings\nset ip-forward=no\n"),
    origin("strict reverse path filter at the origin", "/ip settings\nset rp-filter=strict\n"),
    origin(
        "strict reverse path filter with the way back",
        "add dst-address=198.51.100.0/24 gateway=wg-kyiv\n/ip settings\nset rp-filter=strict\n",
    ),
    before("tunnel in a VRF", "/ip vrf\nadd interfaces=wg-wroclaw name=tun\n"),
    before("WAN in a VRF by its list", "/ip vrf\nadd interfaces=WAN name=tun\n"),
    before("VRF of another interface", "/ip vrf\nadd interfaces=ether9 name=management\n"),
    after(
        "script closes the port",
        "/system script\nadd name=close source=\"/ip firewall nat disable [find dst-port=443]\"\n/system scheduler\nadd interval=1d \
         name=night on-event=close\n",
    ),
    after(
        "netwatch changes a filter",
        "/tool netwatch\nadd down-script=\"/ip/firewall/filter/enable 3\" host=10.0.0.1\n",
    ),
    after(
        "script about something else",
        "/system script\nadd name=led source=\"/system leds set 0 disabled=yes\"\n",
    ),
    after(
        "script about the tunnel",
        "/system scheduler\nadd name=x on-event=\"/interface wireguard peers set 0 endpoint-address=example.com\"\n",
    ),
    // Commands that no export has.
    filter(
        "unset",
        "/ip firewall filter\nadd action=drop chain=forward src-address=198.51.100.0/24\nunset [ find action=drop ] src-address\n",
    ),
    before("list member is disabled", "/interface list member\ndisable [ find interface=ether1 ]\n"),
    before("list is set", "/interface list\nset [ find name=WAN ] exclude=dynamic\n"),
    before(
        "built-in list is set",
        "/interface list\nset [ find name=dynamic ] comment=\"dynamic interfaces\"\n",
    ),
    before("tunnel is disabled", "/interface wireguard\ndisable wg-wroclaw\n"),
    before("tunnel is disabled as an interface", "/interface\ndisable wg-wroclaw\n"),
    before("uplink is disabled", "/interface pppoe-client\ndisable pppoe-out1\n"),
    before("peer is set", "/interface wireguard peers\nset [ find name=wroclaw ] disabled=yes\n"),
    before("address is removed", "/ip address\nremove 1\n"),
    before(
        "block of commands",
        "/system identity\nset name=x\n/ip firewall filter {\nadd action=drop chain=forward src-address=198.51.100.0/24\n}\n",
    ),
    before(
        "script in the text",
        "/system identity\n:if (1=1) do={ /ip firewall filter add action=drop chain=forward src-address=198.51.100.0/24 }\n",
    ),
    before("import of another file", "/import file-name=rules.rsc\n"),
    before("abbreviated menu", "/ip fire filt\nadd action=drop chain=forward src-address=198.51.100.0/24\n"),
    before("abbreviated command", "/ip firewall filter rem 0\n"),
    filter(
        "copy-from",
        "/ip firewall filter\nadd action=drop chain=forward connection-state=invalid\nadd chain=forward copy-from=0 src-address=198.51.100.0/24\n",
    ),
    filter(
        "abbreviated action",
        "/ip firewall filter\nadd act=drop chain=forward src-address=198.51.100.0/24\n",
    ),
    // The way back.
    filter(
        "jump for known flows",
        "/ip firewall filter\nadd action=jump chain=forward connection-state=established,related jump-target=known\nadd action=drop \
         chain=known in-interface=wg-wroclaw\nadd action=accept chain=known\n",
    ),
    filter(
        "jump for known flows of one source",
        "/ip firewall filter\nadd action=jump chain=forward connection-state=established,related jump-target=known\nadd action=drop \
         chain=known src-address=198.51.100.0/24\nadd action=accept chain=known\n",
    ),
    filter(
        "jump for known flows that accepts",
        "/ip firewall filter\nadd action=jump chain=forward connection-state=established,related jump-target=known\nadd \
         action=accept chain=forward connection-nat-state=dstnat connection-state=new\nadd action=drop chain=forward\nadd action=accept chain=known\n",
    ),
    filter(
        "only new flows are accepted",
        "/ip firewall filter\nadd action=accept chain=forward connection-nat-state=dstnat connection-state=new\nadd action=drop chain=forward\n",
    ),
    filter(
        "replies are dropped",
        "/ip firewall filter\nadd action=drop chain=forward in-interface=wg-wroclaw out-interface-list=WAN\n",
    ),
    filter(
        "replies of a port are dropped",
        "/ip firewall filter\nadd action=drop chain=forward in-interface=wg-wroclaw protocol=tcp src-port=443\n",
    ),
    filter(
        "replies of another port are dropped",
        "/ip firewall filter\nadd action=drop chain=forward in-interface=wg-wroclaw protocol=tcp src-port=444\n",
    ),
    filter(
        "first packets out of the tunnel are dropped by flags",
        "/ip firewall filter\nadd action=drop chain=forward in-interface=wg-wroclaw protocol=tcp tcp-flags=syn\n",
    ),
    filter(
        "first packets out of the tunnel are dropped by flags without replies",
        "/ip firewall filter\nadd action=drop chain=forward in-interface=wg-wroclaw protocol=tcp tcp-flags=syn,!ack\n",
    ),
    filter(
        "replies to one source are dropped",
        "/ip firewall filter\nadd action=drop chain=forward dst-address=198.51.100.0/24 out-interface=ether1\n",
    ),
    after(
        "raw drops replies",
        "/ip firewall raw\nadd action=drop chain=prerouting in-interface=wg-wroclaw src-address=192.168.88.2\n",
    ),
    after(
        "raw does not track replies",
        "/ip firewall raw\nadd action=notrack chain=prerouting in-interface=wg-wroclaw\n",
    ),
    origin(
        "origin drops replies",
        "/ip firewall filter\nadd action=drop chain=forward out-interface=wg-kyiv src-address=192.168.88.2\n",
    ),
    origin(
        "origin's raw drops replies",
        "/ip firewall raw\nadd action=drop chain=prerouting in-interface=bridge src-address=192.168.88.2\n",
    ),
    origin(
        "origin's bridge drops",
        "/interface bridge filter\nadd action=drop chain=output dst-address=192.168.88.2/32 mac-protocol=ip out-bridge=bridge\n",
    ),
    origin(
        "origin's bridge drops replies",
        "/interface bridge filter\nadd action=drop chain=input in-bridge=bridge mac-protocol=ip src-address=192.168.88.2/32\n",
    ),
    origin(
        "origin's bridge drops other frames",
        "/interface bridge filter\nadd action=drop chain=input mac-protocol=pppoe\n",
    ),
    // Private flows.
    filter("private flows", PRIVATE),
    Variant {
        after: "/ip firewall raw\nadd action=drop chain=prerouting in-interface=bridge src-address=192.168.1.2\n",
        ..filter("replies of a private flow are dropped in raw", PRIVATE)
    },
    Variant {
        after: "/ip firewall raw\nadd action=drop chain=prerouting in-interface=wg-wroclaw src-address=192.168.88.2\n",
        ..filter("the tunnel is dropped in raw", PRIVATE)
    },
    filter(
        "private flows without their replies",
        "/ip firewall filter\nadd action=accept chain=forward comment=NFS dst-address=192.168.1.2 dst-port=2049 in-interface=wg-wroclaw \
         protocol=tcp\nadd action=accept chain=forward comment=Monitoring dst-address=192.168.88.2 dst-port=8428 in-interface=bridge \
         out-interface=wg-wroclaw protocol=tcp\nadd action=drop chain=forward\n",
    ),
    Variant {
        before: "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd blackhole dst-address=192.168.1.2/32\nadd blackhole \
                 dst-address=192.168.88.2/32\n",
        ..filter("private flows into a blackhole", PRIVATE)
    },
    Variant {
        origin: "/interface bridge filter\nadd action=drop chain=input in-bridge=bridge mac-protocol=ip src-address=192.168.88.2/32\n",
        ..filter("private flows that the origin's bridge drops", PRIVATE)
    },
    Variant {
        before: "/ip settings\nset ip-forward=no\n",
        ..filter("private flows without forwarding", PRIVATE)
    },
    // Lists that something else fills.
    filter(
        "list without an entry",
        "/ip firewall filter\nadd action=drop chain=forward src-address-list=crowdsec\n",
    ),
    after(
        "raw by a list without an entry",
        "/ip firewall raw\nadd action=drop chain=prerouting src-address-list=blocklist\n",
    ),
    after(
        "list that a script fills",
        "/ip firewall address-list\nadd address=198.51.100.7 list=bad\n/ip firewall raw\nadd action=drop chain=prerouting \
         src-address-list=bad\n/system script\nadd name=load source=\"/ip firewall address-list add list=bad address=198.51.100.8\"\n",
    ),
    after(
        "list that detection fills",
        "/interface list\nadd name=DWAN\n/interface detect-internet\nset wan-interface-list=DWAN\n/ip firewall raw\nadd action=drop \
         chain=prerouting in-interface-list=DWAN\n",
    ),
    after(
        "list that a profile fills",
        "/interface list\nadd name=VPN\n/interface list member\nadd interface=ether7 list=VPN\n/ppp profile\nset *0 interface-list=VPN\n/ip \
         firewall raw\nadd action=drop chain=prerouting in-interface-list=VPN\n",
    ),
    after(
        "list of interfaces without a member",
        "/interface list\nadd name=BAD\n/ip firewall raw\nadd action=drop chain=prerouting in-interface-list=BAD\n",
    ),
    // Conditions of replies that are not about them.
    filter(
        "clients' ports",
        "/ip firewall filter\nadd action=drop chain=forward dst-port=8080 protocol=tcp\nadd action=drop chain=forward dst-port=1-1023 \
         in-interface=wg-wroclaw protocol=tcp\n",
    ),
    filter(
        "all ports of clients",
        "/ip firewall filter\nadd action=drop chain=forward dst-port=1024-65535 in-interface=wg-wroclaw protocol=tcp\n",
    ),
    after(
        "raw drops bad sources",
        "/ip firewall raw\nadd action=drop chain=prerouting src-address=224.0.0.0/3\n",
    ),
    // Public addresses.
    leased(after(
        "bad destinations are dropped",
        "/ip firewall address-list\nadd address=0.0.0.0/8 list=bad_dst_ipv4\nadd address=224.0.0.0/4 list=bad_dst_ipv4\n/ip firewall \
         raw\nadd action=drop chain=prerouting comment=\"defconf: drop bad dst IP\" dst-address-list=bad_dst_ipv4\n",
    )),
    leased(after(
        "raw lets one source to one address",
        "/ip firewall raw\nadd action=drop chain=prerouting dst-address=203.0.113.9 dst-port=443 protocol=tcp src-address=!198.51.100.0/24\n",
    )),
    leased(after(
        "wide exemption",
        "/ip firewall nat\nadd action=accept chain=dstnat dst-address=203.0.113.0/24 dst-port=443 protocol=tcp\nadd action=dst-nat \
         chain=dstnat dst-port=443 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2\n",
    )),
    leased(after(
        "all but private addresses",
        "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-address=!192.168.0.0/16 dst-port=443 in-interface-list=WAN protocol=tcp \
         to-addresses=192.168.88.2\n",
    )),
    leased(after(
        "one of two uplinks",
        "/ip firewall nat\nadd action=masquerade chain=srcnat out-interface=vlan20\nadd action=dst-nat chain=dstnat dst-port=443 \
         in-interface=vlan20 protocol=tcp to-addresses=192.168.88.2\n",
    )),
    Variant {
        wan: Wan::NoLan,
        ..after(
            "masquerade out of the LAN",
            "/ip firewall nat\nadd action=masquerade chain=srcnat out-interface-list=WAN\nadd action=masquerade chain=srcnat \
             comment=hairpin out-interface=bridge src-address=192.168.1.0/24\nadd action=dst-nat chain=dstnat dst-address=192.168.1.1 \
             dst-port=8080 protocol=tcp to-addresses=192.168.88.2 to-ports=80\nadd action=dst-nat chain=dstnat dst-port=9090 \
             in-interface=bridge protocol=tcp to-addresses=192.168.88.2\n",
        )
    },
    after(
        "range over a port that is published",
        "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-port=80 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2\nadd \
         action=dst-nat chain=dstnat dst-port=9000-9003 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2 to-ports=80-83\n",
    ),
    after(
        "hairpin",
        "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-address=!192.168.1.1 dst-address-type=local dst-port=443 protocol=tcp \
         to-addresses=192.168.88.2\nadd action=masquerade chain=srcnat dst-address=192.168.88.2 src-address=192.168.1.0/24\n",
    ),
    // Properties.
    before(
        "unknown properties",
        "/interface wireguard peers\nadd allowed-address=10.77.88.9/32 interface=wg-wroclaw name=x public-key=\
         \"DxMrtQGq2UO9UWQXMvBiQWzuVX9RLJ9nTo5cKkhBvRc=\" rate-limit=1M\n/ip address\nadd address=192.168.5.1/24 interface=ether5 \
         scope=odd\n/interface list member\nadd interface=ether5 list=LAN until=tomorrow\n",
    ),
    // More shapes of the same.
    before(
        "WAN interface is disabled",
        "/interface ethernet\nset [ find default-name=ether1 ] disabled=yes\n",
    ),
    before(
        "longer unreachable route",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd dst-address=192.168.88.2/32 type=unreachable\n",
    ),
    before(
        "second route for when the first fails",
        "/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\nadd distance=10 dst-address=192.168.88.0/24 gateway=192.168.1.7\n",
    ),
    before(
        "route of a larger network",
        "/ip route\nadd dst-address=192.168.0.0/16 gateway=wg-wroclaw@main\n",
    ),
    before(
        "route of a VRF",
        "/ip vrf\nadd interfaces=ether9 name=v\n/ip route\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw@v\n",
    ),
    before(
        "mangle routes elsewhere",
        "/ip firewall mangle\nadd action=route chain=prerouting in-interface=ether1 route-dst=192.168.1.9\n",
    ),
    before(
        "marks of connections for replies",
        "/routing table\nadd fib name=isp1\n/ip firewall mangle\nadd action=mark-connection chain=prerouting connection-mark=no-mark connection-state=new in-interface=ether1 new-connection-mark=c1 passthrough=yes\nadd action=mark-routing chain=prerouting connection-mark=c1 in-interface-list=!WAN new-routing-mark=isp1 passthrough=yes\nadd action=mark-routing chain=output connection-mark=c1 new-routing-mark=isp1\n/ip route\nadd dst-address=0.0.0.0/0 gateway=203.0.113.1 routing-table=isp1\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\n",
    ),
    before(
        "marks of connections that also route first packets",
        "/routing table\nadd fib name=isp1\n/ip firewall mangle\nadd action=mark-connection chain=prerouting connection-state=new in-interface=ether1 new-connection-mark=c1 passthrough=yes\nadd action=mark-routing chain=prerouting connection-mark=c1 new-routing-mark=isp1\n/ip route\nadd dst-address=0.0.0.0/0 gateway=203.0.113.1 routing-table=isp1\nadd dst-address=192.168.88.0/24 gateway=wg-wroclaw\n",
    ),
    before(
        "lease script changes NAT",
        "/ip dhcp-client\nadd interface=ether8 script=\":if (\\$bound=1) do={/ip firewall nat set [find comment=x] to-addresses=\\$\\\"lease-address\\\"}\"\n",
    ),
    before(
        "script computes the name of a list",
        "/ppp profile\nadd name=p on-up=\"/ip/firewall/address-list/add list=\\$x address=1.2.3.4\"\n/ip firewall raw\nadd action=drop chain=prerouting src-address-list=zz\n/ip firewall address-list\nadd address=198.51.100.7 list=zz\n",
    ),
    before(
        "script about an interface",
        "/system scheduler\nadd name=n on-event=\"/interface disable wg-wroclaw\"\n",
    ),
    before(
        "comment about the firewall",
        "/ip service\nset www comment=\"see the firewall filter add\" disabled=yes\n",
    ),
    before("log topics", "/system logging\nadd topics=firewall action=memory\n"),
    filter(
        "known flows are accepted one way",
        "/ip firewall filter\nadd action=accept chain=forward connection-state=established,related in-interface-list=WAN\nadd action=accept chain=forward connection-nat-state=dstnat connection-state=new\nadd action=drop chain=forward\n",
    ),
    filter(
        "both ways are accepted by port",
        "/ip firewall filter\nadd action=accept chain=forward dst-address=192.168.88.2 dst-port=443 protocol=tcp\nadd action=accept chain=forward src-address=192.168.88.2 src-port=443 protocol=tcp\nadd action=drop chain=forward\n",
    ),
    filter(
        "related flows are dropped",
        "/ip firewall filter\nadd action=drop chain=forward connection-state=related src-address=198.51.100.0/24\n",
    ),
    filter(
        "all but a list without an entry",
        "/ip firewall filter\nadd action=drop chain=forward src-address-list=!friends\n",
    ),
    filter(
        "list whose entry is disabled",
        "/ip firewall filter\nadd action=drop chain=forward src-address-list=friends\n/ip firewall address-list\nadd address=1.2.3.4 disabled=yes list=friends\n",
    ),
    origin(
        "origin accepts only new flows",
        "/ip firewall filter\nadd action=accept chain=forward connection-state=new in-interface=wg-kyiv\nadd action=drop chain=forward\n",
    ),
    origin("origin's LAN in a VRF", "/ip vrf\nadd interfaces=bridge name=v\n"),
    after(
        "raw lets one source to the address",
        "/ip firewall raw\nadd action=drop chain=prerouting dst-address=203.0.113.2 dst-port=443 protocol=tcp src-address=!198.51.100.0/24\n",
    ),
    after(
        "bad destinations are dropped next to an address",
        "/ip firewall address-list\nadd address=0.0.0.0/8 list=bad_dst_ipv4\nadd address=224.0.0.0/4 list=bad_dst_ipv4\n/ip firewall raw\nadd action=drop chain=prerouting dst-address-list=bad_dst_ipv4\n",
    ),
    leased(after(
        "official raw rules",
        "/ip firewall address-list\nadd address=0.0.0.0/8 list=no_forward_ipv4\nadd address=169.254.0.0/16 list=no_forward_ipv4\nadd address=224.0.0.0/4 list=no_forward_ipv4\nadd address=255.255.255.255/32 list=no_forward_ipv4\nadd address=127.0.0.0/8 list=bad_ipv4\nadd address=192.0.0.0/24 list=bad_ipv4\nadd address=240.0.0.0/4 list=bad_ipv4\nadd address=10.0.0.0/8 list=not_global_ipv4\nadd address=192.168.0.0/16 list=not_global_ipv4\nadd address=0.0.0.0/8 list=bad_src_ipv4\nadd address=224.0.0.0/4 list=bad_src_ipv4\nadd address=0.0.0.0/8 list=bad_dst_ipv4\nadd address=224.0.0.0/4 list=bad_dst_ipv4\n/ip firewall raw\nadd action=accept chain=prerouting disabled=yes\nadd action=drop chain=prerouting src-address-list=bad_ipv4\nadd action=drop chain=prerouting dst-address-list=bad_ipv4\nadd action=drop chain=prerouting src-address-list=bad_src_ipv4\nadd action=drop chain=prerouting dst-address-list=bad_dst_ipv4\nadd action=drop chain=prerouting src-address-list=not_global_ipv4 in-interface-list=WAN\nadd action=drop chain=prerouting in-interface-list=LAN src-address=!192.168.1.0/24\nadd action=drop chain=prerouting protocol=udp port=0\nadd action=jump chain=prerouting jump-target=icmp4 protocol=icmp\nadd action=jump chain=prerouting jump-target=bad_tcp protocol=tcp\nadd action=accept chain=prerouting in-interface-list=LAN\nadd action=accept chain=prerouting in-interface-list=WAN\nadd action=accept chain=prerouting in-interface=wg-wroclaw\nadd action=drop chain=prerouting\nadd action=drop chain=bad_tcp protocol=tcp tcp-flags=!fin,!syn,!rst,!ack\nadd action=drop chain=bad_tcp port=0 protocol=tcp\n/ip firewall filter\nadd action=drop chain=forward src-address-list=no_forward_ipv4\nadd action=drop chain=forward dst-address-list=no_forward_ipv4\n",
    )),
    after(
        "flags and ports that no packet has",
        "/ip firewall raw\nadd action=drop chain=prerouting protocol=tcp tcp-flags=!fin,!syn,!rst,!ack\nadd action=drop chain=prerouting \
         protocol=tcp tcp-flags=fin,syn\nadd action=drop chain=prerouting protocol=tcp tcp-flags=fin,!ack\nadd action=drop chain=prerouting \
         port=0 protocol=tcp\n",
    ),
    filter(
        "flags of known flows",
        "/ip firewall filter\nadd action=drop chain=forward protocol=tcp src-address=198.51.100.0/24 tcp-flags=ack\n",
    ),
    // Addresses, uplinks and what else takes packets.
    Variant {
        before: "/ip address\nadd address=203.0.113.3/29 interface=ether1 network=203.0.113.0\n",
        ..after(
            "refused service of one address",
            "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-address=203.0.113.2 dst-port=443 in-interface=ether1 protocol=tcp \
             to-addresses=10.77.88.2\nadd action=dst-nat chain=dstnat dst-port=443 in-interface=ether1 protocol=tcp to-addresses=192.168.88.2\n",
        )
    },
    before(
        "public address of servers behind the router",
        "/ip address\nadd address=198.51.100.1/29 interface=dmz network=198.51.100.0\n/ip firewall nat\nadd action=dst-nat chain=dstnat \
         dst-port=25 in-interface=dmz protocol=tcp to-addresses=192.168.88.2\nadd action=dst-nat chain=dstnat dst-address=198.51.100.1 \
         dst-port=587 in-interface=ether1 protocol=tcp to-addresses=192.168.88.2\n",
    ),
    leased(after(
        "PPPoE over an interface of the WAN",
        "/interface pppoe-client\nadd add-default-route=yes disabled=no interface=ether2 name=pppoe-out1 user=x\n/interface list \
         member\nadd interface=pppoe-out1 list=WAN\nadd interface=ether2 list=WAN\n/ip firewall nat\nadd action=dst-nat chain=dstnat \
         dst-port=444 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2\n",
    )),
    after(
        "IPsec takes one source",
        "/ip ipsec policy\nadd action=discard dst-address=192.168.88.2/32 src-address=198.51.100.0/24\n",
    ),
    after(
        "IPsec takes replies",
        "/ip ipsec policy\nadd dst-address=198.51.100.0/24 src-address=192.168.88.0/24 tunnel=yes\n",
    ),
    after(
        "IPsec takes nothing",
        "/ip ipsec policy\nset 0 disabled=yes\nadd action=none dst-address=192.168.88.2/32 src-address=198.51.100.0/24\n",
    ),
    filter(
        "jump by the hour",
        "/ip firewall filter\nadd action=accept chain=forward connection-state=established,related\nadd action=jump chain=forward \
         jump-target=web time=8h-18h,mon\nadd action=drop chain=forward\nadd action=accept chain=web\n",
    ),
    Variant {
        before: "/interface wireguard peers\nadd allowed-address=10.77.88.3/32,10.5.0.0/16 interface=wg-wroclaw name=tablet \
                 public-key=\"DxMrtQGq2UO9UWQXMvBiQWzuVX9RLJ9nTo5cKkhBvRc=\"\n",
        ..after(
            "broadcast address of the tunnel",
            "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-port=443 in-interface-list=WAN protocol=tcp to-addresses=10.77.88.3\n",
        )
    },
    after(
        "ranges of different sizes",
        "/ip firewall nat\nadd action=dst-nat chain=dstnat dst-port=8000-8010 in-interface-list=WAN protocol=tcp to-addresses=192.168.88.2 \
         to-ports=9000-9005\n",
    ),
];
