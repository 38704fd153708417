//! `[link]`: the control channel between the two daemons, inside the tunnel.

use crate::change::Settings;
use crate::fields;
use crate::reader::Table;
use crate::{PortRange, Position, Protocol, Protocols};

/// The port of the link, unless the file says otherwise.
const PORT: u16 = 51_899;

/// `[link]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// TCP port on the edge's own addresses in the tunnel; the same at both ends.
    pub port: u16,
}

impl Default for Link {
    fn default() -> Self {
        Self { port: PORT }
    }
}

impl Link {
    /// Whether the link's port is one of these.
    #[must_use]
    pub fn is_among(&self, protocols: Protocols, ports: PortRange) -> bool {
        protocols.contains(Protocol::Tcp) && ports.contains(self.port)
    }

    /// Notes what `next` has otherwise.
    pub(crate) fn note_changes(self, next: Self, changes: &mut Settings) {
        changes.field("link", "port", &self.port.to_string(), &next.port.to_string());
    }
}

/// `[link]`, and where its port is written.
pub(super) fn link(root: &Table<'_>) -> (Option<Link>, Option<Position>) {
    let Some(table) = root.table("link", "[link]") else { return (Some(Link::default()), None) };
    let port = table.optional("port");
    table.close();
    let Some(value) = port else { return (Some(Link::default()), None) };
    (fields::port(value).map(|port| Link { port }), Some(value.at()))
}
