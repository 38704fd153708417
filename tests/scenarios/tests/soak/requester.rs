//! An origin that is nothing but a tunnel and a link, and requests public ports as fast as that
//! lets it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use daemon::link::hello::{Identity, Role};
use daemon::link::message::{About, Ports};
use daemon::link::publish::{Answer, Asked, Port};
use daemon::link::session::{Event, Session};
use daemon::link::shell;
use lab::{Node, until};
use policy::{Name, PortRange};
use scenarios::{KeyPair, PlainPeer, WireGuardGo};
use tunnel::io::clock;
use tunnel::key::{PrivateKey, PublicKey};
use tunnel::time::Instant;

/// The edge's end of the link.
const LINK: ([u8; 4], u16) = ([10, 77, 88, 1], 51_899);
/// An edge reads 20 messages a second.
const PACE: Duration = Duration::from_millis(50);
/// How long what must come may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the last lists may take: each is a change of the rules, one after the other, and
/// a busy machine takes seconds for one.
const ALL_GRANTED: Duration = Duration::from_secs(300);
/// Ports that each origin may publish.
pub(crate) const PORTS: u16 = 4;

/// One origin.
pub(crate) struct Requester {
    number: u16,
    key: KeyPair,
    node: Node,
    _tunnel: WireGuardGo,
}

/// What an origin did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Requests that it sent.
    pub(crate) sent: u32,
    /// Those that were replied to; the others came within the same second as a later one.
    pub(crate) replied: u32,
}

/// How often an origin requests.
pub(crate) enum Pace<'a> {
    /// As often as an edge reads, so many times; then one more has ended.
    Flood { left: u32, ended: &'a AtomicUsize },
    /// After each reply, until so many of those that flood have ended.
    Replies { ended: &'a AtomicUsize, of: usize },
}

impl Pace<'_> {
    fn is_over(&self) -> bool {
        match self {
            Self::Flood { left, .. } => *left == 0,
            Self::Replies { ended, of } => ended.load(Ordering::Relaxed) >= *of,
        }
    }

    fn handle_sent(&mut self) {
        if let Self::Flood { left, ended } = self {
            *left -= 1;
            if *left == 0 {
                ended.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Requester {
    /// The tunnel of an origin on `node`, which may have others.
    pub(crate) fn start(node: &Node, edge: &KeyPair, number: u16) -> Result<Self> {
        let key = KeyPair::of(&name(number));
        let interface = format!("wg{number}");
        let tunnel = WireGuardGo::start(node, &interface)?;
        tunnel.configure(&PlainPeer {
            private_key: &key.private,
            listen_port: None,
            public_key: &edge.public,
            preshared_key: None,
            allowed_ips: "10.77.88.1/32",
            endpoint: Some("192.0.2.2:51820"),
            keepalive: Some(5),
        })?;
        tunnel.bring_up(&[&format!("{}/32", address(number))], &[])?;
        node.run(&format!("ip route add 10.77.88.1/32 dev {interface} metric {}", 100 + number))?;
        node.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        Ok(Self { number, key, node: node.clone(), _tunnel: tunnel })
    }

    /// Its entry in gateway.toml.
    pub(crate) fn entry(number: u16) -> String {
        let key = KeyPair::of(&name(number)).public;
        let (first, last) = (port(number, 0), port(number, PORTS - 1));
        format!(
            "[[peer]]\nname = \"{}\"\npublic_key = \"{key}\"\nallowed_ips = [\"{}/32\"]\nmay_publish = [\"{first}-{last}\"]\n\
             probe = \"off\"\n",
            name(number),
            address(number),
        )
    }

    /// The names under which the edge shows what it requests last.
    pub(crate) fn granted(number: u16) -> impl Iterator<Item = String> {
        (0..PORTS)
            .filter(move |place| last(number) >> place & 1 == 1)
            .map(move |place| format!("{}/s{place}", name(number)))
    }

    /// Requests another list as often as `pace` lets it, then the last one until that is granted.
    pub(crate) fn request(&self, edge: &KeyPair, mut pace: Pace<'_>) -> Result<Tally> {
        let mut link = until(LIMIT, "a link", || Link::open(self, edge).map(Some))?;
        let mut tally = Tally::default();
        let mut next = clock::instant();
        while !pace.is_over() {
            link.exchange()?;
            let is_due = match pace {
                Pace::Flood { .. } => next <= clock::instant(),
                Pace::Replies { .. } => link.asked.is_none(),
            };
            if is_due && link.session.has_room() {
                // Every fifth one withdraws everything.
                let list = if tally.sent % 5 == 4 { 0 } else { tally.sent % 15 + 1 };
                link.ask(self.list(list)?);
                next = clock::instant().after(PACE);
                tally.sent += 1;
                pace.handle_sent();
            }
        }
        tally.replied = link.replies;
        let wanted = self.list(last(self.number))?;
        let all = vec![Answer::Granted; wanted.ports().len()];
        // The request before it may be replied to first.
        let mut is_last = false;
        until(ALL_GRANTED, "the last list to be granted", || {
            if link.asked.is_none() {
                link.ask(wanted.clone());
                is_last = true;
            }
            link.exchange()?;
            Ok((is_last && link.replied.take() == Some(all.clone())).then_some(()))
        })?;
        Ok(tally)
    }

    /// Of its ports those whose bits are set.
    fn list(&self, bits: u32) -> Result<Asked> {
        let place = |place: u16| -> Result<Port> {
            let port = port(self.number, place);
            Ok(Port {
                service: Name::new(&format!("s{place}")).context("a name")?,
                ports: Ports(PortRange::new(port, port).context("a port")?),
                udp: false,
                target: address(self.number).parse()?,
                target6: None,
                target_ports: None,
                from: None,
            })
        };
        let ports: Result<Vec<Port>> =
            (0..PORTS).filter(|number| bits >> number & 1 == 1).map(place).collect();
        Ok(Asked::first_of(&ports?))
    }
}

/// What an origin requests last.
const fn last(number: u16) -> u32 {
    number as u32 % 15 + 1
}

fn name(number: u16) -> String {
    format!("origin{number}")
}

fn address(number: u16) -> String {
    format!("10.77.88.{}", 10 + number)
}

const fn port(number: u16, place: u16) -> u16 {
    20_000 + 100 * number + place
}

/// A link, from the origin's end.
struct Link {
    stream: TcpStream,
    session: Session,
    /// The request that is not replied to yet.
    asked: Option<u32>,
    /// The reply to the last one.
    replied: Option<Vec<Answer>>,
    /// Replies to any.
    replies: u32,
}

impl Link {
    /// Connects through this origin's own tunnel, and waits until both ends have proved themselves.
    fn open(origin: &Requester, edge: &KeyPair) -> Result<Self> {
        let (own, far): (PrivateKey, PublicKey) = (origin.key.private.parse()?, edge.public.parse()?);
        let source = SocketAddr::new(address(origin.number).parse()?, 0);
        let interface = format!("wg{}", origin.number);
        let stream = origin.node.within(|| -> Result<TcpStream> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&SocketAddr::from(LINK).into(), Duration::from_secs(5))?;
            Ok(socket.into())
        })??;
        stream.set_read_timeout(Some(Duration::from_millis(5)))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let about: About = shell::about("0.1.0", &[])?;
        let identity = Identity::new(&own, &far, None);
        let session = Session::new(now(), Role::Origin, identity, about, shell::nonce()?);
        let mut link = Self { stream, session, asked: None, replied: None, replies: 0 };
        while !link.session.is_open() {
            link.exchange()?;
        }
        Ok(link)
    }

    fn ask(&mut self, asked: Asked) {
        self.replied = None;
        self.asked = self.session.ask(now(), asked);
    }

    /// Sends what waits, and takes what comes within a moment.
    fn exchange(&mut self) -> Result<()> {
        while !self.session.poll_output().is_empty() {
            let count = self.stream.write(self.session.poll_output())?;
            self.session.handle_sent(now(), count);
        }
        let mut bytes = [0; 4_096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.session.handle_hangup(),
            Ok(count) => {
                let taken = self.session.handle_input(now(), &bytes[..count]);
                ensure!(taken == count, "the edge sends faster than it may");
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        if self.session.poll_timeout().is_some_and(|due| due <= now()) {
            self.session.handle_timeout(now());
        }
        while let Some(event) = self.session.poll_event() {
            self.handle_event(event)?;
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Answers(id, answers) => {
                self.replies += 1;
                if self.asked == Some(id) {
                    self.asked = None;
                    self.replied = Some(answers);
                }
            }
            Event::Closed(reason) => bail!("the link ended: {}", reason.label()),
            Event::Opened(_)
            | Event::Asked(..)
            | Event::Health(_)
            | Event::Notice(_)
            | Event::HistoryAsked(..)
            | Event::History(..) => {}
        }
        Ok(())
    }
}

fn now() -> Instant {
    clock::instant()
}
