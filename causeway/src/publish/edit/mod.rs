//! What `publish` and `unpublish` make of forwarder.toml: text in, text out. Every other line stays
//! as it is.

mod array;
mod document;
mod first;
mod http;

use policy::forwarder::{Policy, ProxyProtocol, Service, parse};
use policy::{ConfigError, Protocol, Protocols, Source};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use self::document::{Entry, Form, Place, entry};
use super::request::NewService;

pub(super) use self::first::{SITES, add_first};
pub(super) use self::http::{add_http, http_service, remove_http};

/// The port of HTTPS.
pub(super) const HTTPS: u16 = 443;

/// A changed file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edited {
    /// The file's new text; the old one where there was nothing to change.
    pub(super) text: String,
    /// The services that it is about.
    pub(super) services: Vec<String>,
}

/// Why a file is not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// It is not valid as it is.
    #[error("{}", lines(.0))]
    Invalid(Vec<ConfigError>),
    /// It would not be valid any more.
    #[error("{file} stays as it is: with this change it would not be valid:\n{}", lines(.errors))]
    WouldBeInvalid {
        /// The file.
        file: String,
        /// What would be wrong, with the lines of the changed text.
        errors: Vec<ConfigError>,
    },
    /// The two readers of TOML differ about it.
    #[error("{file} cannot be edited: {error}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        error: String,
    },
    /// No service has port 443.
    #[error(
        "{file} has no [[service]] on port 443. Where Caddy listens for the forwarder as in the sample, run first: \
         causeway publish https 443 --upstream 127.0.0.1:8443 --proxy-protocol v2"
    )]
    NoWebService {
        /// The file.
        file: String,
    },
    /// More than one has it.
    #[error("{file} has several services on port 443 ({names}): choose one with --service NAME")]
    SeveralWebServices {
        /// The file.
        file: String,
        /// Their names.
        names: String,
    },
    /// There is no service of this name that takes TCP.
    #[error("{file} has no [[service]] {name} for TCP; it has: {names}")]
    NoSuchService {
        /// The file.
        file: String,
        /// What was asked for.
        name: String,
        /// Those that there are.
        names: String,
    },
    /// The service exists and is another one.
    #[error(
        "{file} has another [[service]] {name}: change it there, or run `causeway unpublish {name}` first"
    )]
    Exists {
        /// The file.
        file: String,
        /// Its name.
        name: String,
    },
    /// Nothing is published by this name.
    #[error("{file} publishes nothing as {name}; it publishes: {names}")]
    NotPublished {
        /// The file.
        file: String,
        /// What was asked for.
        name: String,
        /// What is published.
        names: String,
    },
    /// The service is what its names are published by.
    #[error("[[service]] {name} of {file} has names ({names}): unpublish them first")]
    HasNames {
        /// The file.
        file: String,
        /// The service.
        name: String,
        /// Its names.
        names: String,
    },
}

/// Adds a host name to the service on port 443, or to the one of the name `wanted`.
pub(super) fn add_name(file: &Source<'_>, name: &str, wanted: Option<&str>) -> Result<Edited, EditError> {
    let policy = read(file)?;
    let service = web_service(file, &policy, name, wanted)?;
    let services = vec![service.name.to_string()];
    if has_name(service, name) {
        return Ok(Edited { text: file.text.to_owned(), services });
    }
    let text = rewritten(file, |document| {
        if let Some(place) = document::place(document, service.name.as_str()) {
            write_name(document, place, name);
        }
    })?;
    Ok(Edited { text, services })
}

/// Adds a service of its own.
pub(super) fn add_service(file: &Source<'_>, new: &NewService) -> Result<Edited, EditError> {
    let policy = read(file)?;
    let services = vec![new.name.to_string()];
    if let Some(old) = policy.services.iter().find(|service| service.name == new.name) {
        return if is_same(file, old, new) {
            Ok(Edited { text: file.text.to_owned(), services })
        } else {
            Err(EditError::Exists { file: shown(file), name: new.name.to_string() })
        };
    }
    let text = rewritten(file, |document| write_service(document, service_table(new)))?;
    Ok(Edited { text, services })
}

/// Whether a service of the file is the one that is to be published. Its upstream is compared as the
/// file would mean it: an address may be written in several ways.
fn is_same(file: &Source<'_>, old: &Service, new: &NewService) -> bool {
    let ports = old.publish.as_ref().map(|publish| publish.ports.as_slice()).unwrap_or_default();
    let has_ports = ports.len() == new.ports.len() && new.ports.iter().all(|port| ports.contains(port));
    let same_upstream = || {
        let written = rewritten(file, |document| {
            if let Some(place) = document::place(document, old.name.as_str())
                && let Some(upstream) =
                    entry(document, place).as_mut().and_then(|entry| entry.value("upstream"))
            {
                *upstream = new.upstream.as_str().into();
            }
        });
        let after = written.ok().and_then(|text| read(&Source { name: file.name, text: &text }).ok());
        let service =
            after.and_then(|policy| policy.services.into_iter().find(|service| service.name == old.name));
        service.is_some_and(|service| service.upstreams == old.upstreams)
    };
    has_ports && new.proxy_protocol == old.proxy_protocol && same_upstream()
}

/// Removes a host name from every service that has it, and with the last one what was added for
/// names on port 80; or else the service of that name.
pub(super) fn remove(file: &Source<'_>, name: &str) -> Result<Edited, EditError> {
    let policy = read(file)?;
    let named: Vec<_> = policy.services.iter().filter(|service| has_name(service, name)).collect();
    if named.is_empty() {
        return remove_service(file, &policy, name);
    }
    let text = rewritten(file, |document| {
        for service in &named {
            if let Some(place) = document::place(document, service.name.as_str()) {
                remove_name(document, place, name);
            }
        }
    })?;
    let text = http::remove_without_names(&Source { name: file.name, text: &text })?.text;
    Ok(Edited { text, services: named.iter().map(|service| service.name.to_string()).collect() })
}

fn remove_service(file: &Source<'_>, policy: &Policy, name: &str) -> Result<Edited, EditError> {
    let found = policy.services.iter().find(|service| service.name.as_str() == name);
    let Some(service) = found.filter(|service| service.publish.is_some()) else {
        let names = published(policy);
        return Err(EditError::NotPublished { file: shown(file), name: name.to_owned(), names });
    };
    if !service.names.is_empty() {
        let (names, name) = (service.names.join(", "), name.to_owned());
        return Err(EditError::HasNames { file: shown(file), name, names });
    }
    let text = rewritten(file, |document| {
        let Some(place) = document::place(document, name) else { return };
        // With a match it serves more than what is published.
        match entry(document, place) {
            Some(mut entry) if entry.has("match") => withdraw(&mut entry, service.protocols),
            _ => document::remove(document, place),
        }
    })?;
    Ok(Edited { text, services: vec![name.to_owned()] })
}

/// Takes what an entry publishes. Its protocols stay, although they came from what it published.
fn withdraw(entry: &mut Entry<'_>, protocols: Protocols) {
    entry.take("publish");
    if !entry.has("protocol") && protocols != Protocols::Tcp {
        entry.insert("protocol", Array::from_iter(protocols.iter().map(Protocol::as_str)).into());
    }
}

/// The service that takes visitors of host names.
fn web_service<'p>(
    file: &Source<'_>,
    policy: &'p Policy,
    name: &str,
    wanted: Option<&str>,
) -> Result<&'p Service, EditError> {
    let tcp: Vec<_> =
        policy.services.iter().filter(|service| service.protocols.contains(Protocol::Tcp)).collect();
    if let Some(wanted) = wanted {
        let found = tcp.iter().find(|service| service.name.as_str() == wanted);
        return found.copied().ok_or_else(|| EditError::NoSuchService {
            file: shown(file),
            name: wanted.to_owned(),
            names: list(tcp.iter().map(|service| service.name.as_str())),
        });
    }
    let on_https: Vec<_> = tcp.into_iter().filter(|service| service.is_on(HTTPS)).collect();
    let requests = |service: &&Service| service.publish.is_some();
    let mut found: Vec<_> = on_https.iter().copied().filter(requests).collect();
    if found.is_empty() {
        // The edge may publish it by its own file.
        found = on_https;
    }
    match found.as_slice() {
        [] => Err(EditError::NoWebService { file: shown(file) }),
        [service] => Ok(service),
        several => several.iter().copied().find(|service| has_name(service, name)).ok_or_else(|| {
            let names = list(several.iter().map(|service| service.name.as_str()));
            EditError::SeveralWebServices { file: shown(file), names }
        }),
    }
}

fn has_name(service: &Service, name: &str) -> bool {
    service.names.iter().any(|known| **known == *name)
}

/// Everything that `unpublish` takes.
fn published(policy: &Policy) -> String {
    let names = policy.services.iter().flat_map(|service| service.names.iter().map(AsRef::as_ref));
    let services = policy.services.iter().filter(|service| service.publish.is_some());
    list(names.chain(services.map(|service| service.name.as_str())))
}

fn write_name(document: &mut DocumentMut, place: Place, name: &str) {
    let Some(mut entry) = entry(document, place) else { return };
    match entry.value("names") {
        Some(Value::Array(names)) => array::push(names, name.into()),
        Some(written) => {
            let decor = written.decor().clone();
            let first = written.as_str().unwrap_or_default().to_owned();
            let mut names: Value = Array::from_iter([first.as_str(), name]).into();
            *names.decor_mut() = decor;
            *written = names;
        }
        None => entry.insert("names", Array::from_iter([name]).into()),
    }
}

fn remove_name(document: &mut DocumentMut, place: Place, name: &str) {
    let Some(mut entry) = entry(document, place) else { return };
    let is_named = |value: &Value| value.as_str().is_some_and(|written| same_name(written, name));
    match entry.value("names") {
        Some(Value::Array(names)) if names.len() > 1 => {
            let index = names.iter().position(is_named);
            index.into_iter().for_each(|index| array::remove(names, index));
        }
        Some(_) => entry.take("names"),
        None => {}
    }
}

/// Whether a name of the file is this one, which is in lower case and has no final dot.
fn same_name(written: &str, name: &str) -> bool {
    written.trim_end_matches('.').eq_ignore_ascii_case(name)
}

fn service_table(new: &NewService) -> Table {
    let mut table = Table::new();
    table.insert("name", Item::Value(new.name.as_str().into()));
    table.insert("upstream", Item::Value(new.upstream.as_str().into()));
    let ports = new.ports.iter().map(|ports| match ports.protocol {
        Protocol::Tcp if ports.ports.count() == 1 => Value::from(i64::from(ports.ports.first())),
        Protocol::Tcp | Protocol::Udp => Value::from(ports.to_string()),
    });
    table.insert("publish", Item::Value(Array::from_iter(ports).into()));
    let proxy = match new.proxy_protocol {
        ProxyProtocol::Off => return table,
        ProxyProtocol::V1 => "v1",
        ProxyProtocol::V2 => "v2",
    };
    table.insert("proxy_protocol", Item::Value(proxy.into()));
    table
}

fn write_service(document: &mut DocumentMut, mut table: Table) {
    table.decor_mut().set_prefix("\n");
    match document.get_mut("service") {
        Some(Item::ArrayOfTables(tables)) => tables.push(table),
        Some(Item::Value(Value::Array(tables))) => {
            array::push(tables, Value::InlineTable(table.into_inline_table()));
        }
        Some(_) => {}
        None => {
            let mut tables = ArrayOfTables::new();
            tables.push(table);
            document.insert("service", Item::ArrayOfTables(tables));
        }
    }
}

/// The file as a policy.
pub(super) fn read(file: &Source<'_>) -> Result<Policy, EditError> {
    parse(file).map_err(EditError::Invalid)
}

/// The file's text after a change of its document; it must be valid.
fn rewritten(file: &Source<'_>, change: impl FnOnce(&mut DocumentMut)) -> Result<String, EditError> {
    let form = Form::of(file.text);
    let mut document = form
        .read(file.text)
        .map_err(|error| EditError::Unreadable { file: shown(file), error: error.to_string() })?;
    change(&mut document);
    let text = form.write(&document);
    match parse(&Source { name: file.name, text: &text }) {
        Ok(_) => Ok(text),
        Err(errors) => Err(EditError::WouldBeInvalid { file: shown(file), errors }),
    }
}

fn shown(file: &Source<'_>) -> String {
    file.name.display().to_string()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
