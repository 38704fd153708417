//! What happened lately, as far as it matters for what is down.

use std::collections::{BTreeSet, VecDeque};

use daemon::history::{Record, What};
use serde::{Deserialize, Serialize};

use super::super::seen::{End, Peers};
use super::{ANNOUNCED, CALM};

/// The most events that are remembered for the text.
const MAX_EVENTS: usize = 64;
/// The most announcements.
const MAX_NOTICES: usize = 64;
/// How the notice begins by which the other end says that its agent reported a hop.
const REPORTED: &str = "reported ";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Notice {
    /// The peer; `None` for this end.
    peer: Option<String>,
    at: u64,
    /// The hop that its agent reported; `None` when it announced that it stops.
    reported: Option<String>,
}

/// What happened lately.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Remembered {
    events: VecDeque<(u64, String)>,
    notices: VecDeque<Notice>,
    linked: BTreeSet<String>,
}

impl Remembered {
    /// Takes a record; whether it matters.
    pub(super) fn note(&mut self, end: End, record: &Record) -> bool {
        if let What::Notice { peer, notice } = &record.what {
            if let Some(hop) = notice.strip_prefix(REPORTED) {
                self.notice(Some(peer), record.at, Some(hop.to_owned()));
                return true;
            }
            if notice.starts_with("stopping") {
                self.notice(Some(peer), record.at, None);
            }
        } else if matches!(record.what, What::Stopping { .. }) {
            self.notice(None, record.at, None);
        }
        let Some(event) = event(end, &record.what) else { return false };
        self.events.push_back((record.at, event));
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
        true
    }

    fn notice(&mut self, peer: Option<&String>, at: u64, reported: Option<String>) {
        self.notices.push_back(Notice { peer: peer.cloned(), at, reported });
        while self.notices.len() > MAX_NOTICES {
            self.notices.pop_front();
        }
    }

    /// Takes how the peers are.
    pub(super) fn handle_peers(&mut self, now: u64, peers: &Peers) {
        self.linked = peers.linked.iter().cloned().collect();
        for peer in &peers.announced {
            let is_known = |notice: &Notice| {
                notice.reported.is_none()
                    && notice.peer.as_ref() == Some(peer)
                    && now.saturating_sub(notice.at) < ANNOUNCED
            };
            if !self.notices.iter().any(is_known) {
                self.notice(Some(peer), now, None);
            }
        }
    }

    /// Whether the peer has a link, or had one.
    pub(super) fn is_linked(&self, peer: &str) -> bool {
        self.linked.contains(peer)
    }

    /// When the peer, or any, announced last that it stops, at `from` or later; of this end when
    /// its own daemon was stopped.
    pub(super) fn stop(&self, peer: Option<&str>, any: bool, from: u64) -> Option<u64> {
        let is_it = |notice: &&Notice| {
            notice.reported.is_none() && notice.at >= from && (any || notice.peer.as_deref() == peer)
        };
        self.notices.iter().filter(is_it).map(|notice| notice.at).max()
    }

    /// Whether the agent at the peer reported this hop since.
    pub(super) fn is_reported(&self, peer: Option<&str>, hop: &str, since: u64) -> bool {
        self.notices.iter().any(|notice| {
            notice.reported.as_deref() == Some(hop) && notice.peer.as_deref() == peer && notice.at >= since
        })
    }

    /// What happened in this time.
    pub(super) fn events(&self, from: u64, to: u64) -> Vec<(u64, String)> {
        self.events.iter().filter(|(at, _)| (from..=to).contains(at)).cloned().collect()
    }

    /// Forgets what is too old to matter.
    pub(super) fn expire(&mut self, now: u64) {
        let is_recent = |at: u64| now.saturating_sub(at) < 2 * CALM;
        self.events.retain(|(at, _)| is_recent(*at));
        self.notices.retain(|notice| is_recent(notice.at));
    }

    /// The clock was set back to `now`.
    pub(super) fn handle_clock(&mut self, now: u64) {
        self.events.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
        self.notices.iter_mut().for_each(|notice| notice.at = notice.at.min(now));
    }
}

/// A record as a line for people, where it may be a cause.
fn event(end: End, what: &What) -> Option<String> {
    let daemon = end.daemon();
    Some(match what {
        What::Started { version, failed: None } => format!("{daemon} {version} started"),
        What::Started { version, failed: Some(failed) } => {
            format!("{daemon} {version} started again, since {failed} failed after its upgrade")
        }
        What::Stopping { notice: None } => format!("{daemon} was stopped"),
        What::Stopping { notice: Some(notice) } => format!("{daemon} was stopped ({notice})"),
        What::Applied { how, changes, summary } => {
            let first = summary.first().map(|line| format!(": {line}")).unwrap_or_default();
            format!("{how}, {changes} changes{first}")
        }
        What::Repaired { what } => format!("{daemon} put back: {what}"),
        What::Stack { stack, what } => format!("stackctl: {stack} {what}"),
        What::Notice { peer, notice } => format!("{peer} announced: {notice}"),
        What::Roamed { peer } => format!("{peer} has another endpoint"),
        What::Service { .. }
        | What::Visitor { .. }
        | What::Peer { .. }
        | What::Link { .. }
        | What::Steered { .. }
        | What::Minute { .. }
        | What::Unknown => return None,
    })
}
