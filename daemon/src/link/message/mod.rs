//! What is sent across a link: JSON objects that name their type.
//!
//! Only enums, numbers, checked names and one evidence string cross a link. A field, type or value
//! that this version does not know is ignored, so that a newer end may send it; a request that it
//! does not know is replied to by an error.

mod reported;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy::Name;
use serde::{Deserialize, Serialize};

pub use reported::{Evidence, Health, Matches, Ports, Reason, Service, State};

use super::history::{HistoryAsked, HistoryPart};
use super::publish::{Answer, Asked};
use crate::diagnosis::{Half, Probed};
use crate::health::HopName;

/// The version of the messages that this program knows. Both ends use the lower of theirs.
pub const SCHEMA: u32 = 1;
/// The longest time that a notice speaks of.
pub const LONGEST_NOTICE: Duration = Duration::from_secs(300);

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// The first one of each end.
    Nonce(Greeting),
    /// The second one of each end: the proof that it holds its key.
    Hello(Hello),
    /// A question.
    Request {
        /// Repeated in the reply.
        id: u32,
        /// What is asked.
        request: Request,
    },
    /// The answer to a question.
    Reply {
        /// That of the request.
        id: u32,
        /// What is answered.
        reply: Reply,
    },
    /// How the sender's services are.
    Health(Health),
    /// Something about the sender that the other end should know.
    Notice(Notice),
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a link begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Of this link alone.
    pub nonce: Bytes<32>,
    /// The newest schema that the sender knows.
    pub schema: u32,
}

/// The proof, and who the sender is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Covers the keys, and everything that both ends have sent.
    pub mac: Bytes<32>,
    /// Who the sender is.
    #[serde(flatten)]
    pub about: About,
}

/// Who an end is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of the product.
    pub version: Name,
    /// The name of the machine.
    pub name: Name,
    /// What it understands beyond requests.
    pub capabilities: BTreeSet<Name>,
    /// Random, of this start of the daemon: two at a time are two holders of one key.
    pub instance: Bytes<16>,
}

impl About {
    /// Whether it reads [`Message::Health`].
    #[must_use]
    pub fn reads_health(&self) -> bool {
        self.can(READS_HEALTH)
    }

    /// Whether it replies to [`Request::Publish`].
    #[must_use]
    pub fn grants(&self) -> bool {
        self.can(GRANTS)
    }

    /// Whether it replies to [`Request::History`].
    #[must_use]
    pub fn sends_history(&self) -> bool {
        self.can(SENDS_HISTORY)
    }

    fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known.as_str() == capability)
    }
}

/// The capability of an end that reads [`Message::Health`].
pub const READS_HEALTH: &str = "health";
/// The capability of an end that replies to [`Request::History`].
pub const SENDS_HISTORY: &str = "history";
/// The capability of an end that replies to [`Request::Publish`].
pub const GRANTS: &str = "grants";

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Whether the other end is there.
    Ping,
    /// To open these public ports, and none of those that were requested before and are not among
    /// them; origins ask their edges.
    Publish(Asked),
    /// What happened at the other end.
    History(HistoryAsked),
    /// What is wrong with what concerns the asking end; both ends ask.
    Diagnose,
    /// To try a service entry now; edges ask their origins.
    Probe {
        /// The entry, by its name at the origin.
        service: Name,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What may be answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// It is.
    Pong,
    /// To [`Request::Publish`].
    Publish {
        /// One for each that was requested, in the same order.
        answers: Vec<Answer>,
    },
    /// To [`Request::History`].
    History(HistoryPart),
    /// To [`Request::Diagnose`].
    Diagnosis {
        /// What was found.
        #[serde(flatten)]
        half: Half,
    },
    /// To [`Request::Probe`].
    Probed {
        /// What was found.
        #[serde(flatten)]
        probed: Probed,
    },
    /// The request came too soon after others; it may be sent again later.
    Busy,
    /// The request is not known here.
    UnknownRequest,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// An event of the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// The daemon stops and will be back.
    Stopping {
        /// Within this many seconds; more than [`LONGEST_NOTICE`] counts as that.
        seconds: u32,
    },
    /// What the sender grants is another than it replied last: it is to be asked again.
    Grants,
    /// The sender's agent has reported what fails at this hop; the other end's need not.
    Reported {
        /// The hop.
        hop: ReportedHop,
    },
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A hop near the sender of [`Notice::Reported`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ReportedHop {
    /// An element of a service's path.
    Hop(HopName),
    /// One of the service's names.
    Name,
    /// The certificate that visitors get.
    Certificate,
    /// Another one.
    Other,
}

impl ReportedHop {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hop(hop) => hop.label(),
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::Other => "other",
        }
    }
}

impl From<String> for ReportedHop {
    fn from(word: String) -> Self {
        let more = || [Self::Name, Self::Certificate].into_iter().find(|hop| hop.label() == word);
        HopName::of_label(&word).map(Self::Hop).or_else(more).unwrap_or(Self::Other)
    }
}

impl From<ReportedHop> for String {
    fn from(hop: ReportedHop) -> Self {
        hop.label().to_owned()
    }
}

/// Bytes, in base64 on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> TryFrom<String> for Bytes<N> {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("not base64 of the right number of bytes")
    }
}

impl<const N: usize> From<Bytes<N>> for String {
    fn from(bytes: Bytes<N>) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use policy::PortRange;

    use super::super::names::{HostName, NameHealth, Validity};
    use super::super::visitor::{Cause, Proof, Visited};
    use super::*;

    #[test]
    fn every_reason_is_read_as_it_is_written() {
        for reason in Reason::KNOWN {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(text, format!("\"{}\"", reason.label()));
            assert_eq!(serde_json::from_str::<Reason>(&text).unwrap(), reason);
        }
    }

    #[test]
    fn unknown_fields_types_and_words_are_ignored() {
        let text = r#"{"type":"health","weather":{"x":[1]},"services":[
            {"name":"https","state":"asleep","seconds":3,"reason":"moon","since":"noon"}]}"#;
        let Ok(Message::Health(health)) = serde_json::from_str(text) else { panic!("not read") };
        assert_eq!(
            health.services,
            [Service {
                name: Name::new("https").unwrap(),
                state: State::Unknown,
                seconds: 3,
                reason: Some(Reason::Other),
                evidence: None,
                matches: None
            }]
        );
        let unknown = [
            (r#"{"type":"weather","x":1}"#, Message::Unknown),
            (
                r#"{"type":"request","id":7,"request":{"ask":"dance","how":[]}}"#,
                Message::Request { id: 7, request: Request::Unknown },
            ),
            (
                r#"{"type":"reply","id":7,"reply":{"answer":"no"}}"#,
                Message::Reply { id: 7, reply: Reply::Unknown },
            ),
            (r#"{"type":"notice","event":"party","seconds":9}"#, Message::Notice(Notice::Unknown)),
        ];
        for (text, message) in unknown {
            assert_eq!(serde_json::from_str::<Message>(text).unwrap(), message, "{text}");
        }
    }

    #[test]
    fn names_and_evidence_that_a_terminal_or_a_page_would_obey_are_refused() {
        for hostile in ["\\u001b[2J", "a\\nb", "é", "<script>alert(1)</script>", "$(reboot)", "", "a b"] {
            let text = format!(
                r#"{{"type":"health","services":[{{"name":"{hostile}","state":"up","seconds":0}}]}}"#
            );
            assert!(serde_json::from_str::<Message>(&text).is_err(), "{hostile}");
        }
        for hostile in ["\\u001b[2J", "a\\nb", "\\u0000", "é", "\\u007f", &"x".repeat(201)] {
            assert!(serde_json::from_str::<Evidence>(&format!("\"{hostile}\"")).is_err(), "{hostile}");
        }
        assert!(serde_json::from_str::<Evidence>(&format!("\"{}\"", "x".repeat(200))).is_ok());
    }

    #[test]
    fn addresses_and_ports_of_an_entry_that_cannot_be_are_refused() {
        let read = |matches: &str| {
            let text = format!(
                r#"{{"type":"health","services":[{{"name":"a","state":"up","seconds":0,"matches":{matches}}}]}}"#
            );
            serde_json::from_str::<Message>(&text)
        };
        for right in
            [r#"{"ports":[1,65535]}"#, r#"{"addresses":["fd00::/64"],"ports":[443,443],"udp":true,"x":1}"#]
        {
            assert!(read(right).is_ok(), "{right}");
        }
        for wrong in [
            r#"{}"#,
            r#"{"ports":[0,5]}"#,
            r#"{"ports":[9,5]}"#,
            r#"{"ports":[5]}"#,
            r#"{"ports":[5,70000]}"#,
            r#"{"addresses":["$(reboot)"],"ports":[5,5]}"#,
            r#"{"addresses":["192.168.88.2/33"],"ports":[5,5]}"#,
            r#"{"addresses":["::","::","::","::","::"],"ports":[5,5]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn evidence_that_is_made_here_is_accepted_there() {
        for text in ["ok", "\u{1b}[31mred\n", &"é".repeat(500), "\"quoted\" \\ text"] {
            let evidence = Evidence::of(text);
            let sent = serde_json::to_string(&evidence).unwrap();
            assert_eq!(serde_json::from_str::<Evidence>(&sent).unwrap(), evidence);
        }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let name = |text| Name::new(text).unwrap();
        let about = About {
            version: name("0.1.0"),
            name: name("wroclaw"),
            capabilities: BTreeSet::from([name(READS_HEALTH)]),
            instance: Bytes([7; 16]),
        };
        let service = Service {
            name: name("https"),
            state: State::Failing,
            seconds: 12,
            reason: Some(Reason::TimedOut),
            evidence: Some(Evidence::of("no reply")),
            matches: Some(Matches {
                addresses: vec!["192.168.88.2/32".parse().unwrap()],
                ports: Ports(PortRange::new(5_000, 5_010).unwrap()),
                tcp: true,
                udp: false,
            }),
        };
        let named = NameHealth {
            service: name("https"),
            name: HostName::new("emby.example.com").unwrap(),
            state: State::Failing,
            seconds: 3,
            reason: Some(Reason::CertificateExpired),
            certificate: Some(Validity { hours: -5, lifetime: 2_160 }),
            visitor: Some(Visited {
                state: Proof::Failing,
                seconds: 3,
                cause: Some(Cause::NotForwarded),
                trusted: None,
            }),
        };
        let messages = [
            Message::Nonce(Greeting { nonce: Bytes([1; 32]), schema: SCHEMA }),
            Message::Hello(Hello { mac: Bytes([2; 32]), about }),
            Message::Request { id: 1, request: Request::Ping },
            Message::Reply { id: 1, reply: Reply::Pong },
            Message::Request { id: 2, request: Request::Publish(Asked::default()) },
            Message::Reply { id: 2, reply: Reply::Publish { answers: vec![Answer::Granted, Answer::InUse] } },
            Message::Request {
                id: 3,
                request: Request::History(HistoryAsked { after: Some(7), seconds: 60 }),
            },
            Message::Reply { id: 3, reply: Reply::History(HistoryPart { now: 5, ..HistoryPart::default() }) },
            Message::Reply { id: u32::MAX, reply: Reply::UnknownRequest },
            Message::Health(Health {
                begins: true,
                ends: false,
                services: vec![service],
                names: vec![named],
            }),
            Message::Notice(Notice::Stopping { seconds: 300 }),
            Message::Notice(Notice::Grants),
            Message::Notice(Notice::Reported { hop: ReportedHop::Hop(HopName::Upstream) }),
        ];
        for message in messages {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message, "{text}");
        }
    }
}
