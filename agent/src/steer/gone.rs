//! Addresses of edges that were in the configuration and are no longer: pure.

use std::net::Ipv4Addr;

use policy::forwarder::Policy;

/// The most addresses that are remembered.
const MAX_GONE: usize = 64;

/// A steered name, the addresses of its edges, and those of edges that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    name: Option<String>,
    present: Vec<Ipv4Addr>,
    gone: Vec<Ipv4Addr>,
}

impl Gone {
    /// As it is with this configuration after the one before. Of another name nothing is known, and
    /// a name that is steered no longer stays as it is.
    #[must_use]
    pub fn after(&self, policy: Option<&Policy>) -> Self {
        let name = policy.and_then(|policy| policy.steer.as_ref()).map(|steer| steer.name.clone());
        let peers = policy.map(|policy| policy.peers.as_slice()).unwrap_or_default();
        let present: Vec<Ipv4Addr> = peers.iter().filter_map(|peer| peer.public_address).collect();
        let mut gone = Vec::new();
        if name.is_some() && name == self.name {
            for address in self.gone.iter().chain(&self.present) {
                if !present.contains(address) && !gone.contains(address) {
                    gone.push(*address);
                }
            }
        }
        gone.drain(..gone.len().saturating_sub(MAX_GONE));
        Self { name, present, gone }
    }

    /// The addresses that the name must not have any more.
    #[must_use]
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.gone
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use policy::Source;

    use super::*;

    #[test]
    fn an_edge_that_leaves_the_configuration_is_remembered_until_it_comes_back() {
        let both = Gone::default().after(Some(&steered("home.example.com", &[2, 3])));
        assert!(both.addresses().is_empty(), "what was there before the start is not known");
        let one = both.after(Some(&steered("home.example.com", &[2, 4])));
        assert_eq!(one.addresses(), [address(3)]);
        let same = one.after(Some(&steered("home.example.com", &[2, 4])));
        assert_eq!(same, one, "however often the file changes");
        let another = same.after(Some(&steered("home.example.com", &[2, 5])));
        assert_eq!(another.addresses(), [address(3), address(4)]);
        let back = another.after(Some(&steered("home.example.com", &[2, 3])));
        assert_eq!(back.addresses(), [address(4), address(5)]);
    }

    #[test]
    fn addresses_of_one_name_are_none_of_another_names() {
        let one = Gone::default().after(Some(&steered("home.example.com", &[2, 3])));
        assert!(one.after(Some(&steered("www.example.com", &[2, 4]))).addresses().is_empty());
        let again = one.after(None).after(Some(&steered("home.example.com", &[2, 4])));
        assert!(again.addresses().is_empty());
    }

    #[test]
    fn the_oldest_is_forgotten_where_there_are_too_many() {
        let mut gone = Gone::default();
        for number in 0..=u8::try_from(MAX_GONE).unwrap() + 1 {
            gone = gone.after(Some(&steered("home.example.com", &[200, number])));
        }
        assert_eq!(gone.addresses().len(), MAX_GONE);
        assert_eq!(gone.addresses().first(), Some(&address(1)));
    }

    fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, number)
    }

    fn steered(name: &str, edges: &[u8]) -> Policy {
        let keys =
            ["CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "j3T5Vv0uQeVHYpLSWqsd8i3y3JA1Bq4EuxcCfNRgMjs="];
        let mut text =
            "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"a.key\"\n".to_owned();
        for ((place, number), key) in edges.iter().enumerate().zip(keys) {
            text += &format!(
                "[[peer]]\nname = \"edge{place}\"\npublic_key = \"{key}\"\nendpoint = \"192.0.2.{number}:51820\"\n\
                 address = [\"10.77.{place}.2/30\"]\npublic_address = \"192.0.2.{number}\"\n"
            );
        }
        text += &format!(
            "[steer]\nname = \"{name}\"\nzone = \"example.com\"\nserver = \"ns1.example.com\"\nkey_file = \"a.tsig\"\n"
        );
        let source = Source { name: Path::new("forwarder.toml"), text: &text };
        policy::forwarder::parse(&source).unwrap_or_else(|errors| panic!("{errors:?}"))
    }
}
