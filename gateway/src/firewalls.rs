//! Which other programs have firewall rules on this machine, by the names they give their tables
//! and chains. The rules stay, and are asked in addition to ours.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::kernel::nft;

/// A program with rules of its own, or a table whose program is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firewall {
    /// Ubuntu's and Debian's `ufw`.
    Ufw,
    /// Fedora's and Red Hat's `firewalld`.
    Firewalld,
    /// Docker, which publishes ports of containers.
    Docker,
    /// Podman's network (netavark), which publishes ports of containers.
    Podman,
    /// `fail2ban`, which bans sources.
    Fail2ban,
    /// A table with rules of unknown origin.
    Table {
        /// Its family.
        family: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ufw => f.write_str("ufw"),
            Self::Firewalld => f.write_str("firewalld"),
            Self::Docker => f.write_str("Docker"),
            Self::Podman => f.write_str("Podman"),
            Self::Fail2ban => f.write_str("fail2ban"),
            Self::Table { family, name } => write!(f, "the table {family} {name}"),
        }
    }
}

/// The program that makes such chains, in the tables of iptables or in its own.
fn by_chain(name: &str) -> Option<Firewall> {
    let known = [
        ("ufw-", Firewall::Ufw),
        ("DOCKER", Firewall::Docker),
        ("NETAVARK", Firewall::Podman),
        ("f2b-", Firewall::Fail2ban),
    ];
    known.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, firewall)| firewall)
}

/// The program that makes such tables.
fn by_table(name: &str) -> Option<Firewall> {
    let known = [
        ("firewalld", Firewall::Firewalld),
        ("docker-bridges", Firewall::Docker),
        ("netavark", Firewall::Podman),
        ("f2b-table", Firewall::Fail2ban),
    ];
    known.into_iter().find(|(table, _)| name == *table).map(|(_, firewall)| firewall)
}

/// The firewalls in what `nft -j list ruleset` prints; tables without any rule are left out.
#[must_use]
pub fn firewalls(listing: &str) -> Vec<Firewall> {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let (mut known, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut with_rules = BTreeSet::new();
    for object in objects {
        let of = |kind: &str, key: &str| Some(object.get(kind)?.get(key)?.as_str()?.to_owned());
        if let (Some(family), Some(table), Some(name)) =
            (of("chain", "family"), of("chain", "table"), of("chain", "name"))
        {
            if let Some(firewall) = by_chain(&name).or_else(|| by_table(&table)) {
                found.insert(firewall);
                known.insert((family, table));
            }
        } else if let (Some(family), Some(table)) = (of("rule", "family"), of("rule", "table")) {
            with_rules.insert((family, table));
        }
    }
    let others = with_rules.difference(&known);
    let others = others.filter(|(family, name)| !(family == nft::FAMILY && name == nft::TABLE));
    found.extend(others.map(|(family, name)| Firewall::Table { family: family.clone(), name: name.clone() }));
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_are_known_by_their_chains_and_tables() {
        let listing = json!({"nftables": [
            chain("ip", "filter", "ufw-user-input"), rule("ip", "filter", "ufw-user-input"),
            chain("ip", "nat", "DOCKER"), rule("ip", "nat", "DOCKER"),
            chain("inet", "firewalld", "filter_INPUT"), rule("inet", "firewalld", "filter_INPUT"),
        ]});
        let names: Vec<String> = firewalls(&listing.to_string()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["ufw", "firewalld", "Docker"]);
    }

    #[test]
    fn a_table_of_unknown_origin_is_named_unless_it_is_empty_or_ours() {
        let listing = json!({"nftables": [
            {"table": {"family": "inet", "name": "filter"}}, chain("inet", "filter", "input"),
            {"table": {"family": "inet", "name": "mine"}}, chain("inet", "mine", "input"), rule("inet", "mine", "input"),
            chain("inet", "causeway", "input"), rule("inet", "causeway", "input"),
        ]});
        let mine = Firewall::Table { family: "inet".to_owned(), name: "mine".to_owned() };
        assert_eq!(firewalls(&listing.to_string()), [mine]);
        assert_eq!(firewalls(""), []);
    }

    fn chain(family: &str, table: &str, name: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": name}})
    }

    fn rule(family: &str, table: &str, chain: &str) -> Value {
        json!({"rule": {"family": family, "table": table, "chain": chain, "expr": []}})
    }
}
