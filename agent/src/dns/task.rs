//! The task that keeps the records, as long as one configuration is in force.

use std::net::Ipv4Addr;
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
use super::authority::{Authority, Outcome};
use super::failure::Severity;
use super::keeper::{Event, EventKind, Keeper, Step};
use super::lookout::{Lookout, Unknown};
use crate::network::Network;

/// Keeps the records of `[dns]`.
pub struct Task {
    policy: Arc<Policy>,
    dns: Dns,
    /// Taken while a step runs.
    authority: Option<Authority>,
    lookout: Lookout,
    keeper: Keeper,
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
            authority: Some(Authority::open(dns)?),
            lookout: Lookout::new(now, dns),
            keeper: Keeper::new(now, &dns.names, fastrand::u64(..)),
            dns: dns.clone(),
        })
    }

    /// Runs until `stop` is notified; a step that is out is waited for.
    pub async fn run(mut self, network: Rc<Network>, stop: Rc<Notify>) {
        loop {
            if self.advance().await {
                continue;
            }
            let next = self.keeper.poll_timeout().into_iter().chain([self.lookout.poll_timeout()]).min();
            let next = next.unwrap_or_else(|| self.lookout.poll_timeout());
            tokio::select! {
                () = stop.notified() => return,
                () = sleep_until(next.into()) => {}
                () = network.changed() => {
                    let now = Instant::now();
                    self.lookout.handle_network_change(now);
                    self.keeper.handle_network_change(now);
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
            if self.lookout.current().is_some() && self.keeper.is_settled() {
                break;
            }
            if !self.advance().await {
                let next = self.keeper.poll_timeout().into_iter().chain([self.lookout.poll_timeout()]).min();
                sleep_until(next.unwrap_or_else(Instant::now).into()).await;
            }
        }
        if self.keeper.is_right() {
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
        let Some(step) = self.keeper.poll_step(now) else {
            return self.report();
        };
        self.carry_out(step).await;
        self.report();
        true
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
                    self.keeper.handle_address(now, address);
                }
            }
            Err(unknown) => match self.lookout.handle_failure(now, &unknown, fastrand::u8(..)) {
                Some(Severity::Warning) => tracing::warn!("the public address is not known: {unknown}"),
                Some(Severity::Info) => tracing::info!("the public address is not known: {unknown}"),
                None => {}
            },
        }
    }

    async fn carry_out(&mut self, Step { name, action }: Step) {
        let Some(mut authority) = self.authority.take() else { return };
        let of = name.clone();
        let done = spawn_blocking(move || {
            let outcome = authority.carry_out(&of, action);
            (authority, outcome)
        });
        let Ok((authority, outcome)) = done.await else { return };
        self.authority = Some(authority);
        let now = Instant::now();
        match outcome {
            Outcome::Read(result) => self.keeper.handle_read(now, &name, result),
            Outcome::Changed(change, result) => self.keeper.handle_change(now, &name, change, result),
        }
    }

    /// Logs what happened; whether there was anything.
    fn report(&mut self) -> bool {
        let mut is_any = false;
        while let Some(Event { name, kind }) = self.keeper.poll_event() {
            is_any = true;
            log(&name, &kind);
            if let EventKind::Right(address) | EventKind::Changed { to: address, .. } = kind {
                life::notify(&[NotifyState::Status(&format!("{name} has the address {address}"))]);
            }
        }
        is_any
    }
}

fn log(name: &str, kind: &EventKind) {
    let address = |address: &Option<Ipv4Addr>| address.map_or_else(|| "none".to_owned(), |it| it.to_string());
    match kind {
        EventKind::Right(address) => tracing::info!(name, %address, "the record is right"),
        EventKind::Changed { from, to } => {
            tracing::info!(name, from = address(from), %to, "the record was changed");
        }
        EventKind::Failed { severity: Severity::Warning, reason } => {
            tracing::warn!(name, "the record cannot be kept: {reason}");
        }
        EventKind::Failed { severity: Severity::Info, reason } => {
            tracing::info!(name, "the record cannot be kept for now: {reason}");
        }
        EventKind::Held(pause) => {
            let seconds = pause.as_secs();
            tracing::warn!(
                name,
                seconds,
                "the public address changes too often; the next change of the record waits"
            );
        }
    }
}
