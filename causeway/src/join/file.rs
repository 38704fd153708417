//! The origin's configuration with an edge: a new text, or an existing one with another `[[peer]]`;
//! comments and order are kept. Everything that is written is a checked name, address, port or key.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use policy::forwarder::{Peer, Policy};
use policy::sections::Link;
use policy::{HostPort, Name, Source};
use toml_edit::{Array, DocumentMut, Item, Table, TomlError, value};
use tunnel::key::PublicKey;

/// What is written of an edge.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// Its name.
    pub(super) name: Name,
    /// Its public key.
    pub(super) key: PublicKey,
    /// The one that it is to have next, if that is known.
    pub(super) next_key: Option<PublicKey>,
    /// Where it is.
    pub(super) endpoint: HostPort,
    /// Wherever the code says that it is, that one included.
    pub(super) endpoints: Vec<HostPort>,
    /// Its address in the tunnel.
    pub(super) address: IpAddr,
    /// The own addresses in its tunnel.
    pub(super) own: Vec<IpNetwork>,
    /// The port of the link.
    pub(super) link_port: u16,
    /// The own private key, as the file is to name it; `None` when it stays the one that the file
    /// names already.
    pub(super) key_file: Option<String>,
    /// The preshared key, as the file names it.
    pub(super) preshared_key_file: Option<String>,
}

/// Why the file has no place for the edge.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// It is no TOML.
    #[error("{0}")]
    Toml(#[from] TomlError),
    /// The edges are written in another form.
    #[error("the edges are written as one array; write each as a [[peer]] section, so that one can be added")]
    PeersInOneLine,
    /// Another edge has the name.
    #[error("another edge is named {0} already; give this one another name with --name")]
    NameTaken(Name),
    /// The edges have different ports for the link.
    #[error(
        "the edge's link has port {theirs}, and [link] port here is {ours} for every edge; \
         set the same port at all of them"
    )]
    LinkPort {
        /// The edge's.
        theirs: u16,
        /// The file's.
        ours: u16,
    },
    /// The result would be invalid.
    #[error("with the edge the file would be invalid:\n{0}")]
    Invalid(String),
}

/// The text of a new file.
///
/// # Errors
/// [`EditError::Invalid`]
pub(super) fn new_text(file: &Path, edge: &Edge) -> Result<String, EditError> {
    let mut text = String::from(
        "# Written by `causeway join`. The example forwarder.toml of Causeway explains every key.\n\n[interface]\n",
    );
    let mut interface = Table::new();
    interface.insert("address", array(&edge.own));
    if let Some(file) = &edge.key_file {
        interface.insert("private_key_file", value(file));
    }
    text += &interface.to_string();
    text += "\n[[peer]]\n";
    text += &made(edge).to_string();
    if edge.link_port != Link::default().port {
        text += &format!("\n[link]\nport = {}\n", edge.link_port);
    }
    text += EXAMPLE;
    checked(file, text)
}

/// What a newcomer adds next.
const EXAMPLE: &str = "\n# A service: the edge publishes port 443, and its connections come here.\n\
    # [[service]]\n# name = \"https\"\n# publish = [443]\n# upstream = \"127.0.0.1:8443\"\n# proxy_protocol = \"v2\"\n";

/// The text with the edge: a peer that is the same edge gets what is new, else one is added.
///
/// # Errors
/// [`EditError`]
pub(super) fn with_edge(file: &Path, text: &str, policy: &Policy, edge: &Edge) -> Result<String, EditError> {
    if edge.link_port != policy.link.port {
        return Err(EditError::LinkPort { theirs: edge.link_port, ours: policy.link.port });
    }
    let mut document: DocumentMut = text.parse()?;
    match known(policy, edge)? {
        Some(peer) => change(&mut document, policy, peer, edge)?,
        None => add(&mut document, policy, edge)?,
    }
    checked(file, document.to_string())
}

/// The peer that is this edge: by its key, or by its name and the address that it keeps for us.
pub(super) fn known<'p>(policy: &'p Policy, edge: &Edge) -> Result<Option<&'p Peer>, EditError> {
    if let Some(peer) = policy.peers.iter().find(|peer| has_key(peer, &edge.key)) {
        return Ok(Some(peer));
    }
    let Some(peer) = policy.peers.iter().find(|peer| peer.name == edge.name) else { return Ok(None) };
    let keeps = |own: &IpNetwork| peer.address.iter().any(|address| address.ip() == own.ip());
    if edge.own.iter().any(keeps) { Ok(Some(peer)) } else { Err(EditError::NameTaken(edge.name.clone())) }
}

/// Whether an edge has this key, or is to have it next.
pub(super) fn has_key(peer: &Peer, key: &PublicKey) -> bool {
    policy::PublicKey::new(*key.as_bytes()).is_some_and(|key| peer.has_key(key))
}

/// What changes of a peer that is there, for the operator.
pub(super) fn changes(peer: &Peer, edge: &Edge) -> Vec<String> {
    let line = |key: &str, old: &dyn Display, new: &dyn Display| {
        format!("[[peer]] {}: {key} changes from {old} to {new}", peer.name)
    };
    let key = (!has_key(peer, &edge.key)).then(|| line("public_key", &peer.public_key, &edge.key));
    let endpoint = has_moved(peer, edge).then(|| line("endpoint", &peer.endpoint, &edge.endpoint));
    let probe = old_probe(peer, edge).map(|old| line("probe", &old, &edge.address));
    [key, endpoint, probe].into_iter().flatten().collect()
}

/// Whether the edge is no longer where the file has it.
fn has_moved(peer: &Peer, edge: &Edge) -> bool {
    !edge.endpoints.contains(&peer.endpoint) && peer.endpoint != edge.endpoint
}

/// The address that the file has for the edge in the tunnel, if it is another one's now.
fn old_probe(peer: &Peer, edge: &Edge) -> Option<IpAddr> {
    let is_of_other_family = |probe: &IpAddr| {
        probe.is_ipv4() != edge.address.is_ipv4() && edge.own.iter().any(|own| own.contains(*probe))
    };
    peer.probe.filter(|probe| *probe != edge.address && !is_of_other_family(probe))
}

fn change(document: &mut DocumentMut, policy: &Policy, peer: &Peer, edge: &Edge) -> Result<(), EditError> {
    let table = peers(document)?
        .iter_mut()
        .find(|table| table.get("name").and_then(Item::as_str) == Some(peer.name.as_str()));
    let Some(table) = table else { return Err(EditError::PeersInOneLine) };
    if peer.public_key.as_bytes() != edge.key.as_bytes() {
        set(table, "public_key", value(edge.key.to_string()));
        if peer.next_public_key.is_some() && has_key(peer, &edge.key) {
            // The edge has changed to it.
            table.remove("next_public_key");
        }
    }
    if let Some(next) = edge.next_key {
        set(table, "next_public_key", value(next.to_string()));
    }
    let is_shared = policy.peers.len() == 1 && !table.contains_key("private_key_file");
    if let Some(file) = edge.key_file.as_ref().filter(|_| !is_shared) {
        set(table, "private_key_file", value(file));
    }
    if let Some(file) = edge.preshared_key_file.as_ref().filter(|_| peer.preshared_key_file.is_none()) {
        set(table, "preshared_key_file", value(file));
    }
    if has_moved(peer, edge) {
        set(table, "endpoint", value(edge.endpoint.to_string()));
    }
    if old_probe(peer, edge).is_some() {
        set(table, "probe", value(edge.address.to_string()));
    }
    if !edge.own.iter().all(|own| peer.address.contains(own)) {
        set(table, "address", array(&edge.own));
    }
    let interface = document.get_mut("interface").and_then(Item::as_table_mut);
    if let (Some(interface), Some(file), true) = (interface, &edge.key_file, is_shared) {
        set(interface, "private_key_file", value(file));
    }
    Ok(())
}

fn add(document: &mut DocumentMut, policy: &Policy, edge: &Edge) -> Result<(), EditError> {
    if let [only] = policy.peers.as_slice() {
        name_peer(document, &only.name);
    }
    let mut table = made(edge);
    table.decor_mut().set_prefix("\n");
    if policy.interface.address != edge.own {
        table.insert("address", array(&edge.own));
    }
    if let Some(file) = &edge.key_file {
        table.insert("private_key_file", value(file));
    }
    peers(document)?.push(table);
    Ok(())
}

/// With several edges each `[[reach]]` names its own: so far it was the only one.
fn name_peer(document: &mut DocumentMut, peer: &Name) {
    let entries = document.get_mut("reach").and_then(Item::as_array_of_tables_mut);
    for table in entries.into_iter().flat_map(|entries| entries.iter_mut()) {
        if !table.contains_key("peer") {
            table.insert("peer", value(peer.as_str()));
        }
    }
}

fn made(edge: &Edge) -> Table {
    let mut table = Table::new();
    table.insert("name", value(edge.name.as_str()));
    table.insert("public_key", value(edge.key.to_string()));
    if let Some(next) = edge.next_key {
        table.insert("next_public_key", value(next.to_string()));
    }
    if let Some(file) = &edge.preshared_key_file {
        table.insert("preshared_key_file", value(file));
    }
    table.insert("endpoint", value(edge.endpoint.to_string()));
    table.insert("probe", value(edge.address.to_string()));
    table
}

fn peers(document: &mut DocumentMut) -> Result<&mut toml_edit::ArrayOfTables, EditError> {
    document.get_mut("peer").and_then(Item::as_array_of_tables_mut).ok_or(EditError::PeersInOneLine)
}

fn set(table: &mut Table, key: &str, mut item: Item) {
    let decor = table.get(key).and_then(Item::as_value).map(|old| old.decor().clone());
    if let (Some(decor), Some(new)) = (decor, item.as_value_mut()) {
        *new.decor_mut() = decor;
    }
    table.insert(key, item);
}

fn array<T: ToString>(items: &[T]) -> Item {
    value(items.iter().map(ToString::to_string).collect::<Array>())
}

fn checked(file: &Path, text: String) -> Result<String, EditError> {
    match policy::forwarder::parse(&Source { name: file, text: &text }) {
        Ok(_) => Ok(text),
        Err(errors) => {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Err(EditError::Invalid(lines.join("\n")))
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn a_new_file_is_valid_and_holds_what_was_agreed() {
        let first =
            Edge { key_file: Some("keys/forwarder.key".to_owned()), ..edge("kyiv", 1, "10.77.88.2/24") };
        let text = new_text(file(), &first).unwrap();
        let policy = parsed(&text);
        assert_eq!(policy.interface.address, ["10.77.88.2/24".parse().unwrap()]);
        let peer = policy.peers.first().unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.endpoint.to_string().as_str()),
            ("kyiv", "kyiv.example.com:51820")
        );
        assert_eq!(peer.probe, Some("10.77.88.1".parse().unwrap()));
        assert!(!text.contains("[link]"), "{text}");

        let other = Edge { link_port: 7, ..first };
        assert_eq!(parsed(&new_text(file(), &other).unwrap()).link.port, 7);
    }

    #[test]
    fn a_second_edge_is_added_and_what_was_there_stays() {
        let text = with_edge(file(), &old(), &parsed(&old()), &edge("oracle", 2, "10.88.99.2/24")).unwrap();
        let policy = parsed(&text);
        let [kyiv, oracle] = policy.peers.as_slice() else { panic!("{text}") };
        assert_eq!(kyiv.address, ["10.77.88.2/24".parse().unwrap()]);
        assert_eq!(oracle.address, ["10.88.99.2/24".parse().unwrap()]);
        assert_eq!(kyiv.private_key_file, oracle.private_key_file);
        assert_eq!(policy.reach.first().unwrap().peer.as_str(), "kyiv");
        assert_eq!(policy.reach, parsed(&old()).reach, "a reload takes it without binding again");
        assert!(parsed(&old()).needs_restart(&policy).is_none());
        let lines: Vec<&str> = text.lines().collect();
        assert!(old().lines().all(|line| lines.contains(&line)), "{text}");
    }

    #[test]
    fn pairing_the_same_edge_again_with_the_same_key_changes_nothing() {
        let same = edge("kyiv", 1, "10.77.88.2/24");
        assert_eq!(with_edge(file(), &old(), &parsed(&old()), &same).unwrap(), old());
    }

    #[test]
    fn another_own_key_is_named_where_the_old_one_was() {
        let renewed = Edge { key_file: Some("mac-2.key".to_owned()), ..edge("kyiv", 1, "10.77.88.2/24") };
        let text = with_edge(file(), &old(), &parsed(&old()), &renewed).unwrap();
        assert_eq!(text, old().replace("\"mac.key\"", "\"mac-2.key\""));
        assert!(parsed(&old()).needs_restart(&parsed(&text)).is_none(), "a reload takes it");

        // With two edges the other one keeps the old key.
        let two = with_edge(file(), &old(), &parsed(&old()), &edge("oracle", 2, "10.88.99.2/24")).unwrap();
        let policy = parsed(&with_edge(file(), &two, &parsed(&two), &renewed).unwrap());
        let files: Vec<_> =
            policy.peers.iter().map(|peer| peer.private_key_file.location.to_string()).collect();
        assert_eq!(files, ["mac-2.key", "mac.key"]);
    }

    #[test]
    fn an_edge_with_another_key_is_the_same_one_by_its_name_and_our_address() {
        let renewed = edge("kyiv", 9, "10.77.88.2/24");
        let text = with_edge(file(), &old(), &parsed(&old()), &renewed).unwrap();
        assert_eq!(
            text,
            old().replace(&edge("kyiv", 1, "10.77.88.2/24").key.to_string(), &renewed.key.to_string())
        );
        let other = edge("kyiv", 9, "10.88.99.2/24");
        let error = with_edge(file(), &old(), &parsed(&old()), &other).unwrap_err();
        assert!(matches!(error, EditError::NameTaken(_)), "{error}");
    }

    #[test]
    fn a_next_key_is_written_next_to_the_one_in_force_and_takes_its_place_later() {
        let next = Edge { next_key: Some(public(9)), ..edge("kyiv", 1, "10.77.88.2/24") };
        let both = with_edge(file(), &old(), &parsed(&old()), &next).unwrap();
        let line = format!("next_public_key = \"{}\"\n", public(9));
        assert_eq!(both.replacen(&line, "", 1), old());
        assert_eq!(with_edge(file(), &both, &parsed(&both), &next).unwrap(), both);
        assert!(parsed(&old()).needs_restart(&parsed(&both)).is_none());

        let kept = with_edge(file(), &both, &parsed(&both), &edge("kyiv", 1, "10.77.88.2/24")).unwrap();
        assert_eq!(kept, both, "a pairing about something else leaves it");

        let changed = edge("kyiv", 9, "10.77.88.2/24");
        let text = with_edge(file(), &both, &parsed(&both), &changed).unwrap();
        assert_eq!(text, old().replace(&public(1).to_string(), &public(9).to_string()));
        assert!(parsed(&both).needs_restart(&parsed(&text)).is_none());

        let first = Edge {
            next_key: Some(public(9)),
            key_file: Some("k".to_owned()),
            ..edge("kyiv", 1, "10.77.88.2/24")
        };
        let policy = parsed(&new_text(file(), &first).unwrap());
        assert!(policy.peers.first().unwrap().next_public_key.is_some());
    }

    #[test]
    fn an_address_that_changed_is_written() {
        let moved = edge("kyiv", 1, "10.77.88.9/24");
        let policy = parsed(&with_edge(file(), &old(), &parsed(&old()), &moved).unwrap());
        assert_eq!(policy.peers.first().unwrap().address, ["10.77.88.9/24".parse().unwrap()]);
    }

    #[test]
    fn an_edge_that_moved_is_written_where_it_is_now_and_each_change_is_reported() {
        let at = |text: &str| policy::text::host_port(text).unwrap();
        let before = old().replacen(
            "endpoint = \"kyiv.example.com:51820\"",
            "endpoint = \"kyiv.example.com:51820\"  # the Pi\nprobe = \"10.77.88.1\"",
            1,
        );
        let kyiv = edge("kyiv", 1, "10.77.88.2/24");
        let moved = Edge {
            endpoint: at("192.0.2.9:443"),
            endpoints: vec![at("new.example.com:443"), at("192.0.2.9:443")],
            address: "10.77.88.5".parse().unwrap(),
            ..kyiv.clone()
        };
        let text = with_edge(file(), &before, &parsed(&before), &moved).unwrap();
        let expected = before.replace("kyiv.example.com:51820", "192.0.2.9:443");
        assert_eq!(text, expected.replace("probe = \"10.77.88.1\"", "probe = \"10.77.88.5\""));
        let lines = changes(parsed(&before).peers.first().unwrap(), &moved);
        assert_eq!(
            lines,
            [
                "[[peer]] kyiv: endpoint changes from kyiv.example.com:51820 to 192.0.2.9:443",
                "[[peer]] kyiv: probe changes from 10.77.88.1 to 10.77.88.5"
            ]
        );

        // One of several endpoints stays, whichever answered; so does a probe of the other family.
        let endpoints = vec![at("192.0.2.9:443"), kyiv.endpoint.clone()];
        let same = Edge { endpoint: at("192.0.2.9:443"), endpoints, ..kyiv };
        assert_eq!(with_edge(file(), &before, &parsed(&before), &same).unwrap(), before);
        let dual = before
            .replace("10.77.88.2/24\"", "10.77.88.2/24\", \"fd00::2/64\"")
            .replace("\"10.77.88.1\"", "\"fd00::1\"");
        let own = ["10.77.88.2/24", "fd00::2/64"].map(|own| own.parse().unwrap()).to_vec();
        let same = Edge { own, ..same };
        assert_eq!(with_edge(file(), &dual, &parsed(&dual), &same).unwrap(), dual);
    }

    #[test]
    fn another_key_of_a_known_edge_is_reported() {
        let lines = changes(parsed(&old()).peers.first().unwrap(), &edge("kyiv", 9, "10.77.88.2/24"));
        assert!(matches!(lines.as_slice(), [line] if line.contains("public_key changes from")), "{lines:?}");
    }

    #[test]
    fn another_port_of_the_link_is_refused() {
        let other = Edge { link_port: 7, ..edge("oracle", 2, "10.88.99.2/24") };
        let error = with_edge(file(), &old(), &parsed(&old()), &other).unwrap_err();
        assert!(error.to_string().contains("port 7") && error.to_string().contains("51899"), "{error}");
    }

    fn old() -> String {
        let key = PrivateKey::from_bytes([1; 32]).public();
        format!(
            "# The Mac.\n[interface]\naddress = [\"10.77.88.2/24\"]   # ours\nprivate_key_file = \"mac.key\"\n\n\
             [[peer]]\nname = \"kyiv\"   # the Pi\npublic_key = \"{key}\"\n\
             endpoint = \"kyiv.example.com:51820\"\n\n# Files in Kyiv.\n[[reach]]\nname = \"nfs\"\n\
             listen = \"127.0.0.1:2049\"\ntarget = \"192.168.1.2:2049\"\n\n# The end.\n"
        )
    }

    fn edge(name: &str, key: u8, own: &str) -> Edge {
        let own: IpNetwork = own.parse().unwrap();
        let first = if own.to_string().starts_with("10.77") { "10.77.88.1" } else { "10.88.99.1" };
        Edge {
            name: Name::new(name).unwrap(),
            key: PrivateKey::from_bytes([key; 32]).public(),
            next_key: None,
            endpoint: policy::text::host_port(&format!("{name}.example.com:51820")).unwrap(),
            endpoints: vec![policy::text::host_port(&format!("{name}.example.com:51820")).unwrap()],
            address: first.parse().unwrap(),
            own: vec![own],
            link_port: 51_899,
            key_file: None,
            preshared_key_file: None,
        }
    }

    fn public(key: u8) -> PublicKey {
        PrivateKey::from_bytes([key; 32]).public()
    }

    fn file() -> &'static Path {
        Path::new("forwarder.toml")
    }

    fn parsed(text: &str) -> Policy {
        policy::forwarder::parse(&Source { name: file(), text })
            .unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
    }
}
