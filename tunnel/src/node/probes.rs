//! The probes of one peer: whether it answers, and how large a packet its path carries.

use super::liveness::Prober;
use super::path_mtu::Search;
use crate::packet::icmp::Echo;
use crate::time::Instant;

/// What is probed of one peer; nothing of a peer without a probe address.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) prober: Option<Prober>,
    /// The search for the path's MTU, when that is wanted.
    pub(super) search: Option<Search>,
}

/// What an echo reply answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// A probe of liveness: the path works.
    Liveness,
    /// A probe of the path's size.
    Size,
    /// No probe of ours that is still waiting.
    Nothing,
}

impl Probes {
    pub(super) const fn new(prober: Option<Prober>) -> Self {
        Self { prober, search: None }
    }

    /// A session was agreed: probes at once.
    pub(super) fn activate(&mut self, now: Instant) {
        if let Some(prober) = &mut self.prober {
            prober.activate(now);
        }
        if let Some(search) = &mut self.search {
            search.activate(now);
        }
    }

    /// There is no session to probe through.
    pub(super) fn deactivate(&mut self) {
        if let Some(prober) = &mut self.prober {
            prober.deactivate();
        }
        if let Some(search) = &mut self.search {
            search.deactivate();
        }
    }

    /// The path is another one: its MTU is searched again.
    pub(super) fn restart_search(&mut self) {
        if let Some(search) = &mut self.search {
            search.restart();
        }
    }

    /// Takes the reply to an echo with the data of a probe.
    pub(super) fn handle_reply(&mut self, echo: &Echo<'_>, now: Instant) -> Answered {
        if let Some(search) = &mut self.search
            && search.handle_reply(echo.id, echo.sequence, echo.data, now)
        {
            return Answered::Size;
        }
        if let Some(prober) = &mut self.prober
            && prober.handle_reply(echo.id, echo.sequence, echo.data, now)
        {
            return Answered::Liveness;
        }
        Answered::Nothing
    }

    /// Whether the peer answers probes, as [`Prober::has_answered`].
    pub(super) fn have_been_answered(&self) -> bool {
        self.prober.as_ref().is_some_and(Prober::has_answered)
    }

    /// When something is next due. The MTU is searched only towards a peer that answers probes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let prober = self.prober.as_ref()?;
        let search = self.search.as_ref().filter(|_| prober.has_answered());
        prober.deadline().into_iter().chain(search.and_then(Search::deadline)).min()
    }
}
