//! Which entry of the configuration a flow belongs to.

use policy::Name;

use crate::flow::ClientPrefix;

/// The entry of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A `[[service]]`, on behalf of this client.
    Service(Name, ClientPrefix),
    /// A `[[reach]]`.
    Reach(Name),
    /// The link to an edge.
    Link,
}

impl Owner {
    /// The client that the limits count; `None` for a flow that began on this machine.
    pub(crate) const fn client(&self) -> Option<ClientPrefix> {
        match self {
            Self::Service(_, client) => Some(*client),
            Self::Reach(_) | Self::Link => None,
        }
    }

    /// Whether the flow began on this machine.
    pub(crate) const fn is_local(&self) -> bool {
        self.client().is_none()
    }
}
