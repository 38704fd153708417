//! Kinds of network changes.

/// A change of the network, the weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkChange {
    /// Something changed that may concern the path to an edge.
    Possible,
    /// A default route changed.
    DefaultRoute,
}
