//! A Linux router at the far end: one `wg-quick` file with its policy routing.

use std::fmt::Write as _;

use ipnetwork::IpNetwork;

use super::far_end::{EdgeSide, ExportError, FarEnd, join};
use policy::gateway::Policy;

/// Routing table, rule priority and mark at the far end: the same number as the edge's table, which
/// nothing else uses.
const NUMBER: u32 = 4_357;

/// Priorities of the two rules for packets from an address of its own in the tunnel: networks with
/// routes of their own, then the tunnel. Without them a machine without a default route of that
/// family could not reply, since it looks up a route before any mark is set.
const OWN: [u32; 2] = [NUMBER + 1, NUMBER + 2];

/// The `wg-quick` file of a Linux router that is the edge's `peer`.
///
/// Replies to packets from the tunnel go back into it, and to no other interface: the connection is
/// marked when it arrives, its replies are routed by that mark, and a reply that would leave by
/// another interface is dropped. Everything else keeps the machine's own routes. The hooks may run
/// any number of times.
///
/// # Errors
/// [`ExportError`], when there is no such peer or it has no address in the tunnel.
pub fn wg_quick(policy: &Policy, peer: &str, edge: &EdgeSide) -> Result<String, ExportError> {
    let far = FarEnd::new(policy, peer, edge)?;
    let name = &far.peer.name;
    let mut text = format!(
        "# {name}: the far end of the tunnel to {}, for a Linux machine that routes. Written by `gatewayctl export wg-quick`.\n\
         # Save it as /etc/wireguard/{}.conf (mode 0600) and the key as {name}.key in that folder, then `wg-quick up {}`.\n\
         # `wg-quick down` removes the rules with the tunnel; they stay when the tunnel fails, so that nothing leaks.\n\n[Interface]\n",
        edge.name,
        interface(&edge.name.to_string()),
        interface(&edge.name.to_string()),
    );
    let title = text.find("[Interface]").unwrap_or(0);
    text.insert_str(title, &far.left_out());
    let _ = writeln!(text, "Address = {}", join(&far.address, ", "));
    let _ = writeln!(text, "MTU = {}", far.mtu());
    text.push_str(
        "# The peer may send from every address, so its prefixes must not become routes.\nTable = off\n",
    );
    far.hooks(&mut text);
    let _ = writeln!(text, "\n[Peer]\n# {}", edge.name);
    let _ = writeln!(text, "PublicKey = {}", edge.public_key);
    let _ = writeln!(text, "Endpoint = {}", edge.endpoint);
    // Everyone holds the edge's addresses, but a reader of this file learns them from here only.
    let own = policy.interface.address.iter().filter(|own| far.has_family(own.is_ipv4()));
    let own = own.map(|own| IpNetwork::from(own.ip()).to_string());
    let allowed = own.chain(far.everyone().into_iter().map(str::to_owned));
    let _ = writeln!(text, "AllowedIPs = {}", join(allowed, ", "));
    text.push_str("PersistentKeepalive = 25\n");
    Ok(text)
}

/// Shell that removes every rule of one family that an earlier run made.
fn no_rules(family: &str) -> String {
    let [near, far] = OWN;
    format!(
        "for p in {NUMBER} {near} {far}; do while ip {family} rule del priority $p 2>/dev/null; do :; done; done"
    )
}

/// An interface name of at most 15 characters.
fn interface(name: &str) -> String {
    name.chars().take(15).collect()
}

impl FarEnd<'_> {
    fn hooks(&self, text: &mut String) {
        let families: Vec<&str> = [(true, "-4"), (false, "-6")]
            .iter()
            .filter(|(v4, _)| self.has_family(*v4))
            .map(|(_, flag)| *flag)
            .collect();
        text.push_str("# Marks, MSS and the guard are set before the first packet can arrive.\n");
        let _ = writeln!(text, "PreUp = nft '{}'", self.ruleset());
        for (v4, family) in [(true, "-4"), (false, "-6")].into_iter().filter(|(v4, _)| self.has_family(*v4)) {
            let _ = writeln!(
                text,
                "PreUp = {}; ip {family} rule add fwmark {NUMBER} lookup {NUMBER} priority {NUMBER}",
                no_rules(family)
            );
            for own in self.address.iter().map(IpNetwork::ip).filter(|own| own.is_ipv4() == v4) {
                let [near, far] = OWN;
                let _ = writeln!(
                    text,
                    "PreUp = ip {family} rule add from {own} lookup main suppress_prefixlength 0 priority {near}; ip {family} \
                     rule add from {own} lookup {NUMBER} priority {far}"
                );
            }
            let _ = writeln!(
                text,
                "PreUp = ip {family} route replace unreachable default metric 4096 table {NUMBER}"
            );
        }
        let _ = writeln!(text, "PostUp = wg set %i private-key /etc/wireguard/{}.key", self.peer.name);
        if self.peer.preshared_key_file.is_some() {
            let (key, name) = (self.edge.public_key, &self.peer.name);
            let _ = writeln!(text, "PostUp = wg set %i peer {key} preshared-key /etc/wireguard/{name}.psk");
        }
        for family in &families {
            let _ = writeln!(text, "PostUp = ip {family} route replace default dev %i table {NUMBER}");
        }
        for prefix in self.behind_edge() {
            let family = if prefix.is_ipv4() { "-4" } else { "-6" };
            let _ = writeln!(text, "PostUp = ip {family} route replace {prefix} dev %i");
        }
        text.push_str("# Clients' addresses are routed elsewhere, so a strict reverse path filter would drop their packets as forged.\n");
        if self.has_family(true) {
            text.push_str("PostUp = sysctl -q -w net.ipv4.conf.%i.rp_filter=2 net.ipv4.ip_forward=1\n");
        }
        if self.has_family(false) {
            text.push_str("PostUp = sysctl -q -w net.ipv6.conf.all.forwarding=1\n");
        }
        for family in &families {
            let _ = writeln!(
                text,
                "PostDown = {}; ip {family} route flush table {NUMBER} 2>/dev/null || true",
                no_rules(family)
            );
        }
        let _ = writeln!(text, "PostDown = nft delete table inet {} 2>/dev/null || true", self.table());
    }

    fn table(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        format!("causeway_{}", self.edge.name.as_str().chars().map(safe).collect::<String>())
    }

    /// One transaction: the earlier content of the table is replaced.
    fn ruleset(&self) -> String {
        let table = self.table();
        let mtu = self.mtu();
        let (v4, v6) = (mtu.saturating_sub(40), mtu.saturating_sub(60));
        let syn = "tcp flags & (syn | rst) == syn tcp option maxseg size set";
        [
            format!("add table inet {table}; delete table inet {table}; table inet {table} {{"),
            "chain prerouting { type filter hook prerouting priority mangle; policy accept;".to_owned(),
            format!("iifname \"%i\" ct state new ct mark set {NUMBER};"),
            format!("iifname != \"%i\" ct direction reply ct mark {NUMBER} meta mark set {NUMBER}; }};"),
            "chain output { type route hook output priority mangle; policy accept;".to_owned(),
            format!("ct direction reply ct mark {NUMBER} meta mark set {NUMBER}; }};"),
            "chain forward { type filter hook forward priority mangle; policy accept;".to_owned(),
            format!("oifname \"%i\" {syn} rt mtu;"),
            format!("iifname \"%i\" meta nfproto ipv4 {syn} {v4};"),
            format!("iifname \"%i\" meta nfproto ipv6 {syn} {v6}; }};"),
            "chain guard { type filter hook postrouting priority filter; policy accept;".to_owned(),
            format!("ct direction reply ct mark {NUMBER} oifname != \"%i\" counter drop; }}; }}"),
        ]
        .join(" ")
    }
}
