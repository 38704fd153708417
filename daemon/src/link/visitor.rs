//! What an origin finds as its own visitor: whether a name leads from the internet to its service.

use serde::{Deserialize, Serialize};
use tunnel::time::Instant;

/// What the probes of a name's public path say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Proof {
    /// A probe came back through the tunnel within three intervals.
    Proven,
    /// A hop of the path fails.
    Failing,
    /// Neither can be said, or this version does not know the word.
    Unknown,
}

impl Proof {
    /// In one word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

impl From<String> for Proof {
    fn from(word: String) -> Self {
        [Self::Proven, Self::Failing].into_iter().find(|proof| proof.label() == word).unwrap_or(Self::Unknown)
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// Why a path is not proven.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", from = "String")]
        pub enum Cause {
            $($(#[$doc])* $variant,)+
            /// Another one.
            Other,
        }

        impl Cause {
            /// Those that this version knows.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)+];

            /// In one word.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other => "other",
                }
            }
        }
    };
}

causes! {
    /// Failing: the name has no address.
    Unresolved = "unresolved",
    /// Failing: the name leads to an address that is no edge's, and no reply of this origin came.
    Elsewhere = "elsewhere",
    /// Failing: the edge's address does not reply on the port.
    NotForwarded = "not_forwarded",
    /// Failing: the edge's address refuses the port.
    PortRefused = "port_refused",
    /// Failing: another server replied at the edge's address.
    OtherServer = "other_server",
    /// Failing: the flow came out of the tunnel without its client's address.
    ClientAddressLost = "client_address_lost",
    /// Failing: no edge has granted the port.
    NotPublished = "not_published",
    /// Failing: the flow came out of the tunnel, and no proper reply went back.
    NoReply = "no_reply",
    /// Failing: the certificate has expired.
    CertificateExpired = "certificate_expired",
    /// Failing: the certificate is not valid yet.
    CertificateNotYetValid = "certificate_not_yet_valid",
    /// Failing: the certificate is for other names.
    WrongCertificate = "wrong_certificate",
    /// Failing: the certificate is not the upstream's, although the flow came out of the tunnel.
    OtherCertificate = "other_certificate",
    /// Unknown: no probe has ended so far.
    NotTried = "not_tried",
    /// Unknown: the last success is too long ago.
    Stale = "stale",
    /// Unknown: at the origin the name has only addresses that the internet does not route.
    PrivateAddress = "private_address",
    /// Unknown: the origin has no route to the name's address.
    NoRoute = "no_route",
    /// Unknown: the resolver of the origin's machine does not reply.
    NoResolver = "no_resolver",
    /// Unknown: the port is closed to the origin, whose file lets in some sources alone.
    Restricted = "restricted",
    /// Unknown: another machine ends TLS, with a certificate for the name.
    Proxy = "proxy",
    /// Unknown: the upstream's certificate came, but not through the tunnel.
    AnotherWay = "another_way",
    /// Unknown: no tunnel is up.
    TunnelDown = "tunnel_down",
    /// Unknown: the upstream is failing, which its own checks report.
    UpstreamFailing = "upstream_failing",
}

impl From<String> for Cause {
    fn from(word: String) -> Self {
        Self::KNOWN.iter().copied().find(|cause| cause.label() == word).unwrap_or(Self::Other)
    }
}

/// What the probes of one name say, as it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visited {
    /// What they say.
    pub state: Proof,
    /// For how long, in seconds.
    pub seconds: u64,
    /// Why it is not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Whether the origin's system trusts who signed the certificate; `None` where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<bool>,
}

/// The same, as the origin itself sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenVisit {
    /// What they say.
    pub state: Proof,
    /// Since when.
    pub since: Instant,
    /// Why it is not proven.
    pub cause: Option<Cause>,
    /// Whether the origin's system trusts who signed the certificate.
    pub trusted: Option<bool>,
}

impl SeenVisit {
    /// As it is reported.
    #[must_use]
    pub fn visited(&self, now: Instant) -> Visited {
        let Self { state, since, cause, trusted } = *self;
        Visited { state, seconds: now.since(since).as_secs(), cause, trusted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_read_as_it_is_written_and_an_unknown_word_is_another_one() {
        for cause in Cause::KNOWN {
            let text = serde_json::to_string(cause).unwrap();
            assert_eq!(text, format!("\"{}\"", cause.label()));
            assert_eq!(serde_json::from_str::<Cause>(&text).unwrap(), *cause);
        }
        assert_eq!(serde_json::from_str::<Cause>("\"moon\"").unwrap(), Cause::Other);
        assert_eq!(serde_json::from_str::<Proof>("\"asleep\"").unwrap(), Proof::Unknown);
        let old =
            serde_json::from_str::<Visited>("{\"state\":\"proven\",\"seconds\":3,\"weather\":1}").unwrap();
        assert_eq!(old, Visited { state: Proof::Proven, seconds: 3, cause: None, trusted: None });
    }
}
