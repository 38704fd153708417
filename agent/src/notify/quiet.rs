//! Times in which nothing is sent, as `causeway quiet` sets them.

use serde::{Deserialize, Serialize};

use super::seen::Thing;

/// The most of them at the same time.
pub const MAX: usize = 16;
/// The longest one, in seconds: 30 days.
pub const LONGEST: u64 = 30 * 86_400;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Which service or name it is about; everything when `None`.
    pub name: Option<String>,
    /// When it ends, in Unix milliseconds.
    pub until: u64,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiets(Vec<Quiet>);

impl Quiets {
    /// Sets one, in the place of an earlier one about the same; false when there are too many.
    #[must_use]
    pub fn set(&mut self, quiet: Quiet) -> bool {
        self.0.retain(|other| other.name != quiet.name);
        let has_room = self.0.len() < MAX;
        if has_room {
            self.0.push(quiet);
        }
        has_room
    }

    /// Ends the one about `name`, or all; whether there was one.
    pub fn end(&mut self, name: Option<&str>) -> bool {
        let before = self.0.len();
        self.0.retain(|quiet| name.is_some() && quiet.name.as_deref() != name);
        self.0.len() < before
    }

    /// Takes away those that are over; whether there were any.
    pub fn expire(&mut self, now: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|quiet| quiet.until > now);
        self.0.len() < before
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Quiet] {
        &self.0
    }

    /// Whether nothing is to be sent about any of these things.
    #[must_use]
    pub fn covers<'t>(&self, things: impl IntoIterator<Item = &'t Thing>) -> bool {
        let is_quiet = |thing: &Thing| {
            self.0.iter().any(|quiet| match &quiet.name {
                None => true,
                Some(quiet) => {
                    let name = match thing {
                        Thing::Name { name, .. } | Thing::Visitor { name, .. } | Thing::Peer(name) => {
                            Some(name)
                        }
                        Thing::Daemon | Thing::Service(_) => None,
                    };
                    thing.service() == Some(quiet) || name == Some(quiet)
                }
            })
        };
        let mut things = things.into_iter().peekable();
        things.peek().is_some() && things.all(is_quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_about_a_service_covers_its_names_and_nothing_else() {
        let mut quiets = Quiets::default();
        let of = |name: Option<&str>, until| Quiet { name: name.map(str::to_owned), until };
        assert!(quiets.set(of(Some("https"), 5)));
        let service = Thing::Service("https".to_owned());
        let name = Thing::Name { service: "https".to_owned(), name: "emby.example.com".to_owned() };
        let other = Thing::Service("mail".to_owned());
        assert!(quiets.covers([&service, &name]) && !quiets.covers([&service, &other]));
        assert!(!quiets.covers([]));
        assert!(!quiets.expire(4) && quiets.expire(5) && !quiets.covers([&service]));
        assert!(quiets.set(of(None, 9)) && quiets.covers([&Thing::Daemon, &other]));
        assert!(quiets.set(of(Some("a"), 9)) && quiets.end(Some("a")) && !quiets.end(Some("a")));
        assert!(quiets.end(None) && quiets.all().is_empty());
    }

    #[test]
    fn sixteen_are_the_most() {
        let mut quiets = Quiets::default();
        let of = |n: usize| Quiet { name: Some(format!("n{n}")), until: 9 };
        assert!((0..MAX).all(|n| quiets.set(of(n))) && quiets.set(of(3)) && !quiets.set(of(99)));
        assert_eq!(quiets.all().len(), MAX);
    }
}
