//! What the first host name needs: Caddy's sites, and the service on port 443 that leads to Caddy.

use policy::forwarder::ProxyProtocol;
use policy::{Name, PublicPorts, Source};
use toml_edit::{DocumentMut, Item, Table};

use super::super::request::NewService;
use super::{EditError, Edited, HTTPS, read, rewritten, service_table, write_service};

/// What the service is called.
const NAME: &str = "https";
/// Where Caddy listens for the forwarder, as the sample Caddyfile has it.
const UPSTREAM: &str = "127.0.0.1:8443";
/// The folder that the sample Caddyfile imports, with `[caddy]`'s other defaults.
pub(in crate::publish) const SITES: &str = "/etc/caddy/sites";

/// Adds the service and, where the file does not have it, `[caddy]`; nothing where a service is on
/// port 443 already, or another one has the name.
pub(in crate::publish) fn add_first(file: &Source<'_>) -> Result<Edited, EditError> {
    let policy = read(file)?;
    let unchanged = Edited { text: file.text.to_owned(), services: Vec::new() };
    let is_in_the_way =
        |service: &policy::forwarder::Service| service.is_on(HTTPS) || service.name.as_str() == NAME;
    let Some((name, ports)) = Name::new(NAME).zip(PublicPorts::parse(&HTTPS.to_string())) else {
        return Ok(unchanged);
    };
    if policy.services.iter().any(is_in_the_way) {
        return Ok(unchanged);
    }
    let services = vec![name.to_string()];
    let (upstream, proxy_protocol) = (UPSTREAM.to_owned(), ProxyProtocol::V2);
    let new = NewService { name, ports: vec![ports], upstream, proxy_protocol };
    let text = rewritten(file, |document| {
        if policy.caddy.is_none() {
            write_caddy(document);
        }
        write_service(document, service_table(&new));
    })?;
    Ok(Edited { text, services })
}

fn write_caddy(document: &mut DocumentMut) {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("sites", Item::Value(SITES.into()));
    document.insert("caddy", Item::Table(table));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{HEAD, added, web};
    use super::*;

    const CADDY: &str = "\n[caddy]\nsites = \"/etc/caddy/sites\"\n";
    const HTTPS: &str = "\n[[service]]\nname = \"https\"\nupstream = \"127.0.0.1:8443\"\npublish = [443]\n\
        proxy_protocol = \"v2\"\n";

    #[test]
    fn a_first_name_gets_caddys_sites_and_a_service_on_port_443() {
        let begun = first(HEAD).unwrap();
        assert_eq!(begun, format!("{HEAD}{CADDY}{HTTPS}"));
        assert!(added(&begun).ends_with("names = [\"emby.example.com\"]\n"));
        let with_caddy = format!("{HEAD}{CADDY}");
        assert_eq!(first(&with_caddy).unwrap(), begun, "[caddy] that is there stays");
        let game =
            format!("{HEAD}\n[[service]]\nname = \"game\"\nupstream = \"127.0.0.1:1\"\npublish = [25]\n");
        assert!(first(&game).unwrap().contains(HTTPS));
    }

    #[test]
    fn a_file_that_has_a_service_for_it_stays_as_it_is() {
        for file in
            [web("publish = [443]\n"), web("match = \"192.168.88.2:443\"\n"), web("publish = [8443]\n")]
        {
            assert_eq!(first(&file).unwrap(), file);
        }
    }

    #[test]
    fn services_in_braces_get_one_more() {
        let file = format!(
            "service = [\n  {{ name = \"ssh\", upstream = \"127.0.0.1:22\", publish = 22 }},\n]\n{HEAD}"
        );
        let begun = first(&file).unwrap();
        assert!(begun.contains("{ name = \"https\", upstream = \"127.0.0.1:8443\""), "{begun}");
        assert!(begun.ends_with(CADDY), "{begun}");
    }

    fn first(text: &str) -> Result<String, EditError> {
        let file = Source { name: Path::new("forwarder.toml"), text };
        Ok(add_first(&file)?.text)
    }
}
