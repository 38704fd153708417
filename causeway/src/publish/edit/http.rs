//! The service on port 80 that comes and goes with the names on port 443.

use policy::forwarder::{Policy, Service};
use policy::{AllowList, Name, PublicPorts, Source};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use super::super::request::NewService;
use super::document::{self, Place};
use super::{EditError, Edited, HTTPS, read, rewritten, service_table, write_service};

/// The port of HTTP.
const PORT: u16 = 80;
/// How the comment begins by which the service is known; another one on port 80 is never removed.
const MARK: &str = "# Port 80 of the names on port 443";
/// The comment.
const COMMENT: [&str; 2] = [
    "# Port 80 of the names on port 443: certificates by HTTP-01, and the redirect to HTTPS.",
    "# `causeway unpublish` removes it with the last of them.",
];

/// The service that has port 80.
pub(in crate::publish) fn http_service(policy: &Policy) -> Option<&Service> {
    policy.services.iter().find(|service| service.is_on(PORT))
}

/// Adds a service on port 80 with this upstream, for the same visitors as the service `web`; none
/// where there is one.
pub(in crate::publish) fn add_http(
    file: &Source<'_>,
    web: &Service,
    upstream: &str,
) -> Result<Edited, EditError> {
    let policy = read(file)?;
    if let Some(there) = http_service(&policy) {
        return Ok(Edited { text: file.text.to_owned(), services: vec![there.name.to_string()] });
    }
    let Some((name, ports)) = free_name(&policy).zip(PublicPorts::parse("80")) else {
        return Ok(Edited { text: file.text.to_owned(), services: Vec::new() });
    };
    let services = vec![name.to_string()];
    let new = NewService {
        name,
        ports: vec![ports],
        upstream: upstream.to_owned(),
        proxy_protocol: web.proxy_protocol,
    };
    let text = rewritten(file, |document| {
        write_service(document, for_the_same(service_table(&new), web, &policy));
        comment(document, new.name.as_str());
    })?;
    Ok(Edited { text, services })
}

/// Removes the service that [`add_http`] added.
pub(in crate::publish) fn remove_http(file: &Source<'_>) -> Result<Edited, EditError> {
    let mut services = Vec::new();
    let policy = read(file)?;
    let text = rewritten(file, |document| {
        let name = http_service(&policy).map(|service| service.name.as_str());
        let place = name.and_then(|name| document::place(document, name));
        if let Some(place) = place.filter(|place| is_marked(document, *place)) {
            document::remove(document, place);
            services.extend(name.map(str::to_owned));
        }
    })?;
    Ok(Edited { text, services })
}

/// Removes it where no service on port 443 has a name any more.
pub(super) fn remove_without_names(file: &Source<'_>) -> Result<Edited, EditError> {
    let has_names = |service: &Service| service.is_on(HTTPS) && !service.names.is_empty();
    if read(file)?.services.iter().any(has_names) {
        return Ok(Edited { text: file.text.to_owned(), services: Vec::new() });
    }
    remove_http(file)
}

fn free_name(policy: &Policy) -> Option<Name> {
    let is_free = |name: &Name| policy.services.iter().all(|service| service.name != *name);
    ["http", "http-80", "port-80"].into_iter().filter_map(Name::new).find(is_free)
}

/// The table with what limits the visitors of the other service.
fn for_the_same(mut table: Table, web: &Service, policy: &Policy) -> Table {
    let list = |allow: &AllowList| Array::from_iter(allow.entries());
    if let Some(publish) = web.publish.as_ref().filter(|publish| publish.from != AllowList::Any) {
        let mut with_sources = InlineTable::new();
        with_sources.insert("ports", Array::from_iter([i64::from(PORT)]).into());
        with_sources.insert("from", list(&publish.from).into());
        table.insert("publish", Item::Value(with_sources.into()));
    }
    if web.peers.len() < policy.peers.len() {
        let peers = Array::from_iter(web.peers.iter().map(ToString::to_string));
        table.insert("peer", Item::Value(peers.into()));
    }
    if web.allow != AllowList::Any {
        table.insert("allow", Item::Value(list(&web.allow).into()));
    }
    table
}

/// Puts the comment before the entry, on lines of its own.
fn comment(document: &mut DocumentMut, name: &str) {
    let Some((key, index)) = document::place(document, name) else { return };
    match document.get_mut(key) {
        Some(Item::ArrayOfTables(tables)) => {
            if let Some(table) = tables.get_mut(index) {
                table.decor_mut().set_prefix(format!("\n{}\n", COMMENT.join("\n")));
            }
        }
        Some(Item::Value(Value::Array(tables))) => {
            if let Some(value) = tables.get_mut(index) {
                let lead = super::array::prefix(value.decor());
                let line = if lead.contains('\n') { lead } else { "\n  ".to_owned() };
                value.decor_mut().set_prefix(format!("{line}{}{line}", COMMENT.join(&line)));
            }
        }
        Some(Item::None | Item::Value(_) | Item::Table(_)) | None => {}
    }
}

fn is_marked(document: &DocumentMut, (key, index): Place) -> bool {
    let decor = match document.get(key) {
        Some(Item::ArrayOfTables(tables)) => tables.get(index).map(Table::decor),
        Some(Item::Value(Value::Array(tables))) => tables.get(index).map(Value::decor),
        Some(Item::None | Item::Value(_) | Item::Table(_)) | None => None,
    };
    decor.is_some_and(|decor| super::array::prefix(decor).contains(MARK))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{HEAD, added, removed, web};
    use super::*;

    const HTTP: &str = "\n# Port 80 of the names on port 443: certificates by HTTP-01, and the redirect to HTTPS.\n\
        # `causeway unpublish` removes it with the last of them.\n[[service]]\nname = \"http\"\n\
        upstream = \"127.0.0.1:8080\"\n";

    #[test]
    fn port_80_is_for_the_same_visitors_as_port_443_and_goes_with_the_last_name() {
        for (rest, expected) in [
            ("publish = [443]\n", "publish = [80]\n"),
            ("publish = 443\nproxy_protocol = \"v2\"\n", "publish = [80]\nproxy_protocol = \"v2\"\n"),
            (
                "publish = { ports = 443, from = [\"@cloudflare\"] }\n",
                "publish = { ports = [80], from = [\"@cloudflare\"] }\n",
            ),
            (
                "publish = 443\nallow = [\"203.0.113.0/24\"]\n",
                "publish = [80]\nallow = [\"203.0.113.0/24\"]\n",
            ),
        ] {
            let before = web(rest);
            let named = added(&before);
            let both = with_http(&named);
            assert_eq!(both, format!("{named}{HTTP}{expected}"));
            assert_eq!(with_http(&both), both, "it is there already");
            assert_eq!(removed(&both, "emby.example.com"), before);
            let edited = remove_http(&source(&both)).unwrap();
            assert_eq!((edited.text, edited.services), (named, vec!["http".to_owned()]));
        }
    }

    #[test]
    fn it_stays_while_another_name_is_there_and_one_that_causeway_did_not_add_stays_always() {
        let names = web("publish = [443]\nnames = [\"a.example.com\", \"emby.example.com\"]\n");
        let both = with_http(&names);
        assert!(removed(&both, "emby.example.com").contains("name = \"http\""));
        let own = "\n[[service]]\nname = \"http\"\nupstream = \"127.0.0.1:8080\"\npublish = [80]\n";
        let before = format!("{}{own}", web("publish = [443]\n"));
        let named = added(&before);
        assert_eq!(with_http(&named), named);
        assert_eq!(removed(&named, "emby.example.com"), before);
    }

    #[test]
    fn entries_in_braces_get_it_too() {
        for service in
            ["service = [\n  { WEB }, # web\n]\n", "service = [{ WEB }]\n", "service = [ { WEB } ]\n"]
        {
            let entry = "name = \"https\", upstream = \"127.0.0.1:8443\", publish = 443";
            let before = format!("{}{HEAD}", service.replace("WEB", entry));
            let named = added(&before);
            let both = with_http(&named);
            assert!(both.contains(MARK) && both.contains("name = \"http\""), "{both}");
            let gone = removed(&both, "emby.example.com");
            assert!(!gone.contains(MARK) && !gone.contains("name = \"http\""), "{gone}");
            assert_eq!(added(&gone).matches("names").count(), 1, "{gone}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let game = "\n[[service]]\nname = \"http\"\nupstream = \"127.0.0.1:1\"\npublish = [81]\n";
        let file = format!("{}{game}", web("publish = [443]\n"));
        assert!(with_http(&file).contains("name = \"http-80\""));
    }

    fn with_http(text: &str) -> String {
        let policy = read(&source(text)).unwrap();
        let web = policy.services.iter().find(|service| service.is_on(HTTPS)).unwrap();
        add_http(&source(text), web, "127.0.0.1:8080").unwrap().text
    }

    fn source(text: &str) -> Source<'_> {
        Source { name: Path::new("forwarder.toml"), text }
    }
}
