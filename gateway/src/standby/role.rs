//! Whether this edge is active: exactly while it has the address that both share.

use std::net::IpAddr;

/// What an edge is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The only edge: it has no `[standby]`.
    #[default]
    Alone,
    /// It has the shared address.
    Active,
    /// The other edge has it, or none has.
    Standby,
}

/// What changes for the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It begins to carry the tunnel, and opens its sessions at once.
    Begin,
    /// It ends every session and is silent.
    End,
}

impl Role {
    /// What an edge with this `[standby] address` starts as: silent until it has looked.
    #[must_use]
    pub const fn at_start(address: Option<IpAddr>) -> Self {
        if address.is_some() { Self::Standby } else { Self::Alone }
    }

    /// The role of an edge with this `[standby] address`, and whether it `has` it.
    #[must_use]
    pub fn of(address: Option<IpAddr>, has: impl FnOnce(IpAddr) -> bool) -> Self {
        match address {
            None => Self::Alone,
            Some(address) if has(address) => Self::Active,
            Some(_) => Self::Standby,
        }
    }

    /// Takes another role; what that changes.
    pub fn follow(&mut self, next: Self) -> Option<Turn> {
        let before = std::mem::replace(self, next);
        match (before.is_silent(), next.is_silent()) {
            (true, false) => Some(Turn::Begin),
            (false, true) => Some(Turn::End),
            _ => None,
        }
    }

    /// Whether it sends nothing.
    #[must_use]
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::Standby)
    }

    /// The word for it, where it is one of a pair.
    #[must_use]
    pub const fn label(self) -> Option<&'static str> {
        match self {
            Self::Alone => None,
            Self::Active => Some("active"),
            Self::Standby => Some("standby"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)));

    #[test]
    fn an_edge_of_a_pair_is_silent_until_it_has_the_address_and_again_once_it_has_lost_it() {
        let mut role = Role::at_start(SHARED);
        assert!(role.is_silent());
        assert_eq!(role.follow(Role::of(SHARED, |_| false)), None);
        assert_eq!(role.follow(Role::of(SHARED, |_| true)), Some(Turn::Begin));
        assert_eq!(role.follow(Role::of(SHARED, |_| true)), None);
        assert_eq!(role.follow(Role::of(SHARED, |_| false)), Some(Turn::End));
        assert_eq!(role.label(), Some("standby"));
    }

    #[test]
    fn an_edge_alone_asks_for_no_address_and_a_reload_makes_it_one_of_a_pair_or_alone_again() {
        let mut role = Role::at_start(None);
        assert_eq!(role.follow(Role::of(None, |_| panic!("no address to ask for"))), None);
        assert_eq!(role.follow(Role::of(SHARED, |_| true)), None, "it goes on as the active one");
        assert_eq!(role.follow(Role::of(SHARED, |_| false)), Some(Turn::End));
        assert_eq!(role.follow(Role::of(None, |_| false)), Some(Turn::Begin));
    }
}
