//! What the agent asks the daemon of its end.

use std::path::PathBuf;

use daemon::exit::{Exit, ExitError};
use daemon::history::{Page, Query};
use daemon::link::message::ReportedHop;
use daemon::peers::Peer;
use forwarder::places::{Environment, Place};
use gateway::control::protocol::{Reply, Request};

use super::seen::{End, Seen};

/// Where the daemon answers.
#[derive(Clone, Debug)]
pub enum Socket {
    /// The gateway's.
    Edge(PathBuf),
    /// The forwarder may have it in one of several places.
    Origin(Vec<Place>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// The agent's user may not ask: the daemon may be well.
    Denied(String),
    /// It does not run, or does not answer.
    Silent(String),
}

/// What it answers.
#[derive(Debug)]
pub struct Answer {
    /// Records; `None` from a daemon that keeps none.
    pub page: Option<Page>,
    /// How everything is.
    pub seen: Seen,
}

impl Socket {
    /// That of a gateway with this configuration.
    #[must_use]
    pub fn of_edge(policy: &policy::gateway::Policy) -> Self {
        Self::Edge(policy.control.socket.clone())
    }

    /// That of a forwarder with this configuration.
    #[must_use]
    pub fn of_origin(policy: &policy::forwarder::Policy) -> Self {
        // The folders that systemd gives the agent are not the daemon's.
        let environment =
            Environment { runtime_directory: None, state_directory: None, ..Environment::of_process() };
        Self::Origin(environment.client_sockets(Some(policy)))
    }

    /// Which end it is.
    #[must_use]
    pub const fn end(&self) -> End {
        match self {
            Self::Edge(_) => End::Edge,
            Self::Origin(_) => End::Origin,
        }
    }

    /// Asks for records and for the state, in this order: no state is older than a record. It
    /// blocks.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn ask(&self, now: u64, query: Query) -> Result<Answer, AskError> {
        let page = match self.history(query) {
            Ok(page) => Some(page),
            // A daemon of an earlier release, which goes on until its restart.
            Err(error) if error.exit == Exit::Usage => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Answer { page, seen: self.seen(now)? })
    }

    /// Says that this end's agent has reported what fails at a hop, so that the other end's need
    /// not. Only an origin says so: what fails near an edge is seen there first. It blocks.
    ///
    /// # Errors
    /// Where the daemon does not take it; the other end then reports as well.
    pub fn announce_reported(&self, hop: &str) -> Result<(), ExitError> {
        let Self::Origin(places) = self else { return Ok(()) };
        let hop = ReportedHop::from(hop.to_owned());
        forwarder::control::client::ask(places, &forwarder::control::protocol::Request::Reported { hop })
            .map(drop)
    }

    /// The edges as an origin counts them. It blocks.
    ///
    /// # Errors
    /// Where there is no answer.
    pub fn edges(&self) -> Result<Vec<Peer>, ExitError> {
        match self {
            Self::Edge(_) => Ok(Vec::new()),
            Self::Origin(places) => Ok(forwarder::control::client::ask_report(places)?.peers),
        }
    }

    /// Has the origin's daemon note that a name leads to an edge again, or no longer. It blocks.
    ///
    /// # Errors
    /// Where the daemon does not take it.
    pub fn note_steered(&self, name: String, edge: String, present: bool) -> Result<(), ExitError> {
        let Self::Origin(places) = self else { return Ok(()) };
        let request = forwarder::control::protocol::Request::Steered { name, edge, present };
        forwarder::control::client::ask(places, &request).map(drop)
    }

    fn history(&self, query: Query) -> Result<Page, ExitError> {
        match self {
            Self::Edge(socket) => gateway::control::client::ask_history(socket, query),
            Self::Origin(places) => forwarder::control::client::ask_history(places, query),
        }
    }

    fn seen(&self, now: u64) -> Result<Seen, ExitError> {
        match self {
            Self::Edge(socket) => {
                let ask = |request| gateway::control::client::ask(socket, &request);
                match (ask(Request::Services)?, ask(Request::Peers)?) {
                    (Reply::Services(services), Reply::Peers(peers)) => {
                        Ok(Seen::of_edge(now, &services.services, &peers.peers))
                    }
                    _ => Err(ExitError::new(Exit::Failed, "the daemon sent the answer to another request")),
                }
            }
            Self::Origin(places) => {
                Ok(Seen::of_origin(now, &forwarder::control::client::ask_report(places)?))
            }
        }
    }
}

impl From<ExitError> for AskError {
    fn from(error: ExitError) -> Self {
        if error.exit == Exit::Permission { Self::Denied(error.message) } else { Self::Silent(error.message) }
    }
}
