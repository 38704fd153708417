//! Answers to what `causeway setup` asks or proposes, by the names that `gateway.toml` has for
//! them.

use ipnetwork::IpNetwork;

use super::model::Accept;
use super::sides;
use crate::fields;
use crate::reader::{Reader, Table, Value};
use crate::{ConfigError, Host, InterfaceName, Source};

/// What an operator has decided about an edge that has no configuration yet; `None` leaves it to
/// the proposal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// `[interface] address`.
    pub address: Option<Vec<IpNetwork>>,
    /// `[interface] listen_port`.
    pub listen_port: Option<u16>,
    /// `[wan] name`.
    pub name: Option<Host>,
    /// `[wan] accept`.
    pub accept: Option<Vec<Accept>>,
    /// `[lan] prefixes`.
    pub lan: Option<Vec<IpNetwork>>,
    /// `[lan] interfaces`.
    pub lan_interfaces: Option<Vec<InterfaceName>>,
}

/// Reads the text of an answers file.
///
/// # Errors
/// Every error in the text at once, in the order of the text; never an empty list.
pub fn parse_answers(source: &Source<'_>) -> Result<Answers, Vec<ConfigError>> {
    Reader::read_file(source, |root, _| Some(read(root))).map(|(answers, _)| answers)
}

/// A value that is bad was reported, and then the answers are not used.
fn read(root: &Table<'_>) -> Answers {
    let mut answers = Answers::default();
    if let Some(table) = root.table("interface", "[interface]") {
        answers.address = table.optional("address").and_then(fields::own_addresses);
        answers.listen_port = table.optional("listen_port").and_then(fields::port);
        table.close();
    }
    if let Some(table) = root.table("wan", "[wan]") {
        answers.name = table.optional("name").and_then(sides::public_name);
        let accept = table.optional("accept").map(|value| value.items("an array of strings"));
        answers.accept = accept
            .map(|items| items.into_iter().filter_map(sides::accepted).map(|accept| accept.value).collect());
        table.close();
    }
    if let Some(table) = root.table("lan", "[lan]") {
        let prefixes = table.optional("prefixes").map(|value| value.items("an array of prefixes"));
        answers.lan = prefixes
            .map(|items| items.into_iter().filter_map(sides::lan_prefix).map(|lan| lan.value).collect());
        answers.lan_interfaces = table.optional("interfaces").and_then(lan_interfaces);
        table.close();
    }
    root.close();
    answers
}

fn lan_interfaces(value: Value<'_>) -> Option<Vec<InterfaceName>> {
    let named = sides::interfaces(value.one_or_many())?;
    Some(named.into_iter().map(|name| name.value).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_answered_is_known_and_the_rest_is_left_to_the_proposal() {
        let answers = parsed(
            "[interface]\nlisten_port = 51821\n[wan]\nname = \"kyiv.example.com\"\n\
             [lan]\nprefixes = []\n",
        )
        .unwrap();
        assert_eq!(answers.listen_port, Some(51_821));
        assert_eq!(answers.name, crate::text::host("kyiv.example.com"));
        assert_eq!(answers.lan, Some(Vec::new()), "none is an answer");
        assert_eq!((answers.address, answers.accept, answers.lan_interfaces), (None, None, None));
        assert_eq!(parsed("").unwrap(), Answers::default());
    }

    #[test]
    fn every_mistake_is_reported_at_its_place_with_the_nearest_key() {
        let text = "[wan]\nnam = \"kyiv.example.com\"\naccept = [\"22\"]\n[lan]\nprefixes = [\"192.168.1.2/24\"]\n\
                    [[peer]]\nname = \"wroclaw\"\n";
        let lines: Vec<String> = parsed(text).unwrap_err().iter().map(ToString::to_string).collect();
        let [name, accept, prefix, peer] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(name.starts_with("answers.toml:2:1: [wan] has no key \"nam\"; "), "{name}");
        assert!(name.contains("\"name\"") || name.contains("`name`"), "{name}");
        assert!(accept.starts_with("answers.toml:3:11: "), "{accept}");
        assert!(prefix.starts_with("answers.toml:5:13: ") && prefix.contains("192.168.1.0/24"), "{prefix}");
        assert!(peer.starts_with("answers.toml:6:") && peer.contains("interface, wan, lan"), "{peer}");
    }

    fn parsed(text: &str) -> Result<Answers, Vec<ConfigError>> {
        parse_answers(&Source { name: Path::new("answers.toml"), text })
    }
}
