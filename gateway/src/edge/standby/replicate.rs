//! The socket to the other edge, what is sent by it, and what becomes of what arrives.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use policy::gateway::{REPLICATION_PORT, Standby as Pair};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::UdpSocket;
use tokio::task::spawn_local;
use tunnel::io::clock;
use tunnel::key::PublicKey;
use tunnel::time::Instant;

use super::super::grants;
use super::Edge;
use crate::standby::{Body, MAX_ENDPOINTS, Received, Refused, Replication, Role, Seal};
use crate::state::KeptGrants;

/// How far the other edge's clock mark may be ahead of this edge's clock and still count.
const MARK_AHEAD: Duration = Duration::from_secs(3600);

/// This edge's end of the replication.
pub(super) struct End {
    pair: Pair,
    own: PublicKey,
    socket: Result<Rc<UdpSocket>, String>,
    replication: Replication,
    began: Instant,
    /// Why the last datagram from the other edge's address did not count.
    refused: Option<Refused>,
}

impl End {
    fn open(edge: &Edge, pair: Pair) -> Option<Self> {
        let key = edge.config().keys.private.clone();
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random).ok()?;
        let socket = bind(pair.other).map(Rc::new).map_err(|error| error.to_string());
        let own = key.public();
        let (began, replication) = (clock::instant(), Replication::new(Seal::new(key), random));
        Some(Self { pair, own, socket, replication, began, refused: None })
    }

    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.replication.silence(now)
    }

    pub(super) fn problem(&self, now: Instant, lost: Duration) -> Option<String> {
        let other = self.pair.other;
        if let Err(error) = &self.socket {
            return Some(format!(
                "udp/{REPLICATION_PORT} cannot be opened ({error}), so the other edge {other} gets nothing; stop the program that \
                 has it: ss -lunp"
            ));
        }
        let silence = self.silence(now).unwrap_or_else(|| now.since(self.began));
        if silence < lost {
            return None;
        }
        let seconds = silence.as_secs();
        Some(match self.refused {
            Some(refused @ (Refused::Unauthentic | Refused::Own)) => {
                format!("what comes from the other edge {other} does not count: {refused}")
            }
            _ => format!(
                "the other edge {other} was not heard for {seconds} s, so it would take over with what it knew then; look at it and \
                 at the link between the two"
            ),
        })
    }
}

fn bind(other: IpAddr) -> io::Result<UdpSocket> {
    let any = match other {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, REPLICATION_PORT))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Has the replication as the configuration wants it; its socket.
pub(super) fn follow(edge: &Edge, pair: Option<Pair>) -> Option<Rc<UdpSocket>> {
    let own = edge.config().keys.private.public();
    let mut end = edge.standby.end.borrow_mut();
    let is_same = end.as_ref().map(|end| (end.pair, end.own)) == pair.map(|pair| (pair, own));
    let is_open = end.as_ref().is_none_or(|end| end.socket.is_ok());
    if !is_same || !is_open {
        // The port is free before it is taken again.
        *end = None;
        *end = pair.and_then(|pair| End::open(edge, pair));
    }
    end.as_ref().and_then(|end| end.socket.as_ref().ok().cloned())
}

/// Waits for a datagram: its length and source.
pub(super) async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let socket = socket?;
    match socket.recv_from(buffer).await {
        Ok(received) => Some(received),
        Err(error) => {
            // An ICMP error of the other edge, which is not there yet.
            tracing::debug!(%error, "nothing received from the other edge");
            None
        }
    }
}

/// Sends the other edge what it must know.
pub(super) fn send(edge: &Edge) {
    let bodies = bodies(edge);
    let mut end = edge.standby.end.borrow_mut();
    let Some(End { pair, socket: Ok(socket), replication, .. }) = end.as_mut() else { return };
    let to = SocketAddr::new(pair.other, REPLICATION_PORT);
    for body in bodies {
        let Some(datagram) = replication.datagram(body) else {
            tracing::warn!(
                "what peers publish is too much for one message, so the other edge does not get it"
            );
            continue;
        };
        // It is repeated in a second, and a link that is cut is found by the silence on it.
        if let Err(error) = socket.try_send_to(&datagram, to) {
            tracing::debug!(%error, %to, "nothing is sent to the other edge");
            return;
        }
    }
}

fn bodies(edge: &Edge) -> Vec<Body> {
    let active = edge.standby.role() == Role::Active;
    let mut bodies = vec![Body::Alive { active }];
    if !active {
        return bodies;
    }
    let endpoints: Vec<_> = edge.peers.borrow().kept().peers.clone().into_iter().collect();
    bodies
        .extend(endpoints.chunks(MAX_ENDPOINTS).map(|part| Body::Endpoints(part.iter().cloned().collect())));
    let mark = edge.state.clock_mark().read();
    bodies.extend((!mark.is_zero()).then_some(Body::ClockMark(mark)));
    let in_force = edge.in_force.borrow();
    let grants = KeptGrants::of(in_force.grants.requests(), in_force.served(), in_force.ruleset());
    bodies.push(Body::Grants(grants));
    bodies
}

/// Takes a datagram that was received.
pub(super) fn handle(edge: &Rc<Edge>, buffer: &[u8], datagram: Option<(usize, SocketAddr)>) {
    let Some((length, from)) = datagram else { return };
    let (taken, answers) = {
        let mut end = edge.standby.end.borrow_mut();
        let Some(end) = end.as_mut().filter(|end| end.pair.other == from.ip().to_canonical()) else { return };
        let bytes = buffer.get(..length).unwrap_or_default();
        let now = clock::instant();
        let taken = end.replication.handle_datagram(now, bytes, random);
        end.refused = taken.as_ref().err().copied();
        (taken, end.replication.poll_answer(now))
    };
    let count = if taken.is_ok() { &edge.standby.received } else { &edge.standby.refused };
    count.set(count.get() + 1);
    match taken {
        // The active edge knows better, whatever the other one knew before.
        Ok(received) if edge.standby.role() == Role::Standby => take(edge, received),
        Ok(_) => {}
        Err(reason) => tracing::debug!(%from, %reason, "a message of the other edge changes nothing"),
    }
    if answers {
        send(edge);
    }
}

/// Bytes that were never used before. Without any, the challenge is one that every start has.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

fn take(edge: &Rc<Edge>, Received { body }: Received) {
    match body {
        Body::Alive { .. } => {}
        Body::Endpoints(endpoints) => take_endpoints(edge, &endpoints),
        Body::ClockMark(mark) => take_mark(edge, mark),
        Body::Grants(grants) => take_grants(edge, grants),
    }
}

fn take_endpoints(edge: &Edge, endpoints: &BTreeMap<String, SocketAddr>) {
    for (key, endpoint) in endpoints {
        if let Ok(key) = key.parse() {
            edge.plane.place(&key, *endpoint);
        }
    }
    edge.keep_endpoints_of(endpoints.iter().map(|(key, endpoint)| (key.clone(), *endpoint)));
}

/// In the background: rules take a moment, and the address must be followed meanwhile.
fn take_grants(edge: &Rc<Edge>, kept: KeptGrants) {
    if edge.standby.granted.borrow().as_ref() == Some(&kept) {
        return;
    }
    *edge.standby.granted.borrow_mut() = Some(kept.clone());
    let edge = Rc::clone(edge);
    drop(spawn_local(async move { grants::take_over(&edge, kept).await }));
}

/// A mark beyond every clock would make this edge report for years that its own is behind.
fn take_mark(edge: &Edge, mark: Duration) {
    let kept = edge.state.clock_mark();
    if mark <= kept.read() || mark > clock::now().wall.saturating_add(MARK_AHEAD) {
        return;
    }
    edge.plane.device().node().raise_watermark(mark);
    if let Err(error) = kept.write(mark) {
        tracing::debug!(%error, "the clock mark of the other edge cannot be written; it comes again in a second");
    }
}
