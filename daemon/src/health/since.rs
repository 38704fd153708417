//! Since when each hop of each service is as it is.

use std::collections::BTreeMap;

use tunnel::time::Instant;

use super::{HopName, Path, State};

/// What the last look found, and since when.
#[derive(Debug, Default)]
pub struct Since(BTreeMap<(String, HopName), (State, Instant)>);

impl Since {
    /// Takes how all services are now, by name, and writes into each hop for how long it is so. A
    /// time that the other end reported stays.
    pub fn handle_look<'p>(
        &mut self,
        now: Instant,
        paths: impl IntoIterator<Item = (&'p str, &'p mut Path)>,
    ) {
        let before = std::mem::take(&mut self.0);
        for (service, path) in paths {
            for hop in &mut path.hops {
                let key = (service.to_owned(), hop.name);
                let old = before.get(&key).filter(|(state, _)| *state == hop.state);
                let since = old.map_or(now, |(_, since)| *since);
                hop.seconds = hop.seconds.or(Some(now.since(since).as_secs()));
                self.0.insert(key, (hop.state, since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Hop, Reason};
    use super::*;

    #[test]
    fn a_hop_has_its_time_until_its_state_is_another() {
        let mut since = Since::default();
        let mut seconds = |second, hop: Hop| {
            let mut path = Path { hops: vec![hop], ..Path::default() };
            let now = Instant::from_boot(Duration::from_secs(second));
            since.handle_look(now, [("https", &mut path)]);
            path.hops[0].seconds
        };
        let silent = || Hop::failing(HopName::Tunnel, Reason::Silent, None);
        assert_eq!(seconds(100, Hop::ok(HopName::Tunnel)), Some(0));
        assert_eq!(seconds(110, Hop::ok(HopName::Tunnel)), Some(10));
        assert_eq!(seconds(120, silent()), Some(0));
        assert_eq!(seconds(121, Hop::failing(HopName::Tunnel, Reason::NeverHeard, None)), Some(1));
        assert_eq!(
            seconds(130, Hop { seconds: Some(77), ..silent() }),
            Some(77),
            "the other end knows better"
        );
    }
}
