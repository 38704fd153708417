//! What refuses a service in ways that are easily missed: nothing of it is published.

use super::{WEB, edge, forwarder, gateway, import};
use crate::import::Import;

fn said(import: &Import) -> String {
    import.findings.iter().map(|finding| format!("{finding}\n")).collect()
}

fn with(hooks: &str) -> Import {
    import("wg0.conf", &edge(hooks)).unwrap_or_else(|error| panic!("{hooks}: {error}"))
}

const DROP: &str = "iptables -I FORWARD -s 203.0.113.0/24 -j DROP";

#[test]
fn what_keeps_replies_or_packets_back_anywhere_on_the_way_refuses_the_service() {
    for hook in [
        "iptables -t raw -A PREROUTING -i %i -s 10.77.88.2 -j DROP",
        "iptables -t mangle -A PREROUTING -i %i -p tcp --sport 443 -j DROP",
        "iptables -A FORWARD -i %i -o eth0 -j DROP",
        "iptables -A FORWARD -i %i -p tcp --tcp-flags SYN SYN -j DROP",
        "iptables -A FORWARD -i %i -p tcp -m tcp ! --tcp-flags SYN,RST SYN -j DROP",
        "iptables -A FORWARD -i %i -p tcp --dport 50000:60000 -j DROP",
        "iptables -t nat -A POSTROUTING -o %i -j MASQUERADE; iptables -A FORWARD -m conntrack --ctstate SNAT -j DROP",
        "nft 'table inet g { chain p { type filter hook prerouting priority 0; ct status dnat drop; } }'",
        "nft 'table inet g { chain p { type filter hook prerouting priority 0; ip daddr 10.77.88.2 drop; } }'",
        "nft 'table inet f { chain w { type filter hook forward priority 0; policy drop; } }'; \
         nft 'add chain inet f w { type filter hook forward priority 0; }'",
        "nft 'add table inet f; add chain inet f w { type filter hook forward priority 0; }; chain inet f w { policy drop; }'",
        "nft 'add chain ip filter FORWARD { policy drop; }'",
        "iptables-legacy -P FORWARD DROP; iptables-nft -A FORWARD -j ACCEPT",
        "iptables -A FORWARD -i eth0 -j ACCEPT; iptables-legacy -P FORWARD DROP",
        "ip route add blackhole 10.77.88.2/32",
        "ip rule add from 10.77.88.0/24 prohibit",
        "sysctl -w net.ipv4.conf.eth0.forwarding=0",
        "ip route replace 10.77.88.2/32 via 192.168.1.9",
        "ip netns exec x iptables -P FORWARD DROP",
        "ebtables -A FORWARD -j DROP",
        "iptables -t nat -A PREROUTING -s 203.0.113.0/24 -j ACCEPT; nft add rule ip nat PREROUTING tcp dport 80 dnat to 10.77.88.2:80",
        "IPT=iptables; $IPT -P FORWARD DROP",
        "${IPT:-iptables} -P FORWARD DROP",
        "iptables -A FORWARD -i %i -j DROP \\",
    ] {
        let import = with(&format!("{WEB}PostUp = {hook}\n"));
        assert!(gateway(&import).publish.is_empty(), "{hook}\n{}", import.gateway);
        assert!(said(&import).contains("wg0.conf:4: no counterpart: "), "{hook}\n{}", said(&import));
    }
}

#[test]
fn what_keeps_some_back_leaves_the_rest() {
    for hook in [
        "ip route add blackhole 203.0.113.0/24",
        "iptables -N DOCKER-USER 2>/dev/null || true; iptables -I DOCKER-USER -i eth0 -s 203.0.113.0/24 -j DROP",
        "iptables -N ELSEWHERE; iptables -A ELSEWHERE -s 203.0.113.0/24 -j DROP",
        "iptables-legacy -A FORWARD -s 203.0.113.0/24 -j DROP",
        "ip route add unreachable 203.0.113.0/24",
        "iptables -t raw -A PREROUTING -i %i -d 203.0.113.0/24 -j DROP",
    ] {
        let import = with(&format!("{WEB}PostUp = {hook}\n"));
        assert!(
            import.gateway.contains("allow = [\"@sources-1\"]"),
            "{hook}\n{}{}",
            import.gateway,
            said(&import)
        );
        assert!(!import.lists[0].text.contains("203.0.113"), "{hook}");
    }
    let range = "PostUp = iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 8000:8010 -j DNAT --to-destination 10.77.88.2\n\
                 PostUp = iptables -A FORWARD -i %i -p tcp --sport 8005 -j DROP\n";
    let ports: Vec<String> =
        gateway(&with(range)).publish.iter().map(|publish| publish.ports.to_string()).collect();
    assert_eq!(ports, ["8000-8004", "8006-8010"]);
}

#[test]
fn a_command_that_deletes_nothing_deletes_nothing() {
    for hooks in [
        "iptables -I FORWARD -m comment --comment keep -s 203.0.113.7 -j DROP; iptables -D FORWARD -s 203.0.113.7 -j DROP || true",
        "iptables -A FORWARD -m time --timestart 08:00 -j DROP; iptables -D FORWARD -m limit --limit 5/s -j ACCEPT || true",
        "iptables -A FORWARD -s 203.0.113.7 -j REJECT; iptables -D FORWARD -s 203.0.113.7 -j DROP || true",
        "iptables -N BAD; iptables -I FORWARD -j BAD; iptables -A BAD -s 203.0.113.0/24 -j DROP; iptables -N BAD && iptables -F BAD || true",
        "iptables -N BAD; iptables -I FORWARD -j BAD; iptables -A BAD -s 203.0.113.0/24 -j DROP; iptables -X BAD || true",
        "iptables -I FORWARD -s 203.0.113.7 -j DROP; iptables -D FORWARD -s 203.0.113.7/32 -j DROP || true",
    ] {
        let import = with(&format!("{WEB}PostUp = {hooks}\n"));
        let is_narrow =
            gateway(&import).publish.iter().all(|publish| publish.allow != policy::AllowList::Any);
        assert!(is_narrow, "{hooks}\n{}", import.gateway);
    }
    let same =
        format!("{WEB}PostUp = {DROP}\nPostUp = iptables -D FORWARD --source 203.0.113.0/24 --jump DROP\n");
    assert_eq!(gateway(&with(&same)).publish[0].allow, policy::AllowList::Any);
}

#[test]
fn what_does_not_run_publishes_nothing() {
    let rule = WEB.trim_start_matches("PostUp = ").trim_end();
    for start in
        ["exit 0; ", "[ -e /etc/publish ] || exit 0; ", "set -e; test -e /etc/publish; ", "exec true; "]
    {
        let import = with(&format!("PostUp = {start}{rule}\n"));
        assert!(gateway(&import).publish.is_empty(), "{start}\n{}", import.gateway);
    }
    assert_eq!(gateway(&with(&format!("PostUp = set -e; {rule}\nPostUp = exit 0\n"))).publish.len(), 1);
}

#[test]
fn a_comment_with_a_backslash_and_a_second_interface_section_hide_nothing() {
    let kept = with(&format!("{WEB}# an older rule, kept for reference \\\nPostUp = {DROP}\n"));
    assert!(kept.gateway.contains("@sources-1"), "{}", kept.gateway);

    let text = format!("{}[Interface]\nPostUp = {DROP}\n", edge(WEB));
    let import = import("wg0.conf", &text).unwrap();
    assert!(import.gateway.contains("@sources-1"), "{}", import.gateway);

    let text = format!("{}PostUp = {DROP}\n", edge(WEB));
    let import = super::import("wg0.conf", &text).unwrap();
    assert!(said(&import).contains("postup in [Peer]"), "{}", said(&import));
}

#[test]
fn a_table_of_its_own_is_a_way_only_where_a_rule_leads_there() {
    let web = WEB.replace("10.77.88.2", "192.168.88.2");
    let with = |hooks: &str| {
        let text = edge(&format!("{hooks}{web}")).replace("10.77.88.2/32", "10.77.88.2/32, 192.168.88.0/24");
        gateway(&import("wg0.conf", &text).unwrap()).publish.len()
    };
    assert_eq!(with(""), 1);
    assert_eq!(with("Table = 123\n"), 0);
    assert_eq!(with("Table = 123\nPostUp = ip rule add table 123\n"), 1);
    assert_eq!(with("Table = 123\nPostUp = ip route add 192.168.88.0/24 dev %i\n"), 1);
}

#[test]
fn an_inet_table_changes_destinations_of_one_family() {
    let import = with(
        "PostUp = nft 'table inet n { chain pre { type nat hook prerouting priority dstnat; iifname \"eth0\" tcp dport 443 dnat ip to \
         10.77.88.2:443; } }'\n",
    );
    assert_eq!(gateway(&import).publish.len(), 1);
    assert_eq!(forwarder(&import).services.len(), 1);
}

#[test]
fn words_that_change_nothing_are_read() {
    for (from, to) in [
        ("-p tcp", "-s 0/0 -p tcp"),
        ("--dport 443", "--dport https"),
        ("10.77.88.2:443", "10.77.88.2:443 --persistent"),
        ("PostUp = ", "PostUp = iptables-save > /run/rules.v4\nPostUp = "),
    ] {
        let import = with(&WEB.replace(from, to));
        assert_eq!(gateway(&import).publish.len(), 1, "{to}\n{}", said(&import));
    }
}

#[test]
fn a_tunnel_that_rules_name_and_the_file_does_not_is_asked_about() {
    let hooks = format!("{WEB}PostUp = iptables -A FORWARD -o wg0 -s 203.0.113.0/24 -j DROP\n");
    let refused = import("kyiv.conf", &edge(&hooks)).err().unwrap();
    assert!(refused.to_string().contains("--interface wg0"), "{refused}");

    let options = super::WgQuickOptions { interface: Some("wg0".to_owned()), ..Default::default() };
    let import = super::import_as("kyiv.conf", &edge(&hooks), &options).unwrap();
    assert!(import.gateway.contains("@sources-1"), "{}", import.gateway);
    assert!(import.gateway.contains("private_key_file = \"kyiv.key\""));
}

#[test]
fn what_no_packet_from_the_internet_is_for_costs_nothing() {
    for hook in [
        "iptables -t mangle -A PREROUTING -d 224.0.0.0/4 -j DROP",
        "iptables -t raw -A PREROUTING -i eth0 -d 10.77.88.0/24 -j DROP",
        "iptables -t raw -A PREROUTING -d 240.0.0.0/4 -j DROP",
        "iptables -t mangle -A PREROUTING -p tcp --tcp-flags ALL NONE -j DROP",
        "iptables -A FORWARD -p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP",
        "iptables -A FORWARD -p tcp --tcp-flags ALL ALL -j DROP; iptables -A FORWARD -f -j DROP",
        "iptables -A FORWARD -p tcp --tcp-flags ALL FIN,URG,PSH -j DROP",
    ] {
        let import = with(&format!("{WEB}PostUp = {hook}\n"));
        assert_eq!(gateway(&import).publish.len(), 1, "{hook}\n{}", said(&import));
    }
    let import = with(&WEB.replace("-i eth0", "! -d 192.168.0.0/16"));
    assert_eq!(gateway(&import).publish.len(), 1, "{}", said(&import));
}

#[test]
fn every_port_is_no_list_of_ports() {
    for ports in ["1:65535", "0:65535", ":"] {
        let import = with(&WEB.replace("--dport 443", &format!("--dport {ports}")));
        assert!(gateway(&import).publish.is_empty(), "{ports}\n{}", import.gateway);
    }
}

#[test]
fn a_route_with_a_gateway_in_the_tunnel_is_a_way() {
    let web = WEB.replace("10.77.88.2", "192.168.88.2");
    let hooks = format!("Table = off\nPostUp = ip route add 192.168.88.0/24 via 10.77.88.2 dev %i\n{web}");
    let text = edge(&hooks).replace("10.77.88.2/32", "10.77.88.2/32, 192.168.88.0/24");
    assert_eq!(gateway(&import("wg0.conf", &text).unwrap()).publish.len(), 1);
}

#[test]
fn a_command_that_holds_a_secret_is_shown_without_it() {
    let import = with(
        "PostUp = wg set %i peer xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg= preshared-key <(echo hunter2)\n\
         PostUp = curl -H \"Authorization: Bearer hunter2\" https://example.com/up\n",
    );
    assert!(said(&import).contains("preshared-key …"), "{}", said(&import));
    assert!(!said(&import).contains("hunter2"), "{}", said(&import));
}

#[test]
fn chains_that_jump_to_one_another_often_and_long_lists_are_decided_in_bounded_time() {
    let started = std::time::Instant::now();
    let mut hooks = String::from(WEB);
    for chain in 0..15 {
        hooks.push_str(&format!("PostUp = iptables -N C{chain}\n"));
    }
    for (chain, _) in (0..14).flat_map(|chain| (0..4).map(move |time| (chain, time))) {
        hooks.push_str(&format!("PostUp = iptables -A C{chain} -j C{}\n", chain + 1));
    }
    hooks.push_str("PostUp = iptables -A FORWARD -j C0\n");
    assert!(gateway(&with(&hooks)).publish.is_empty());

    let drops: String = (0..2_500_u32)
        .map(|n| format!("PostUp = iptables -A FORWARD -s 11.{}.{}.0/24 -j DROP\n", n / 120, 2 * (n % 120)))
        .collect();
    let import = with(&format!("{WEB}{drops}"));
    assert!(gateway(&import).publish.is_empty() && said(&import).contains("import it in parts"));
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn of_two_sections_with_one_key_the_last_decides() {
    let text = edge(WEB)
        + "[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 10.77.88.3/32\n";
    let import = import("wg0.conf", &text).unwrap();
    assert!(gateway(&import).publish.is_empty());
    assert_eq!(gateway(&import).peers[0].allowed_ips, ["10.77.88.3/32".parse().unwrap()]);
}
