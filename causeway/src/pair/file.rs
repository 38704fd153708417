//! The edge's configuration with another peer, or with another key for one; comments and order are
//! kept.

use std::net::IpAddr;

use policy::{Name, PublicPorts};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TomlError, value};
use tunnel::key::PublicKey;

/// What is written of a peer.
#[derive(Clone, Debug)]
pub(super) struct NewPeer {
    /// Its name.
    pub(super) name: Name,
    /// Its public key.
    pub(super) key: PublicKey,
    /// Its addresses in the tunnel; a peer that is there keeps its own.
    pub(super) addresses: Vec<IpAddr>,
    /// What it may open by itself; `None` keeps what a peer that is there has.
    pub(super) may_publish: Option<Vec<PublicPorts>>,
}

/// Why a text cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// It is no TOML.
    #[error("{0}")]
    Toml(#[from] TomlError),
    /// The peers are written in another form.
    #[error("the peers are written as one array; write each as a [[peer]] section, so that one can be added")]
    PeersInOneLine,
}

/// The text with this peer.
///
/// # Errors
/// [`EditError`]
pub(super) fn with_peer(text: &str, peer: &NewPeer) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let peers = document.entry("peer").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let peers = peers.as_array_of_tables_mut().ok_or(EditError::PeersInOneLine)?;
    let is_same = |table: &&mut Table| table.get("name").and_then(Item::as_str) == Some(peer.name.as_str());
    let known = peers.iter_mut().find(is_same);
    if let Some(table) = known {
        change(table, peer);
    } else {
        peers.push(made(peer));
    }
    Ok(document.to_string())
}

/// Only the values: comments next to them stay.
fn change(table: &mut Table, peer: &NewPeer) {
    set(table, "public_key", value(peer.key.to_string()));
    if let Some(ports) = &peer.may_publish {
        set(table, "may_publish", array(ports));
    }
}

fn set(table: &mut Table, key: &str, mut item: Item) {
    let decor = table.get(key).and_then(Item::as_value).map(|old| old.decor().clone());
    if let (Some(decor), Some(new)) = (decor, item.as_value_mut()) {
        *new.decor_mut() = decor;
    }
    table.insert(key, item);
}

fn made(peer: &NewPeer) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("name", value(peer.name.as_str()));
    table.insert("public_key", value(peer.key.to_string()));
    let prefix = |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    table.insert("allowed_ips", array(&peer.addresses.iter().map(prefix).collect::<Vec<_>>()));
    if let Some(ports) = peer.may_publish.as_ref().filter(|ports| !ports.is_empty()) {
        table.insert("may_publish", array(ports));
    }
    table
}

fn array<T: ToString>(items: &[T]) -> Item {
    value(items.iter().map(ToString::to_string).collect::<Array>())
}

#[cfg(test)]
mod tests {
    use tunnel::key::PrivateKey;

    use super::*;

    const BARE: &str = "# The edge in Kyiv.\n\n[interface]   # the tunnel\naddress = [\"10.77.88.1/24\"]\n\
        private_key_file = \"kyiv.key\"\n\n# Nothing below this line.\n";

    #[test]
    fn a_first_peer_is_added_and_nothing_else_changes() {
        let text = with_peer(BARE, &peer("wroclaw")).unwrap();
        let added = format!(
            "\n[[peer]]\nname = \"wroclaw\"\npublic_key = \"{}\"\nallowed_ips = [\"10.77.88.2/32\"]\n\
             may_publish = [\"80\", \"443\", \"443/udp\"]\n",
            key()
        );
        let (before, after) = BARE.split_at(BARE.find("\n# Nothing").unwrap());
        assert_eq!(text, format!("{before}{added}{after}"));
    }

    #[test]
    fn a_further_peer_comes_after_the_last_one() {
        let text = with_peer(&two_peers(), &peer("gdansk")).unwrap();
        let place = |text: &str, part: &str| text.find(part).unwrap_or_else(|| panic!("{part} in {text}"));
        assert!(place(&text, "gdansk") > place(&text, "allowed_ips = [\"10.77.88.3/32\"]"));
        assert!(place(&text, "gdansk") < place(&text, "# A public port"));
        let without =
            |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (without(&two_peers()), without(&text));
        assert_eq!(after.len(), before.len() + 5);
        assert!(before.iter().all(|line| after.contains(line)));
    }

    #[test]
    fn a_peer_that_is_there_gets_another_key_and_keeps_the_rest() {
        let again = NewPeer { may_publish: None, ..peer("wroclaw") };
        let text = with_peer(&two_peers(), &again).unwrap();
        assert_eq!(text, two_peers().replacen("\"OLD\"", &format!("\"{}\"", key()), 1));
        let more = NewPeer { may_publish: Some(vec![PublicPorts::parse("25").unwrap()]), ..peer("wroclaw") };
        let text = with_peer(&two_peers(), &more).unwrap();
        assert!(text.contains("may_publish = [\"25\"]   # the web\n"), "{text}");
    }

    #[test]
    fn peers_in_one_array_are_refused_and_not_rewritten() {
        let text = format!("peer = []\n{BARE}");
        assert!(matches!(with_peer(&text, &peer("wroclaw")), Err(EditError::PeersInOneLine)));
    }

    fn two_peers() -> String {
        format!(
            "{BARE}\n# The Mac.\n[[peer]]\nname = 'wroclaw'\npublic_key = \"OLD\"  # of 2026\n\
             allowed_ips = [ \"10.77.88.2/32\",\n  \"192.168.88.0/24\" ]\nmay_publish = [\"443\"]   # the web\n\n\
             [[peer]]\nname = \"oracle\"\npublic_key = \"OTHER\"\nallowed_ips = [\"10.77.88.3/32\"]\n\n\
             # A public port.\n[[publish]]\nname = \"https\"\n# End.\n"
        )
    }

    fn peer(name: &str) -> NewPeer {
        NewPeer {
            name: Name::new(name).unwrap(),
            key: key(),
            addresses: vec!["10.77.88.2".parse().unwrap()],
            may_publish: Some(
                ["80", "443", "443/udp"].map(|ports| PublicPorts::parse(ports).unwrap()).to_vec(),
            ),
        }
    }

    fn key() -> PublicKey {
        PrivateKey::from_bytes([2; 32]).public()
    }
}
