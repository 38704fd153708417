//! The names of the services: each is asked for at the upstream as a visitor asks for it, through
//! a connection as a flow has it.

mod attempt;
pub(in crate::health) mod certificate;
pub(in crate::health) mod http;
mod judge;
mod timed;
pub(in crate::health) mod tls;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use daemon::health::State;
use daemon::link::names::{HostName, MAX_NAMES};
use policy::forwarder::ProxyProtocol;
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tunnel::io::clock;

use crate::upstream::{Found, Member, Pools, Speech, Watched};
use attempt::{Asked, Attempt, attempt};
use judge::{Verdict, judge, other_header};
pub(crate) use timed::Prober;
pub(in crate::health) use tls::Client;
use tls::Session;
pub(in crate::health) use tls::is_closed;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(60);
/// The least time between two looks: what decides about a first failure comes then.
const LEAST: Duration = Duration::from_secs(5);
/// From one look to the next while a name is failing.
const WHILE_FAILING: Duration = Duration::from_secs(10);
/// The most looks at a time.
const AT_A_TIME: usize = 16;

/// The names that are being watched.
pub(super) struct NameWatch {
    watched: Vec<Weak<Watched>>,
    shell: Rc<Shell>,
}

/// What all looks share.
struct Shell {
    client: Client,
    turns: Semaphore,
    changed: Rc<Notify>,
    upstream_changed: watch::Sender<()>,
}

impl NameWatch {
    /// None so far; `changed` is notified when a name's state is another than before.
    pub(super) fn new(changed: Rc<Notify>) -> Result<Self, rustls::Error> {
        let shell = Shell {
            client: Client::new()?,
            turns: Semaphore::new(AT_A_TIME),
            changed,
            upstream_changed: watch::channel(()).0,
        };
        Ok(Self { watched: Vec::new(), shell: Rc::new(shell) })
    }

    /// What lets every name be looked at soon: the health of an upstream is another than before.
    pub(super) fn upstream_changed(&self) -> watch::Sender<()> {
        self.shell.upstream_changed.clone()
    }

    /// What makes TLS sessions.
    pub(super) fn client(&self) -> Client {
        self.shell.client.clone()
    }

    /// Begins to watch names that are new, [`MAX_NAMES`] at most; those that left the
    /// configuration are no longer looked at.
    pub(super) fn watch_new(&mut self, pools: &Pools) {
        self.watched.retain(|known| known.strong_count() > 0);
        let now = clock::instant();
        for pool in pools.load().values() {
            pool.names().iter().for_each(|name| name.begin(now));
            for name in pool.names().iter().filter(|name| name.is_watched()) {
                let weak = Arc::downgrade(name);
                let is_new = !self.watched.iter().any(|known| known.ptr_eq(&weak));
                if is_new && self.watched.len() < MAX_NAMES {
                    self.watched.push(Weak::clone(&weak));
                    let changes = self.shell.upstream_changed.subscribe();
                    drop(tokio::task::spawn_local(keep(weak, Rc::clone(&self.shell), changes)));
                }
            }
        }
    }
}

/// Looks at a name until it leaves the configuration.
async fn keep(name: Weak<Watched>, shell: Rc<Shell>, mut changes: watch::Receiver<()>) {
    loop {
        changes.mark_unchanged();
        let Some(watched) = name.upgrade() else { return };
        // Not held while it sleeps, and no larger than that needs.
        Box::pin(look(&watched, &shell)).await;
        let (pause, seen) = (pause(&watched), upstreams(&watched));
        drop(watched);
        sleep(LEAST).await;
        let _ = timeout(pause.saturating_sub(LEAST), another(&name, &seen, &mut changes)).await;
    }
}

/// Waits until an upstream of the name is in another state than was seen.
async fn another(name: &Weak<Watched>, seen: &[State], changes: &mut watch::Receiver<()>) {
    // When the other end of the channel is gone, so is the daemon.
    while changes.changed().await.is_ok() {
        if name.upgrade().is_none_or(|watched| upstreams(&watched) != seen) {
            return;
        }
    }
}

fn upstreams(watched: &Watched) -> Vec<State> {
    watched.members.iter().map(|member| member.state()).collect()
}

fn pause(watched: &Watched) -> Duration {
    match watched.state() {
        State::Failing => WHILE_FAILING,
        State::Ok | State::Unknown if watched.is_in_doubt() => LEAST,
        State::Ok | State::Unknown => EVERY,
    }
}

async fn look(watched: &Watched, shell: &Shell) {
    // An upstream that does not reply holds up the names of its own entry alone.
    let Ok(_its_turn) = watched.turns.acquire().await else { return };
    let Ok(_turn) = shell.turns.acquire().await else { return };
    let Some(found) = find(&shell.client, watched).await else { return };
    let evidence = found.result.as_ref().err().map(|failure| failure.evidence.as_str().to_owned());
    let before = watched.state();
    if !watched.handle_look(clock::instant(), found) {
        return;
    }
    shell.changed.notify_one();
    let (state, evidence) = (watched.state(), evidence.unwrap_or_default());
    // The first verdict is no change, unless it is a bad one.
    if before != State::Unknown || state == State::Failing {
        let name = watched.name.as_ref().map(HostName::as_str);
        let upstream = watched.members.first().map(|member| member.upstream.to_string());
        tracing::info!(name, upstream, state = state.label(), evidence, "the state of a name changed");
    }
}

/// Whether a server begins a TLS session for a name, whatever its certificate; `header` goes out
/// first.
pub(super) async fn begin_session(
    client: &Client,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    name: &str,
    header: Vec<u8>,
) -> io::Result<()> {
    let refused = |reply: String| io::Error::new(io::ErrorKind::InvalidData, format!("it replied: {reply}"));
    let mut session = client.session(Some(name), false).map_err(io::Error::other)?;
    match tls::handshake(stream, &mut session, header).await {
        Ok(()) | Err(Session::Incompatible | Session::Certificate(..)) => Ok(()),
        Err(Session::Broken(error)) => Err(error),
        Err(Session::NotTls) => Err(refused("no TLS".to_owned())),
        Err(Session::Alert(alert)) => Err(refused(format!("TLS alert {alert:?}"))),
    }
}

/// The certificates that the upstreams of a name have for it; none where they are not checked.
pub(super) async fn leaves(client: &Client, watched: &Watched) -> Vec<CertificateDer<'static>> {
    let name = watched.name.as_ref().map(HostName::as_str);
    let mut leaves = Vec::new();
    for member in asked_members(&watched.members) {
        let proxy = member.proxy_protocol;
        let asked = Asked { member, name, speech: Speech::Tls, proxy, offers_http: true };
        if let Attempt::Certificate(leaf, _) = offered(client, asked).await {
            leaves.push(leaf);
        }
    }
    leaves
}

/// What the upstreams of a name say together: each that gets flows must have it. `None` when that
/// cannot be known.
async fn find(client: &Client, watched: &Watched) -> Option<Found> {
    let mut all: Option<Found> = None;
    for member in asked_members(&watched.members) {
        let found = find_at(client, watched, member).await?;
        let before = all.as_ref().and_then(|all| all.certificate);
        let certificate = [before, found.certificate].into_iter().flatten().min();
        let is_over = found.result.is_err();
        all = Some(Found { certificate, ..found });
        if is_over {
            break;
        }
    }
    all
}

/// The upstreams that are looked at: those that do not fail, and all when all do.
fn asked_members(members: &[Arc<Member>]) -> Vec<&Arc<Member>> {
    let checked: Vec<_> = members.iter().filter(|member| member.health.is_some()).collect();
    let working: Vec<_> = checked.iter().copied().filter(|member| member.state() != State::Failing).collect();
    if working.is_empty() { checked } else { working }
}

async fn find_at(client: &Client, watched: &Watched, member: &Member) -> Option<Found> {
    let name = watched.name.as_ref().map(HostName::as_str);
    let mut first = None;
    for speech in speeches(watched) {
        let asked = Asked { member, name, speech, proxy: member.proxy_protocol, offers_http: true };
        let (verdict, is_understood) = ask(client, asked).await;
        let found = Found { result: verdict.result, certificate: verdict.certificate, speech };
        if is_understood {
            return Some(found);
        }
        first = first.or(Some(found));
    }
    first.filter(|_| watched.speech().is_some())
}

/// What is tried, in this order: where the file does not show it, both.
fn speeches(watched: &Watched) -> Vec<Speech> {
    match (watched.is_expected(), watched.speech()) {
        (true, Some(speech)) => vec![speech],
        (_, Some(Speech::Http)) => vec![Speech::Http, Speech::Tls],
        (_, Some(Speech::Tls) | None) => vec![Speech::Tls, Speech::Http],
    }
}

/// The verdict, and whether the upstream understood what it was asked.
async fn ask(client: &Client, asked: Asked<'_>) -> (Verdict, bool) {
    let first = offered(client, asked).await;
    let is_understood = first.is_understood();
    if !is_understood && !matches!(first, Attempt::NotConnected(_)) {
        let proxy = match asked.proxy {
            ProxyProtocol::Off => ProxyProtocol::V2,
            ProxyProtocol::V1 | ProxyProtocol::V2 => ProxyProtocol::Off,
        };
        if offered(client, Asked { proxy, ..asked }).await.is_understood() {
            return (other_header(asked.proxy), true);
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let verdict = match asked.name {
        Some(name) => judge(&first, name, &asked.member.upstream, now),
        // Without a name the header alone is judged.
        None => Verdict { result: Ok(()), certificate: None },
    };
    (verdict, is_understood)
}

/// An attempt, once more without HTTP where the upstream refuses that.
async fn offered(client: &Client, asked: Asked<'_>) -> Attempt {
    let first = attempt(client, asked).await;
    if matches!(first, Attempt::Alert(AlertDescription::NoApplicationProtocol)) {
        return attempt(client, Asked { offers_http: false, ..asked }).await;
    }
    first
}

#[cfg(test)]
pub(in crate::health) mod tests;
