//! The upstreams that the origin dials, and the fragments that it joins.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use forwarder::datagram::reassembly::MAX_BYTES;
use forwarder::datagram::{Joined, Reassembly};
use forwarder::flow::EdgeId;
use forwarder::upstream::Pool;
use policy::forwarder::{Check, Policy, Service, Upstream};
use policy::{Host, Source};
use tunnel::packet::Ip;
use tunnel::time::Instant;

/// Bytes of one step of [`fragments`].
const STEP: usize = 8;
/// The longest content of one fragment.
const CONTENT: usize = 2_047;

/// The text is parsed as an upstream and as the name of a health check. What is accepted is written
/// so that it parses to the same value again, and a name is one that DNS can hold (RFC 1035
/// §2.3.4).
pub(crate) fn upstream(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(upstream) = parse(text).and_then(|mut service| service.upstreams.pop()) {
        let written = upstream.to_string();
        let again = parse(&written).and_then(|mut service| service.upstreams.pop());
        assert_eq!(again.as_ref(), Some(&upstream), "{written:?} is not what it was written from");
        match &upstream {
            Upstream::Network { host: Host::Name(name), .. } => judge_name(name),
            Upstream::Network { host: Host::Address(_), .. } => {}
            Upstream::Unix(path) => {
                assert!(path.is_absolute(), "a socket relative to the working directory");
                assert!(!path.as_os_str().as_encoded_bytes().contains(&0), "a path that the kernel cuts");
            }
        }
    }
    let health = format!("health = {{ check = \"tls\", name = {} }}\n", quoted(text));
    let checked = config("\"127.0.0.1:8443\"", &health).and_then(|policy| policy.services.into_iter().next());
    if let Some(Check::Tls { name }) = checked.and_then(|service| Some(service.health?.check)) {
        judge_name(&name);
    }
}

/// An entry whose only upstream is this text; its pool can be queried.
fn parse(text: &str) -> Option<Service> {
    let service = config(&quoted(text), "")?.services.into_iter().next()?;
    let order = Pool::new(&service, None).order(Instant::from_boot(Duration::ZERO));
    assert_eq!(order.len(), service.upstreams.len(), "an upstream is never tried");
    Some(service)
}

fn config(upstream: &str, more: &str) -> Option<Policy> {
    let text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
         public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"192.0.2.2:51820\"\n\
         [[service]]\nname = \"web\"\nprotocol = [\"tcp\"]\nmatch = \"192.168.88.2:443\"\nupstream = [{upstream}]\n{more}"
    );
    policy::forwarder::parse(&Source { name: Path::new("fuzz.toml"), text: &text }).ok()
}

fn judge_name(name: &str) {
    assert!((1..=253).contains(&name.len()), "a name of {} bytes", name.len());
    for label in name.trim_end_matches('.').split('.') {
        assert!((1..=63).contains(&label.len()), "{name:?} has a label that no resolver takes");
        assert!(label.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?} is no name");
    }
}

/// As a basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|char| match char {
            '"' | '\\' => format!("\\{char}"),
            char if char.is_control() => format!("\\u{:04x}", u32::from(char)),
            char => char.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// Fragments of several clients' datagrams, in steps of eight bytes: the limits hold, and every
/// byte of a complete datagram is where it was sent, unless one of its fragments was forged.
pub(crate) fn fragments(input: &[u8]) {
    let mut reassembly = Reassembly::default();
    let (mut second, mut begun, mut over) = (0, 0_u64, 0_u64);
    let mut forged = BTreeSet::new();
    for step in input.chunks_exact(STEP) {
        let &[client, id, offset_high, offset_low, length_high, length_low, kind, wait] = step else {
            return;
        };
        let offset = u16::from_be_bytes([offset_high, offset_low]) & !7;
        let length = usize::from(u16::from_be_bytes([length_high, length_low])) & CONTENT;
        let piece = Piece { client, id, offset, length, is_last: kind & 1 != 0, is_v6: kind & 2 != 0 };
        let is_forged = kind & 4 != 0;
        if is_forged {
            forged.insert(piece.datagram());
        }
        second += u64::from(wait & 15);
        let now = Instant::from_boot(Duration::from_secs(second));
        reassembly.handle_timeout(now);
        let packet = piece.packet(is_forged);
        let Ok(ip) = Ip::parse(&packet) else { continue };
        begun += 1;
        match reassembly.handle_fragment(now, EdgeId(u32::from(kind >> 7)), &ip, ip.payload(&packet)) {
            Joined::Whole(whole) => {
                over += 1;
                let is_true = whole.iter().enumerate().all(|(at, byte)| *byte == piece.byte(at));
                assert!(is_true || forged.contains(&piece.datagram()), "a byte is not where it was sent");
            }
            Joined::Refused(_) => over += 1,
            Joined::Waiting => assert!(reassembly.deadline().is_some(), "it waits without a deadline"),
        }
        assert!(reassembly.bytes() <= MAX_BYTES, "{} bytes wait", reassembly.bytes());
    }
    reassembly.handle_timeout(Instant::from_boot(Duration::from_secs(second + 31)));
    assert_eq!((reassembly.bytes(), reassembly.deadline()), (0, None), "something waits for ever");
    assert!(reassembly.take_given_up() + over <= begun, "more came to an end than began");
}

/// A fragment as one step describes it.
#[derive(Clone, Copy)]
struct Piece {
    client: u8,
    id: u8,
    offset: u16,
    length: usize,
    is_last: bool,
    is_v6: bool,
}

impl Piece {
    fn datagram(self) -> (u8, u8, bool) {
        (self.client, self.id, self.is_v6)
    }

    /// The byte of its datagram at an offset.
    fn byte(self, at: usize) -> u8 {
        (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ self.client ^ self.id
    }

    fn packet(self, is_forged: bool) -> Vec<u8> {
        let mut packet = if self.is_v6 { self.v6_header() } else { self.v4_header() };
        let start = usize::from(self.offset);
        let damage = u8::from(is_forged) << 5;
        packet.extend((start..start + self.length).map(|at| self.byte(at) ^ damage));
        packet
    }

    fn v4_header(self) -> Vec<u8> {
        let total = u16::try_from(20 + self.length).unwrap_or(u16::MAX).to_be_bytes();
        let word = ((self.offset >> 3) | if self.is_last { 0 } else { 0x2000 }).to_be_bytes();
        let mut header = vec![0x45, 0, total[0], total[1], 0, self.id, word[0], word[1], 64, 17, 0, 0];
        header.extend([203, 0, 113, self.client, 192, 168, 88, 2]);
        header
    }

    fn v6_header(self) -> Vec<u8> {
        let length = u16::try_from(8 + self.length).unwrap_or(u16::MAX).to_be_bytes();
        let word = (self.offset | u16::from(!self.is_last)).to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, length[0], length[1], 44, 64];
        header.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, self.client, 0, 0, 0, 0, 0, 0, 0, 1]);
        header.extend([0xfd, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        header.extend([17, 0, word[0], word[1], 0, 0, 0, self.id]);
        header
    }
}
