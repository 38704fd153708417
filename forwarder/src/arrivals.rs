//! First bytes of flows that come out of the tunnel, compared with what a visitor's probe has sent.
//!
//! The data thread looks at them only while a probe is under way, and only at flows that open
//! meanwhile.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Bytes of a mark: as many as a ClientHello's random has (RFC 8446 §4.1.2).
pub const MARK: usize = 32;
/// The most marks that are looked for at a time.
pub const MAX_MARKS: usize = 16;
/// The first bytes of a flow that are looked at.
const FIRST: usize = 512;

/// What a probe has sent, and no other machine can know before.
pub type Mark = [u8; MARK];

/// The marks that are looked for; shared by the control plane and the data thread.
#[derive(Debug, Default)]
pub struct Arrivals {
    count: AtomicUsize,
    /// Each with who opened the flow that it came out of, as the tunnel shows it.
    marks: Mutex<Vec<(Mark, Option<IpAddr>)>>,
}

/// A mark that is looked for until this is dropped.
#[derive(Debug)]
pub struct Sought {
    arrivals: Arc<Arrivals>,
    mark: Mark,
}

impl Arrivals {
    /// Looks for a mark from now on; `None` while [`MAX_MARKS`] others are looked for.
    #[must_use]
    pub fn seek(self: &Arc<Self>, mark: Mark) -> Option<Sought> {
        let mut marks = self.marks.lock();
        if marks.len() >= MAX_MARKS {
            return None;
        }
        marks.push((mark, None));
        self.count.store(marks.len(), Ordering::Relaxed);
        Some(Sought { arrivals: Arc::clone(self), mark })
    }

    /// What a new flow from `client` is to be looked at with; `None` while no mark is looked for.
    #[must_use]
    pub fn watch(self: &Arc<Self>, client: IpAddr) -> Option<Box<FirstBytes>> {
        let bytes = Vec::new();
        (self.count.load(Ordering::Relaxed) > 0)
            .then(|| Box::new(FirstBytes { arrivals: Arc::clone(self), client, bytes }))
    }

    fn handle_first_bytes(&self, bytes: &[u8], client: IpAddr) {
        for (mark, found) in self.marks.lock().iter_mut().filter(|(_, found)| found.is_none()) {
            if bytes.windows(MARK).any(|window| window == mark) {
                *found = Some(client);
            }
        }
    }
}

impl Sought {
    /// Who opened the flow that it came out of, once it has.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        let marks = self.arrivals.marks.lock();
        marks.iter().find(|(mark, _)| *mark == self.mark).and_then(|(_, client)| *client)
    }
}

impl Drop for Sought {
    fn drop(&mut self) {
        let mut marks = self.arrivals.marks.lock();
        if let Some(at) = marks.iter().position(|(mark, _)| *mark == self.mark) {
            marks.swap_remove(at);
        }
        self.arrivals.count.store(marks.len(), Ordering::Relaxed);
    }
}

/// The first bytes of one flow.
#[derive(Debug)]
pub struct FirstBytes {
    arrivals: Arc<Arrivals>,
    client: IpAddr,
    bytes: Vec<u8>,
}

impl FirstBytes {
    /// Takes bytes that the client has sent; `false` once no more are to be looked at.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> bool {
        let room = FIRST.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.arrivals.handle_first_bytes(&self.bytes, self.client);
        self.bytes.len() < FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    #[test]
    fn flows_are_looked_at_only_while_a_mark_is_looked_for() {
        let arrivals = Arc::<Arrivals>::default();
        assert!(watch(&arrivals).is_none());
        let sought = arrivals.seek([7; MARK]).unwrap();
        assert!(watch(&arrivals).is_some());
        drop(sought);
        assert!(watch(&arrivals).is_none());
    }

    #[test]
    fn a_mark_is_found_in_a_flow_that_brings_it_in_parts_and_in_no_other() {
        let arrivals = Arc::<Arrivals>::default();
        let (sought, other) = (arrivals.seek([7; MARK]).unwrap(), arrivals.seek([8; MARK]).unwrap());
        let (mut flow, mut foreign) = (watch(&arrivals).unwrap(), watch(&arrivals).unwrap());
        assert!(foreign.handle_bytes(&[9; 100]));
        assert!(flow.handle_bytes(&[0; 11]) && flow.handle_bytes(&[7; 20]));
        assert_eq!(sought.client(), None, "a part of it says nothing");
        assert!(flow.handle_bytes(&[7; 12]));
        assert_eq!(sought.client(), Some(CLIENT));
        assert_eq!(other.client(), None);
    }

    #[test]
    fn only_the_first_bytes_of_a_flow_are_kept() {
        let arrivals = Arc::<Arrivals>::default();
        let sought = arrivals.seek([7; MARK]).unwrap();
        let mut flow = watch(&arrivals).unwrap();
        assert!(!flow.handle_bytes(&[0; 100_000]));
        assert_eq!(flow.bytes.len(), FIRST);
        assert!(!flow.handle_bytes(&[7; MARK]));
        assert_eq!(sought.client(), None);
    }

    #[test]
    fn no_more_marks_are_looked_for_than_may_be() {
        let arrivals = Arc::<Arrivals>::default();
        let marks = (0..MAX_MARKS).map(|number| [u8::try_from(number).unwrap(); MARK]);
        let mut sought: Vec<_> = marks.map(|mark| arrivals.seek(mark).unwrap()).collect();
        assert!(arrivals.seek([99; MARK]).is_none());
        sought.pop();
        assert!(arrivals.seek([99; MARK]).is_some());
    }

    fn watch(arrivals: &Arc<Arrivals>) -> Option<Box<FirstBytes>> {
        arrivals.watch(CLIENT)
    }
}
