//! A policy as the text of a `gateway.toml` with every key, defaults included.

use std::fmt::Write as _;

use super::model::{Allow, InterfacePattern, Party, Peer, Policy, Publish, Service, SourceHandling};
use crate::{Mtu, Protocols};

impl Policy {
    /// The effective configuration: reading it again gives the same policy.
    ///
    /// Files are named by the paths they resolve to; no content of theirs is in it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.sections(&mut text);
        self.peers.iter().for_each(|entry| peer(entry, &mut text));
        for list in &self.lists {
            let urls = Some(("url", array(&list.urls))).filter(|_| !list.urls.is_empty());
            let keys = [("name", quoted(&list.name)), ("file", quoted(&list.file.location))];
            table("[[list]]", &keys.into_iter().chain(urls).collect::<Vec<_>>(), &mut text);
        }
        for entry in &self.notify {
            let value = |key: &str, values: &[String]| {
                if key == "to" { array(values) } else { values.first().map(quoted).unwrap_or_default() }
            };
            let keys: Vec<_> =
                entry.keys().into_iter().map(|(key, values)| (key, value(key, &values))).collect();
            table("[[notify]]", &keys, &mut text);
        }
        self.publish.iter().for_each(|entry| publish(entry, &mut text));
        self.allow.iter().for_each(|entry| allow(entry, &mut text));
        text
    }

    fn sections(&self, text: &mut String) {
        let interface = [
            ("name", quoted(&self.interface.name)),
            ("address", array(&self.interface.address)),
            ("listen_port", self.interface.listen_port.to_string()),
            ("private_key_file", quoted(&self.interface.private_key_file.location)),
            ("mtu", mtu(self.interface.mtu)),
        ];
        table("[interface]", &interface, text);
        let accept: Vec<String> = self.wan.accept.iter().map(ToString::to_string).collect();
        let interface = Some(("interface", array(&self.wan.interfaces)));
        let interface = interface.filter(|_| !self.wan.interfaces.is_empty());
        let name = self.wan.name.as_ref().map(|name| ("name", quoted(name)));
        let keys: Vec<_> = name.into_iter().chain(interface).chain([("accept", array(&accept))]).collect();
        table("[wan]", &keys, text);
        let interfaces = Some(("interfaces", array(&self.lan_interfaces)));
        let interfaces = interfaces.filter(|_| !self.lan_interfaces.is_empty());
        let keys: Vec<_> = [("prefixes", array(&self.lan))].into_iter().chain(interfaces).collect();
        table("[lan]", &keys, text);
        if let Some(dns) = &self.dns {
            let keys = dns.keys().into_iter().map(|(key, value)| (key, quoted(value)));
            table("[dns]", &[("name", array(&dns.names))].into_iter().chain(keys).collect::<Vec<_>>(), text);
        }
        let lists = [("listen", array(&self.metrics.listen)), ("hosts", array(&self.metrics.hosts))];
        let is_empty = [self.metrics.listen.is_empty(), self.metrics.hosts.is_empty()];
        let lists = lists.into_iter().zip(is_empty).filter(|(_, is_empty)| !is_empty);
        let lists: Vec<_> = lists.map(|(list, _)| list).collect();
        if !lists.is_empty() {
            table("[metrics]", &lists, text);
        }
        if !self.page.listen.is_empty() {
            let hosts = Some(("hosts", array(&self.page.hosts))).filter(|_| !self.page.hosts.is_empty());
            let listen = ("listen", array(&self.page.listen));
            table("[page]", &[listen].into_iter().chain(hosts).collect::<Vec<_>>(), text);
        }
        let control =
            [("socket", quoted(self.control.socket.display())), ("group", quoted(&self.control.group))];
        table("[control]", &control, text);
        table("[link]", &[("port", self.link.port.to_string())], text);
        if let Some(standby) = &self.standby {
            table(
                "[standby]",
                &[("address", quoted(standby.address)), ("other", quoted(standby.other))],
                text,
            );
        }
        table("[state]", &[("directory", quoted(self.state_directory.display()))], text);
        table(
            "[log]",
            &[("level", quoted(self.log.level.as_str())), ("format", quoted(self.log.format.as_str()))],
            text,
        );
        table("[reload]", &[("watch", self.watch.to_string())], text);
        let patterns: Vec<&str> = self.container_interfaces.iter().map(InterfacePattern::as_str).collect();
        table("[containers]", &[("interfaces", array(&patterns))], text);
        let offload = self.offload.switches().map(|(key, switch)| (key, quoted(switch.as_str())));
        table("[offload]", &offload, text);
        let kernel = [
            ("fwmark", format!("{:#x}", self.kernel.fwmark)),
            ("ct_mark", format!("{:#x}", self.kernel.ct_mark)),
            ("route_table", self.kernel.route_table.to_string()),
            ("rule_priority", self.kernel.rule_priority.to_string()),
            ("route_protocol", self.kernel.route_protocol.to_string()),
        ];
        table("[kernel]", &kernel, text);
    }
}

fn peer(peer: &Peer, text: &mut String) {
    let mut keys = vec![("name", quoted(&peer.name)), ("public_key", quoted(peer.public_key))];
    keys.extend(peer.preshared_key_file.as_ref().map(|file| ("preshared_key_file", quoted(&file.location))));
    keys.push(("allowed_ips", array(&peer.allowed_ips)));
    keys.extend(peer.endpoint.as_ref().map(|endpoint| ("endpoint", quoted(endpoint))));
    keys.extend(peer.keepalive.map(|keepalive| ("keepalive", quoted(format!("{}s", keepalive.as_secs())))));
    if !peer.may_publish.is_empty() {
        keys.push(("may_publish", array(&peer.may_publish)));
    }
    keys.push(("probe", quoted(peer.probe_text())));
    table("[[peer]]", &keys, text);
}

fn publish(publish: &Publish, text: &mut String) {
    let with_port = |address: std::net::IpAddr, ports| match address {
        std::net::IpAddr::V4(address) => format!("{address}:{ports}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{ports}"),
    };
    let listen = match publish.address {
        Some(address) => with_port(address, publish.ports),
        None if publish.wan_only => format!("wan:{}", publish.ports),
        None => publish.ports.to_string(),
    };
    let targets: Vec<String> =
        publish.targets.iter().map(|target| with_port(target.address, target.ports)).collect();
    let limits = publish.limits;
    let or_zero = |limit: Option<String>| quoted(limit.unwrap_or_else(|| "0".to_owned()));
    let limits = format!(
        "{{ new_per_source = {}, flows_per_source = {}, bandwidth = {} }}",
        or_zero(limits.new_per_source.map(|rate| rate.to_string())),
        limits.flows_per_source.unwrap_or(0),
        or_zero(limits.bandwidth.map(|bandwidth| bandwidth.to_string())),
    );
    let keys = [
        ("name", quoted(&publish.name)),
        ("protocol", protocols(publish.protocols)),
        ("listen", quoted(listen)),
        ("target", array(&targets)),
        ("source", source(publish.source)),
        ("allow", array(&publish.allow.entries())),
        ("limits", limits),
    ];
    table("[[publish]]", &keys, text);
}

fn allow(allow: &Allow, text: &mut String) {
    let parties = |parties: &[Party]| array(&parties.iter().map(party).collect::<Vec<_>>());
    let mut keys =
        vec![("name", quoted(&allow.name)), ("from", parties(&allow.from)), ("to", parties(&allow.to))];
    match &allow.service {
        Service::Echo => keys.push(("protocol", array(&["icmp"]))),
        Service::Ports { protocols: transports, ports } => {
            keys.push(("protocol", protocols(*transports)));
            keys.push(("ports", array(ports)));
        }
    }
    keys.push(("source", source(allow.source)));
    table("[[allow]]", &keys, text);
}

fn party(party: &Party) -> String {
    match party {
        Party::Peer(name) => format!("peer:{name}"),
        Party::Edge => "self".to_owned(),
        Party::Wan => "wan".to_owned(),
        Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.to_string(),
    }
}

fn table(title: &str, keys: &[(&str, String)], text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{title}");
    for (key, value) in keys {
        let _ = writeln!(text, "{key} = {value}");
    }
}

/// A basic string of TOML, whatever is in it.
fn quoted(value: impl ToString) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn array<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn mtu(mtu: Mtu) -> String {
    match mtu {
        Mtu::Fixed(bytes) => bytes.to_string(),
        Mtu::Auto => quoted("auto"),
    }
}

fn protocols(protocols: Protocols) -> String {
    array(&protocols.iter().collect::<Vec<_>>())
}

fn source(source: SourceHandling) -> String {
    match source {
        SourceHandling::Preserve => quoted("preserve"),
        SourceHandling::Masquerade => quoted("masquerade"),
    }
}
