//! The task that keeps the records, as long as one configuration is in force.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use daemon::exit::{Exit, ExitError};
use daemon::life;
use policy::gateway::{Dns, Policy};
use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use super::address;
use super::authority::Authority;
use super::failure::Severity;
use super::keeper::EventKind;
use super::lookout::{Lookout, Unknown};
use super::record::{Wanted, shown};
use super::records::Records;
use crate::network::Network;

/// Keeps the records of `[dns]`.
pub struct Task {
    policy: Arc<Policy>,
    dns: Dns,
    lookout: Lookout,
    records: Records,
}

impl Task {
    /// With the secret from its file.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn new(policy: &Arc<Policy>, dns: &Dns) -> Result<Self, ExitError> {
        let now = Instant::now();
        Ok(Self {
            policy: Arc::clone(policy),
            lookout: Lookout::new(now, dns),
            records: Records::new(Authority::open(&dns.authority, &dns.zone, &dns.key_file)?, &dns.names),
            dns: dns.clone(),
        })
    }

    /// Runs until `stop` is notified; a step that is out is waited for.
    pub async fn run(mut self, network: Rc<Network>, stop: Rc<Notify>) {
        loop {
            if self.advance().await {
                continue;
            }
            let next = self.records.poll_timeout().into_iter().chain([self.lookout.poll_timeout()]).min();
            let next = next.unwrap_or_else(|| self.lookout.poll_timeout());
            tokio::select! {
                () = stop.notified() => return,
                () = sleep_until(next.into()) => {}
                () = network.changed() => {
                    let now = Instant::now();
                    self.lookout.handle_network_change(now);
                    self.records.handle_network_change(now);
                }
            }
        }
    }

    /// Finds out the address and makes each record right or fails once.
    ///
    /// # Errors
    /// When a record is not right now; why has been logged.
    pub async fn run_once(mut self) -> Result<(), ExitError> {
        loop {
            if self.lookout.is_failing() {
                return Err(ExitError::new(Exit::Failed, "the public address is not known"));
            }
            if self.lookout.current().is_some() && self.records.is_settled() {
                break;
            }
            if !self.advance().await {
                let next = self.records.poll_timeout().into_iter().chain([self.lookout.poll_timeout()]).min();
                sleep_until(next.unwrap_or_else(Instant::now).into()).await;
            }
        }
        if self.records.is_right() {
            Ok(())
        } else {
            Err(ExitError::new(Exit::Failed, "not every record is right; the lines above say why"))
        }
    }

    /// Does what is due, one thing at a time; whether there was anything.
    async fn advance(&mut self) -> bool {
        let now = Instant::now();
        if self.lookout.poll_timeout() <= now {
            self.look().await;
            return true;
        }
        let has_advanced = self.records.advance().await.is_some();
        self.report() || has_advanced
    }

    async fn look(&mut self) {
        let (policy, source, current) =
            (Arc::clone(&self.policy), self.dns.address.clone(), self.lookout.current());
        let found = spawn_blocking(move || address::find(&policy, &source, current)).await;
        let found = found.unwrap_or_else(|error| Err(Unknown::Temporary(error.to_string())));
        let now = Instant::now();
        match found {
            Ok(found) => {
                if let Some(address) = self.lookout.handle_answer(now, found) {
                    tracing::info!(%address, "the edge's public address");
                    self.records.handle_wanted(now, Wanted::Only(address));
                }
            }
            Err(unknown) => match self.lookout.handle_failure(now, &unknown, fastrand::u8(..)) {
                Some(Severity::Warning) => tracing::warn!("the public address is not known: {unknown}"),
                Some(Severity::Info) => tracing::info!("the public address is not known: {unknown}"),
                None => {}
            },
        }
    }

    /// Reports to systemd what happened; whether there was anything.
    fn report(&mut self) -> bool {
        let mut is_any = false;
        while let Some(event) = self.records.poll_event() {
            is_any = true;
            if let EventKind::Right(address) | EventKind::Changed { to: address, .. } = &event.kind {
                let status = format!("{} has the address {}", event.name, shown(address));
                life::notify(&[NotifyState::Status(&status)]);
            }
        }
        is_any
    }
}
