//! A wg-quick file in the place of one of the two exports, as the export that says the same.

use std::fmt::Write as _;
use std::path::Path;

use ipnetwork::IpNetwork;

use super::ranges::number;
use super::router::Router;
use crate::export::mikrotik_edge;
use crate::import::outcome::{Derive, Finding, FindingKind, Import, ImportError};
use crate::import::wg_quick::{Role, WgQuickOptions, wg_quick};
use policy::{FileRef, Source, forwarder, gateway};

/// Whether a text is a wg-quick file and no export: its first line that says something is a
/// section's title.
pub(super) fn is_wg_quick(source: &Source<'_>) -> bool {
    let mut lines = source.text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')).is_some_and(|line| line.starts_with('['))
}

/// The router that does what the edge's wg-quick file does, and what became of the file's lines.
///
/// The file is imported by itself; what its configuration says is then written as a router's rules,
/// so that both ends are read together as those of two routers are.
pub(super) fn edge(source: &Source<'_>, derive: Derive<'_>) -> Result<(Router, Vec<Finding>), ImportError> {
    let options = WgQuickOptions { role: Some(Role::Edge), ..WgQuickOptions::default() };
    let import = wg_quick(source, &options, derive)?;
    let text = Source { name: Path::new("gateway.toml"), text: &import.gateway };
    let mut policy = gateway::parse(&text).map_err(first)?;
    for list in &mut policy.lists {
        let file = format!("lists/{}.list", list.name);
        if let Some(file) = import.lists.iter().find(|known| known.name == file) {
            list.load(&Source { name: Path::new(&file.name), text: &file.text }).map_err(first)?;
        }
    }
    let mut text =
        String::from("/interface list member\nadd interface=wan list=WAN\nadd interface=lan list=LAN\n");
    for lan in &policy.lan {
        let (family, first) = number(lan.network());
        let own = family.address(first + 1);
        let _ =
            writeln!(text, "/{} address\nadd address={own}/{} interface=lan", family.menu(), lan.prefix());
    }
    let mut rules = mikrotik_edge(&policy);
    if let Some(key) = key(&import, &policy.interface.private_key_file) {
        rules = rules.replacen("add listen-port=", &format!("add private-key=\"{key}\" listen-port="), 1);
    }
    for peer in &policy.peers {
        if let Some(preshared) = peer.preshared_key_file.as_ref().and_then(|file| key(&import, file)) {
            let public = format!("public-key=\"{}\"", peer.public_key);
            rules = rules.replace(&public, &format!("{public} preshared-key=\"{preshared}\""));
        }
    }
    let findings = import.findings.into_iter();
    let findings = findings.filter(|finding| finding.at.is_some() && finding.kind != FindingKind::Public);
    Ok((made_up(source, &format!("{text}{rules}"))?, findings.collect()))
}

/// The router that does what the origin's wg-quick file does.
///
/// # Errors
/// [`ImportError`], when it has hooks: what they let through is not read together with a router.
pub(super) fn origin(source: &Source<'_>, derive: Derive<'_>) -> Result<(Router, Vec<Finding>), ImportError> {
    let hooks = (1..).zip(source.text.lines()).find(|(_, line)| {
        let key = line.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        ["preup", "postup"].contains(&key.as_str())
    });
    if let Some((line, _)) = hooks {
        return Err(ImportError::Ambiguous {
            at: format!("{}:{line}:1", source.name.display()),
            what: "a hook of the origin, which may refuse what the edge's router lets through: take it out and list what \
                   it lets through as rules, or import the edge's export alone"
                .to_owned(),
        });
    }
    let options = WgQuickOptions { role: Some(Role::Origin), ..WgQuickOptions::default() };
    let import = wg_quick(source, &options, derive)?;
    let text = Source { name: Path::new("forwarder.toml"), text: &import.forwarder };
    let policy = forwarder::parse(&text).map_err(first)?;
    let mut text = String::from("/interface wireguard\nadd listen-port=13231 name=tunnel");
    if let Some(key) = key(&import, &policy.interface.private_key_file) {
        let _ = write!(text, " private-key=\"{key}\"");
    }
    text.push_str("\n/interface wireguard peers\n");
    for peer in &policy.peers {
        let allowed: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            "add allowed-address={} endpoint-address={} endpoint-port={} interface=tunnel public-key=\"{}\"",
            allowed.join(","),
            peer.endpoint.host,
            peer.endpoint.port,
            peer.public_key
        );
        let keepalive = peer.keepalive.map(|keepalive| keepalive.as_secs());
        if let Some(seconds) = keepalive {
            let _ = write!(text, " persistent-keepalive={seconds}s");
        }
        text.push('\n');
    }
    policy.interface.address.iter().for_each(|own| address(*own, &mut text));
    let findings = import.findings.into_iter();
    let findings = findings.filter(|finding| finding.at.is_some() && finding.kind != FindingKind::Public);
    Ok((made_up(source, &text)?, findings.collect()))
}

fn address(own: IpNetwork, text: &mut String) {
    let menu = if own.is_ipv4() { "ip" } else { "ipv6" };
    let _ = writeln!(text, "/{menu} address\nadd address={own} interface=tunnel");
}

/// The key that an import has put into a file.
fn key<'i>(import: &'i Import, file: &FileRef) -> Option<&'i str> {
    let name = file.location.to_string();
    let known =
        import.keys.iter().find(|known| name == known.name || name.ends_with(&format!("/{}", known.name)));
    known.map(|known| known.text.trim())
}

fn made_up(source: &Source<'_>, text: &str) -> Result<Router, ImportError> {
    let mut router = Router::read(&Source { name: source.name, text })?;
    router.is_given = false;
    Ok(router)
}

fn first(errors: Vec<policy::ConfigError>) -> ImportError {
    match errors.into_iter().next() {
        Some(error) => ImportError::Contradiction { error: Box::new(error) },
        None => ImportError::NotWgQuick { file: String::new(), part: "[Interface]" },
    }
}
