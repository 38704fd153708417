//! Whose file it is: the edge's, which is dialled, or the origin's, which dials.

use super::super::draft::is_everyone;
use super::Section;
use super::file::with_defaults;

/// An end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The machine with the public address.
    Edge,
    /// The machine with the services.
    Origin,
}

/// The role, and the signs that lead to it in words.
///
/// # Errors
/// The signs, when they do not agree or there is only one.
pub(super) fn role(
    interface: &Section,
    peers: &[&Section],
    (publishes, forwards): (bool, bool),
) -> Result<(Role, String), String> {
    let is_saved = interface.value("saveconfig").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let has_port = interface.value("listenport").is_some();
    let dials = |peer: &&&Section| peer.endpoint().is_some() && !is_saved;
    let dialled = peers.iter().filter(dials).count();
    let everywhere = peers
        .iter()
        .any(|peer| with_defaults(&peer.prefixes("allowedips", false)).into_iter().any(is_everyone));
    let keeps = peers.iter().any(|peer| peer.endpoint().is_some() && peer.keepalive().is_some());
    let edge = signs(&[
        (has_port, "ListenPort is set"),
        (publishes, "a rule leads connections from outside to a peer"),
        (forwards && has_port, "a rule forwards between the tunnel and another interface"),
        (dialled < peers.len() && !is_saved, "a peer has no Endpoint"),
    ]);
    let origin = signs(&[
        (dialled == peers.len(), "every peer has an Endpoint"),
        (keeps, "PersistentKeepalive is set towards an Endpoint"),
        (everywhere, "AllowedIPs hold every address"),
        (dialled == peers.len() && !has_port, "ListenPort is not set"),
    ]);
    // Who listens and forwards to a peer is the edge, whomever it dials as well.
    if has_port && (publishes || forwards) && !everywhere {
        return Ok((Role::Edge, edge.join(" and ")));
    }
    match (edge.len(), origin.len()) {
        (2.., 0) => Ok((Role::Edge, edge.join(" and "))),
        // SaveConfig writes a ListenPort at either end, and the Endpoint it last saw.
        (1.., 0) if is_saved && has_port => {
            Ok((Role::Edge, "ListenPort is set and nothing says that it dials".to_owned()))
        }
        (0, 2..) => Ok((Role::Origin, origin.join(" and "))),
        _ => Err(format!("of the edge: {}; of the origin: {}", or_nothing(&edge), or_nothing(&origin))),
    }
}

fn signs(all: &[(bool, &'static str)]) -> Vec<&'static str> {
    all.iter().filter(|(is_there, _)| *is_there).map(|(_, sign)| *sign).collect()
}

fn or_nothing(signs: &[&str]) -> String {
    if signs.is_empty() { "nothing".to_owned() } else { signs.join(", ") }
}
