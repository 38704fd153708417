//! The half of a diagnosis that the other end has: what crosses the link, and as it is kept.

use policy::Name;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::Cause;
use crate::link::message::{Evidence, Reason};

/// Most that an end reports at a time.
pub const MAX_FOUND: usize = 32;

/// What an end finds wrong with what concerns the other one; nothing when all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Half {
    /// At most [`MAX_FOUND`].
    #[serde(default, deserialize_with = "few")]
    pub found: Vec<Found>,
}

/// One thing that an end found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its kind.
    pub cause: Cause,
    /// The service that it concerns; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Found>, D::Error> {
    let found = Vec::deserialize(from)?;
    if found.len() > MAX_FOUND {
        return Err(D::Error::custom("more than 32 findings"));
    }
    Ok(found)
}

/// What a try of one service entry found, at the origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The entry.
    pub service: Name,
    /// Microseconds until the upstream accepted the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<u32>,
    /// Microseconds from there until the TLS session began; `None` without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<u32>,
    /// Microseconds from there until the first byte of a reply; `None` where nothing is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<u32>,
    /// Why it failed; `None` when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

impl Probed {
    /// The times for people, such as `connected after 0.3 ms, TLS 2.1 ms, first byte 4.0 ms`.
    #[must_use]
    pub fn times(&self) -> Option<String> {
        let ms = |micros: u32| format!("{:.1} ms", f64::from(micros) / 1e3);
        let mut text = format!("connected after {}", ms(self.connect?));
        text.extend(self.tls.map(|tls| format!(", TLS {}", ms(tls))));
        text.extend(self.first_byte.map(|first| format!(", first byte {}", ms(first))));
        Some(text)
    }
}

/// Whether another end replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FarAnswer {
    /// It did.
    Answered,
    /// There is no link to it.
    NoLink,
    /// It has a release that cannot.
    TooOld,
    /// It was asked too often, or is busy.
    Busy,
    /// It did not in time.
    NoReply,
}

/// What another end replied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Far {
    /// The peer.
    pub peer: String,
    /// Whether it did.
    pub answer: FarAnswer,
    /// What it found.
    pub found: Vec<Found>,
    /// What it found of service entries that it was asked to try; the edge alone asks.
    pub probed: Vec<Probed>,
}

impl Far {
    /// An end that said nothing.
    #[must_use]
    pub const fn without(peer: String, answer: FarAnswer) -> Self {
        Self { peer, answer, found: Vec::new(), probed: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_has_a_bound_and_unknown_words_are_another_cause() {
        let found = |count: usize| {
            let one = r#"{"cause":"moon","service":"https","colour":1}"#;
            format!("{{\"found\":[{}]}}", vec![one; count].join(","))
        };
        let half: Half = serde_json::from_str(&found(MAX_FOUND)).unwrap();
        assert_eq!((half.found.len(), half.found[0].cause), (MAX_FOUND, Cause::Other));
        assert!(serde_json::from_str::<Half>(&found(MAX_FOUND + 1)).is_err());
        assert!(serde_json::from_str::<Half>(r#"{"found":[{"cause":"clock","service":"a b"}]}"#).is_err());
        assert_eq!(serde_json::from_str::<Half>("{}").unwrap(), Half::default());
    }

    #[test]
    fn the_largest_half_fits_in_a_frame() {
        let name = |letter: &str| Name::new(&letter.repeat(Name::MAX)).unwrap();
        let one = Found {
            cause: Cause::ForeignForward,
            service: Some(name("a")),
            evidence: Some(Evidence::of(&"\"".repeat(Evidence::MAX))),
        };
        let half = Half { found: vec![one; MAX_FOUND] };
        let reply = crate::link::message::Reply::Diagnosis { half };
        let message = crate::link::message::Message::Reply { id: u32::MAX, reply };
        let length = serde_json::to_vec(&message).unwrap().len();
        assert!(length <= crate::link::frame::MAX_FRAME, "{length}");
    }

    #[test]
    fn times_are_shown_as_far_as_there_are_some() {
        let name = Name::new("https").unwrap();
        let mut probed = Probed {
            service: name,
            connect: Some(300),
            tls: Some(2_100),
            first_byte: Some(4_000),
            reason: None,
            evidence: None,
        };
        let all = "connected after 0.3 ms, TLS 2.1 ms, first byte 4.0 ms";
        assert_eq!(probed.times().as_deref(), Some(all));
        (probed.tls, probed.first_byte) = (None, None);
        assert_eq!(probed.times().as_deref(), Some("connected after 0.3 ms"));
        probed.connect = None;
        assert_eq!(probed.times(), None);
    }
}
