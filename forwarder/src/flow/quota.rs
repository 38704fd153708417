//! How many UDP flows there may be, in all and of one client.

use std::collections::HashMap;

use super::key::ClientPrefix;

/// Why a UDP flow was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverQuota {
    /// As many as `[limits] udp_flows` allows: a flow that has not proven itself must end first.
    Total,
    /// As many of this client as `udp_flows_per_client` allows.
    Client,
}

/// Counts flows against the limits; its own size is bounded by the number of flows.
#[derive(Debug)]
pub struct Quota {
    total_limit: u32,
    client_limit: u32,
    total: u32,
    clients: HashMap<ClientPrefix, u32>,
}

impl Quota {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(total_limit: u32, client_limit: u32) -> Self {
        Self { total_limit, client_limit, total: 0, clients: HashMap::new() }
    }

    /// New limits; what is counted stays.
    pub fn set_limits(&mut self, total: u32, client: u32) {
        (self.total_limit, self.client_limit) = (total, client);
    }

    /// Counts a flow; one that begins on this machine has no client.
    ///
    /// # Errors
    /// [`OverQuota`]; then nothing is counted.
    pub fn take(&mut self, client: Option<ClientPrefix>) -> Result<(), OverQuota> {
        let held = client.and_then(|client| self.clients.get(&client)).copied().unwrap_or(0);
        if held >= self.client_limit {
            return Err(OverQuota::Client);
        }
        if self.total >= self.total_limit {
            return Err(OverQuota::Total);
        }
        if let Some(client) = client {
            *self.clients.entry(client).or_default() += 1;
        }
        self.total += 1;
        Ok(())
    }

    /// A counted flow is over.
    pub fn release(&mut self, client: Option<ClientPrefix>) {
        self.total = self.total.saturating_sub(1);
        let Some(client) = client else { return };
        if let Some(held) = self.clients.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Flows counted now.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn one_client_cannot_take_every_flow() {
        let mut quota = Quota::new(4, 2);
        assert_eq!(quota.take(client(1)), Ok(()));
        assert_eq!(quota.take(client(1)), Ok(()));
        assert_eq!(quota.take(client(1)), Err(OverQuota::Client));
        assert_eq!(quota.take(client(2)), Ok(()));
        assert_eq!(quota.take(None), Ok(()));
        assert_eq!(quota.take(None), Err(OverQuota::Total));
    }

    #[test]
    fn a_client_without_flows_is_forgotten() {
        let mut quota = Quota::new(1_000, 2);
        for host in 0..200 {
            quota.take(client(host)).unwrap();
            quota.release(client(host));
        }
        assert!(quota.clients.is_empty());
        assert_eq!(quota.total(), 0);
    }

    fn client(host: u8) -> Option<ClientPrefix> {
        Some(IpAddr::from([203, 0, 113, host]).into())
    }
}
