//! The rounds with the gateway: frames for the joiner and from it, and what the gateway sees.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use daemon::command_line::print_to_stderr;
use daemon::exit::{Exit, ExitError};
use daemon::pairing::control::{LIFETIME, MAX_FRAMES, PairingEnd, PairingReply, PairingRequest};
use daemon::pairing::edge::{EdgeEvent, EdgeFault, EdgePairing, Joiner};
use daemon::pairing::message::Refusal;
use gateway::control::client;
use gateway::control::protocol::{Reply, Request};
use policy::PublicKey;

/// Between two rounds.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// How often it is reported that nothing has come.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How long the joiner may take to write its file, and to see that a new key works.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// What must be left of a code when it is accepted: for the edge's apply, the joiner, and the last
/// messages.
const LEFT: Duration = Duration::from_secs(120);

/// One pairing at the gateway; closed when dropped.
pub(super) struct Exchange<'a> {
    socket: &'a Path,
    key: PublicKey,
    opened: Instant,
    pairing: EdgePairing,
    connections: u32,
    is_connected: bool,
    is_open: bool,
    seen: Seen,
}

/// What was reported of what the gateway sees.
struct Seen {
    port: u16,
    reported_at: Instant,
    has_session: bool,
    is_connected: bool,
}

impl<'a> Exchange<'a> {
    /// Adds the temporary peer.
    ///
    /// # Errors
    /// What the gateway refuses.
    pub(super) fn open(
        socket: &'a Path,
        key: PublicKey,
        address: IpAddr,
        pairing: EdgePairing,
        port: u16,
    ) -> Result<Self, ExitError> {
        ask(socket, PairingRequest::Open { key, address })?;
        let seen = Seen { port, reported_at: Instant::now(), has_session: false, is_connected: false };
        let opened = Instant::now();
        Ok(Self { socket, key, opened, pairing, connections: 0, is_connected: false, is_open: true, seen })
    }

    /// Waits until one wants to join.
    ///
    /// # Errors
    /// Why the pairing ended.
    pub(super) fn wait_for_joiner(&mut self) -> Result<Joiner, ExitError> {
        loop {
            if let Some(EdgeEvent::Offered(joiner)) = self.round()? {
                // The opening is sent before the operator is asked.
                self.round()?;
                return Ok(joiner);
            }
            self.pause();
        }
    }

    /// One round; what happened, unless that ended the pairing.
    ///
    /// # Errors
    /// Why the pairing ended.
    pub(super) fn round(&mut self) -> Result<Option<EdgeEvent>, ExitError> {
        let reply = self.carry()?;
        if let Some(end) = reply.end {
            self.is_open = false;
            return Err(ended(end));
        }
        self.seen.report(&reply);
        match self.pairing.poll_event() {
            Some(EdgeEvent::Ended(fault)) => {
                self.deliver();
                Err(fault_error(fault))
            }
            event => Ok(event),
        }
    }

    /// Sends the frames that wait, and hands over what came.
    fn carry(&mut self) -> Result<PairingReply, ExitError> {
        let frames = std::iter::from_fn(|| self.pairing.poll_frame()).take(MAX_FRAMES).collect();
        let reply = ask(self.socket, PairingRequest::Exchange { key: self.key, frames })?;
        let came = reply.connections.saturating_sub(self.connections);
        (0..came.min(2)).for_each(|_| self.pairing.handle_connected());
        reply.frames.iter().for_each(|frame| self.pairing.handle_frame(frame));
        if (self.is_connected || came > 0) && !reply.is_connected {
            self.pairing.handle_disconnected();
        }
        (self.connections, self.is_connected) = (reply.connections, reply.is_connected);
        Ok(reply)
    }

    /// Sends the joiner the reason, and ends the pairing.
    pub(super) fn refuse(&mut self, reason: Refusal) {
        self.pairing.refuse(reason);
        self.deliver();
    }

    /// Sends the joiner that it is accepted; whether it has written its file then.
    pub(super) fn accept(&mut self) -> bool {
        self.pairing.accept();
        let begun = Instant::now();
        while begun.elapsed() < WRITE_WITHIN {
            match self.round() {
                Ok(Some(EdgeEvent::Written)) => return true,
                Ok(_) => self.pause(),
                Err(_) => return false,
            }
        }
        false
    }

    /// Sends the joiner that the edge keeps it.
    pub(super) fn keep(&mut self) {
        self.pairing.keep();
        self.deliver();
    }

    /// Refuses a "yes" that comes so late that the code could end before the joiner has written its
    /// file.
    pub(super) fn refuse_late(&self) -> Result<(), Refusal> {
        if is_late(self.opened.elapsed()) { Err(Refusal::Late) } else { Ok(()) }
    }

    /// Sends what waits, and gives the gateway a moment to send it on.
    fn deliver(&mut self) {
        // The pairing ends in any case; the joiner then sees that the connection ended.
        if self.carry().is_ok() {
            self.pause();
            drop(self.carry());
        }
    }

    /// Until the next round.
    pub(super) fn pause(&self) {
        thread::sleep(PAUSE);
    }

    /// Removes the temporary peer.
    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            // Without a command the gateway ends the pairing by itself.
            drop(ask(self.socket, PairingRequest::Close { key: self.key }));
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

impl Seen {
    /// Reports what is new, and every ten seconds that nothing came.
    fn report(&mut self, reply: &PairingReply) {
        if reply.is_connected && !self.is_connected {
            (self.is_connected, self.has_session) = (true, true);
            print_to_stderr("a machine came with the code");
        } else if reply.has_session && !self.has_session {
            self.has_session = true;
            self.reported_at = Instant::now();
            print_to_stderr("a machine has built the temporary tunnel");
        }
        let is_quiet = !reply.has_session && self.reported_at.elapsed() >= REPORT_EVERY;
        if is_quiet {
            self.reported_at = Instant::now();
            print_to_stderr(&quiet(reply, self.port, own_address()));
        }
    }
}

const fn is_late(elapsed: Duration) -> bool {
    elapsed.as_secs() + LEFT.as_secs() > LIFETIME as u64
}

/// That there is no tunnel, with what it means that such packets came.
fn quiet(reply: &PairingReply, port: u16, own: Option<IpAddr>) -> String {
    let own = own.map_or_else(|| "this machine".to_owned(), |own| own.to_string());
    if reply.is_heard {
        return format!(
            "a machine comes with the code to udp/{port}, but gets no reply: look at a firewall or NAT on the way from \
             {own} to it"
        );
    }
    match (reply.unknown, reply.datagrams) {
        (0, 0) => format!("0 packets on udp/{port} so far: is it forwarded to {own}?"),
        (0, _) => format!(
            "0 packets of another machine on udp/{port} so far, only those of peers: does the other machine reach this \
             edge at the endpoint of the code?"
        ),
        (count, _) => {
            format!("{count} packets of unknown machines on udp/{port} so far, none with this code")
        }
    }
}

/// The address by which this machine reaches the internet; nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0))).ok()?;
    socket.connect(SocketAddr::from(([192, 0, 2, 1], 9))).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn ask(socket: &Path, request: PairingRequest) -> Result<PairingReply, ExitError> {
    let Reply::Pairing(reply) = client::ask(socket, &Request::Pairing(request))? else {
        return Err(ExitError::new(Exit::Failed, "the gateway sent the answer to another request"));
    };
    Ok(reply)
}

/// Refuses a key that the running gateway does not have: its file was replaced and not applied.
///
/// # Errors
/// [`Exit::Conflict`]
pub(super) fn refuse_other_key(socket: &Path, own: &tunnel::key::PublicKey) -> Result<(), ExitError> {
    let Reply::Peers(peers) = client::ask(socket, &Request::Peers)? else {
        return Err(ExitError::new(Exit::Failed, "the gateway sent the answer to another request"));
    };
    match peers.interface.and_then(|own| own.public_key) {
        Some(running) if running != own.to_string() => {
            let message = format!(
                "the gateway runs with the key {running}, and its private_key_file holds that of {own}: reload it first, \
                 then run this again"
            );
            Err(ExitError::new(Exit::Conflict, message))
        }
        Some(_) | None => Ok(()),
    }
}

fn ended(end: PairingEnd) -> ExitError {
    let message = match end {
        PairingEnd::Expired => "the time of the code is over; nothing was changed, pair again",
        PairingEnd::SecondJoiner => {
            "a second machine came with the code while the first was connected: the code was copied or used twice. \
             Nothing was changed; pair again, and carry the code another way"
        }
        PairingEnd::TooMuch => {
            "what came with the code was more than a pairing sends; nothing was changed, pair again"
        }
        PairingEnd::Closed => {
            "the gateway ended the pairing, as when it restarts; nothing was changed, pair again"
        }
    };
    ExitError::new(Exit::Failed, message)
}

fn fault_error(fault: EdgeFault) -> ExitError {
    let fix = match fault {
        EdgeFault::SecondKey | EdgeFault::SecondJoiner => {
            "the code was copied or used twice. Nothing was changed; pair again, and carry the code another way"
        }
        EdgeFault::Malformed
        | EdgeFault::OutOfOrder
        | EdgeFault::BadKey
        | EdgeFault::Gone
        | EdgeFault::Failed(_)
        | EdgeFault::Refused => "nothing was changed; pair again",
    };
    ExitError::new(Exit::Failed, format!("{fault}: {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_names_the_port_and_who_should_get_it() {
        let own = Some("192.168.1.2".parse().unwrap());
        let quiet = |datagrams, unknown, is_heard| {
            quiet(&PairingReply { datagrams, unknown, is_heard, ..PairingReply::default() }, 51_820, own)
        };
        assert_eq!(quiet(0, 0, false), "0 packets on udp/51820 so far: is it forwarded to 192.168.1.2?");
        let of_peers = quiet(14, 0, false);
        assert!(of_peers.starts_with("0 packets of another machine on udp/51820 so far"), "{of_peers}");
        assert_eq!(
            quiet(14, 7, false),
            "7 packets of unknown machines on udp/51820 so far, none with this code"
        );
        let one_way = quiet(14, 0, true);
        assert!(one_way.contains("gets no reply") && one_way.contains("192.168.1.2"), "{one_way}");
    }

    #[test]
    fn a_yes_needs_two_minutes_of_the_code() {
        let lifetime = Duration::from_secs(u64::from(LIFETIME));
        assert!(!is_late(lifetime - LEFT) && is_late(lifetime - LEFT + Duration::from_secs(1)));
    }
}
