//! The link between the two ends, and what a taken one may send over it.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use daemon::link::frame::{FrameReader, HEADER, MAX_FRAME};
use daemon::link::hello::{Identity, Role};
use daemon::link::message::{About, Bytes, Message};
use daemon::link::remote::Remote;
use daemon::link::session::{Event, MAX_OUTPUT, SILENCE, Session};
use policy::Name;
use tunnel::key::PrivateKey;
use tunnel::time::Instant;

/// The most memory that a session of an end that is not known takes, and one that is.
const UNKNOWN: usize = 32 << 10;
const KNOWN: usize = 2 * MAX_OUTPUT + 16 * MAX_FRAME;

/// The first byte says where the rest is cut; cut or whole, the same frames come out, none longer
/// than allowed, and no memory is taken for bytes that did not come.
pub(crate) fn link_frame(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = frames(bytes, bytes.len().max(1));
    let pieces = frames(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, pieces, "frames depend on how the stream is cut");
    for frame in whole {
        assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
        let Ok(message) = serde_json::from_slice::<Message>(&frame) else { continue };
        let written = serde_json::to_vec(&message).expect("a message can be written");
        let again = serde_json::from_slice::<Message>(&written).expect("and be read");
        assert_eq!(again, message, "a message is not read as it was written");
    }
}

fn frames(bytes: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::new(MAX_FRAME);
    let (mut found, mut come) = (Vec::new(), 0);
    for mut piece in bytes.chunks(cut) {
        come += piece.len();
        while !piece.is_empty() {
            match reader.take(&mut piece) {
                Ok(frame) => found.extend(frame),
                Err(_) => return found,
            }
            assert!(reader.held() <= 2 * come + 2 * HEADER + 8, "memory for bytes that did not come");
        }
    }
    found
}

/// An origin and an edge on virtual time. Each step is an operation, a length and so many bytes:
/// the edge gets them before or after its origin has proved itself, or time passes.
pub(crate) fn link_session(input: &[u8]) {
    let mut now = Instant::from_boot(Duration::from_secs(1_000));
    let mut edge = session(now, Role::Edge);
    let mut origin = session(now, Role::Origin);
    let (mut remote, mut is_proven) = (Remote::default(), false);
    let mut rest = input;
    while let [operation, length, after @ ..] = rest {
        let (bytes, after) = after.split_at((usize::from(*length) * 4).min(after.len()));
        rest = after;
        match operation % 4 {
            0 => is_proven |= prove(now, &mut origin, &mut edge),
            1 => now = now.after(Duration::from_millis(u64::from(*length) * 100)),
            2 => take_all(now, &mut edge),
            _ => {
                edge.handle_input(now, bytes);
            }
        }
        if edge.poll_timeout().is_some_and(|due| due <= now) {
            edge.handle_timeout(now);
        }
        judge(now, &mut edge, &mut remote, is_proven);
    }
    now = now.after(SILENCE);
    edge.handle_timeout(now);
    assert!(edge.is_closed(), "it is open after a silence");
    judge(now, &mut edge, &mut remote, is_proven);
    assert!(edge.poll_timeout().is_none() && edge.poll_output().is_empty(), "it goes on after its end");
}

/// Lets both ends prove themselves as far as they can; whether the edge knows its origin now.
fn prove(now: Instant, origin: &mut Session, edge: &mut Session) -> bool {
    for _ in 0..4 {
        let bytes = origin.poll_output().to_vec();
        origin.handle_sent(now, bytes.len());
        edge.handle_input(now, &bytes);
        let bytes = edge.poll_output().to_vec();
        edge.handle_sent(now, bytes.len());
        origin.handle_input(now, &bytes);
    }
    edge.is_open()
}

fn take_all(now: Instant, session: &mut Session) {
    let count = session.poll_output().len();
    session.handle_sent(now, count);
}

/// What holds at every moment, and for every event.
fn judge(now: Instant, edge: &mut Session, remote: &mut Remote, is_proven: bool) {
    let bound = if is_proven { KNOWN } else { UNKNOWN };
    assert!(edge.held() <= bound, "{} bytes held", edge.held());
    assert!(edge.poll_output().len() <= MAX_OUTPUT, "too much waits");
    assert!(is_proven || !edge.is_open(), "open without a proof");
    while let Some(event) = edge.poll_event() {
        let is_allowed = is_proven || matches!(event, Event::Closed(_));
        assert!(is_allowed, "an event of an end that is not known");
        remote.handle_event(now, event);
        let shown = remote.shown(now).map(|link| serde_json::to_string(&link).expect("it can be written"));
        let is_plain = shown.iter().flat_map(|text| text.bytes()).all(|byte| matches!(byte, b' '..=b'~'));
        assert!(is_plain, "more than printable characters are shown");
    }
}

static IDENTITIES: LazyLock<[Identity; 2]> = LazyLock::new(|| {
    let [origin, edge] = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
    [Identity::new(&origin, &edge.public(), None), Identity::new(&edge, &origin.public(), None)]
});

fn session(now: Instant, role: Role) -> Session {
    let [of_origin, of_edge] = &*IDENTITIES;
    let (identity, byte) = match role {
        Role::Origin => (of_origin, 1),
        Role::Edge => (of_edge, 2),
    };
    let name = |text: &str| Name::new(text).expect("a name");
    let about = About {
        version: name("0.1.0"),
        name: name("wroclaw"),
        capabilities: BTreeSet::new(),
        instance: Bytes([byte; 16]),
    };
    Session::new(now, role, identity.clone(), about, [byte; 32])
}
