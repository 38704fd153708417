//! `[dns]`: the edge's own names, whose records `causeway-agent` keeps at its public address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::change::Settings;
use crate::dns::{self, Authority, absolute, server_of};
use crate::prefix::is_special;
use crate::reader::{Table, Value};
use crate::{FileRef, Host, HostPort, Problem, fields, text};

/// The most names of one edge.
const MAX_NAMES: usize = 16;
/// How often an address is asked for, unless the file says otherwise.
const INTERVAL: Duration = Duration::from_secs(300);

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The edge's own names in lower case, without a final dot; 1 to 16, each in the zone.
    pub names: Vec<String>,
    /// The zone that holds them.
    pub zone: String,
    /// Who holds the zone.
    pub authority: Authority,
    /// The TSIG key, or the API token: a file that `causeway-agent` alone may read.
    pub key_file: FileRef,
    /// How the public address is found out.
    pub address: AddressSource,
    /// How often it is asked for where it has to be; 10 s to 24 h.
    pub interval: Duration,
}

/// How the edge's public address is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// It is an address of the interface towards the internet.
    Interface,
    /// It is this one.
    Fixed(Ipv4Addr),
    /// A page has it as its only text.
    Page(String),
    /// A name server answers with it when it is asked for the A record of a name.
    Query {
        /// The name server.
        server: HostPort,
        /// The name.
        name: String,
    },
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface => f.write_str("interface"),
            Self::Fixed(address) => address.fmt(f),
            Self::Page(url) => f.write_str(url),
            Self::Query { server, name } => write!(f, "dns://{server}/{name}"),
        }
    }
}

impl Dns {
    /// Every key with its value, as they are written.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        let (authority, who) = self.authority.written();
        vec![
            ("zone", self.zone.clone()),
            (authority, who),
            ("key_file", self.key_file.location.to_string()),
            ("address", self.address.to_string()),
            ("interval", format!("{}s", self.interval.as_secs())),
        ]
    }
}

/// Notes what `new` has otherwise than `old`.
pub(super) fn note_changes(old: Option<&Dns>, new: Option<&Dns>, changes: &mut Settings) {
    let of = |dns: Option<&Dns>| dns.map(Dns::keys).unwrap_or_default();
    let names = |dns: Option<&Dns>| dns.map(|dns| dns.names.clone()).unwrap_or_default();
    changes.values("dns", "name", &names(old), &names(new));
    let (before, after) = (of(old), of(new));
    for key in ["zone", "server", "provider", "key_file", "address", "interval"] {
        let value = |keys: &[(&str, String)]| {
            keys.iter().find(|(name, _)| *name == key).map_or("none".to_owned(), |(_, value)| value.clone())
        };
        changes.field("dns", key, &value(&before), &value(&after));
    }
}

/// `[dns]`; `own` is the edge's public name. `None` without the section, and after an error in it.
pub(super) fn dns(root: &Table<'_>, own: Option<&Host>) -> Option<Dns> {
    let table = root.table("dns", "[dns]")?;
    let own = own.and_then(|own| match own {
        Host::Name(name) => absolute(name),
        Host::Address(_) => None,
    });
    let written = if own.is_some() { table.optional("name") } else { table.required("name") };
    let names = match (written, own) {
        (Some(written), _) => names(written),
        (None, own) => own.into_iter().collect(),
    };
    let zone = table.optional("zone").map(dns::zone);
    let authority = dns::authority(&table, "[dns]");
    let key_file = table.required("key_file").and_then(fields::file);
    let address = table.optional("address").map_or(Some(AddressSource::Interface), address);
    let interval = table.optional("interval").map_or(Some(INTERVAL), interval);
    table.close();
    let zone = dns::zone_of(zone, names.first()?)?;
    dns::all_within(&names, &zone, &table, written);
    let dns = Dns {
        names,
        zone,
        authority: authority?,
        key_file: key_file?,
        address: address?,
        interval: interval?,
    };
    (!dns.names.is_empty()).then_some(dns)
}

fn names(value: Value<'_>) -> Vec<String> {
    let items = value.one_or_many();
    if items.len() > MAX_NAMES {
        value.report(Problem::TooMany { what: "name", limit: MAX_NAMES });
        return Vec::new();
    }
    let mut names = Vec::new();
    for item in items {
        let Some(name) = item.parse("a DNS name, such as \"kyiv.example.com\"", absolute) else { continue };
        if names.contains(&name) {
            item.report(Problem::DuplicateName { name: name.clone(), kind: "name of [dns]" });
        }
        names.push(name);
    }
    names
}

fn address(value: Value<'_>) -> Option<AddressSource> {
    let expected = "\"interface\", a public IPv4 address, the https:// address of a page that shows yours, \
                    or dns://SERVER/NAME";
    value.parse(expected, |written| {
        if written == "interface" {
            return Some(AddressSource::Interface);
        }
        if let Some(query) = written.strip_prefix("dns://") {
            let (at, name) = query.split_once('/')?;
            return Some(AddressSource::Query { server: server_of(at)?, name: absolute(name)? });
        }
        match written.parse::<Ipv4Addr>() {
            Ok(own) => (!is_special(IpAddr::V4(own))).then_some(AddressSource::Fixed(own)),
            Err(_) => text::private_or_tls(written).map(AddressSource::Page),
        }
    })
}

fn interval(value: Value<'_>) -> Option<Duration> {
    value.parse("a time from \"10s\" to \"24h\"", |written| {
        text::duration(written)
            .filter(|time| (10..=86_400).contains(&time.as_secs()) && time.subsec_nanos() == 0)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Source;
    use crate::gateway::parse;

    const REST: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n";

    #[test]
    fn the_name_of_the_wan_is_the_default_and_its_parent_the_zone() {
        let dns = read(
            "[wan]\nname = \"Kyiv.example.com.\"\n[dns]\nserver = \"ns1.example.com\"\nkey_file = \"d\"",
        );
        assert_eq!((dns.names.join(" "), dns.zone.as_str()), ("kyiv.example.com".to_owned(), "example.com"));
        assert_eq!(dns.authority.written(), ("server", "ns1.example.com:53".to_owned()));
        assert_eq!((dns.address, dns.interval), (AddressSource::Interface, INTERVAL));
    }

    #[test]
    fn every_way_to_find_out_the_address_is_read_and_written_alike() {
        for address in [
            "interface",
            "203.0.113.9",
            "https://ip.example.com/",
            "http://192.168.1.1/status",
            "http://10.0.0.1:8080/ip",
            "dns://resolver1.example.com:53/myip.example.com",
        ] {
            let dns = read(&with(&format!("address = \"{address}\"")));
            assert_eq!(dns.address.to_string(), address);
        }
        for address in [
            "192.168.1.2",
            "100.64.0.2",
            "2001:db8::1",
            "http://ip.example.com/",
            "http://203.0.113.1/",
            "dns://resolver1.example.com",
            "dns:///myip",
            "auto",
        ] {
            assert_eq!(errors(&with(&format!("address = \"{address}\""))).len(), 1, "{address}");
        }
    }

    #[test]
    fn one_mistake_is_one_error() {
        for wrong in [
            "[dns]\nname = \"kyiv\"\nserver = \"ns1.example.com\"\nkey_file = \"d\"",
            "[dns]\nnmae = \"kyiv.example.com\"\nserver = \"ns1.example.com\"\nkey_file = \"d\"",
            "[dns]\nname = \"kyiv.example.com\"\nkey_file = \"d\"",
            "[dns]\nname = \"kyiv.example.com\"\nsevrer = \"ns1.example.com\"\nkey_file = \"d\"",
            "[dns]\nname = \"kyiv.example.com\"\nserver = \"ns1.example.com\"",
            "[dns]\nname = \"kyiv.example.com\"\nprovider = \"claudflare\"\nkey_file = \"d\"",
            &with("provider = \"cloudflare\""),
            &with("zone = \"example.org\""),
            &with("zone = \"ample.com\""),
            &with("interval = \"5s\""),
            &with("interval = \"25h\""),
        ] {
            assert_eq!(errors(wrong).len(), 1, "{wrong}: {:#?}", errors(wrong));
        }
    }

    #[test]
    fn sixteen_names_are_the_most() {
        let with = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("\"n{number}.example.com\"")).collect();
            format!("[dns]\nname = [{}]\nserver = \"ns1\"\nkey_file = \"d\"", names.join(", "))
        };
        assert_eq!(read(&with(MAX_NAMES)).names.len(), MAX_NAMES);
        assert!(errors(&with(MAX_NAMES + 1))[0].to_string().contains("the most is 16"));
    }

    fn with(line: &str) -> String {
        format!("[dns]\nname = \"kyiv.example.com\"\nserver = \"ns1.example.com\"\nkey_file = \"d\"\n{line}")
    }

    fn read(section: &str) -> Dns {
        let text = format!("{REST}{section}");
        let policy = parse(&Source { name: Path::new("gateway.toml"), text: &text });
        let policy = policy.unwrap_or_else(|errors| panic!("{section}: {errors:#?}"));
        let again = parse(&Source { name: Path::new("gateway.toml"), text: &policy.to_toml() });
        assert_eq!(again.map(|again| again.dns).ok(), Some(policy.dns.clone()), "{section}");
        policy.dns.unwrap()
    }

    fn errors(section: &str) -> Vec<crate::ConfigError> {
        let text = format!("{REST}{section}");
        parse(&Source { name: Path::new("gateway.toml"), text: &text }).err().unwrap_or_default()
    }
}
