//! What an import gives: texts, files, and what happened to each imported line.

use std::fmt;

use policy::{ConfigError, PublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

/// The largest text that is read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// What an import gives: two configurations that parse, the files they name, and what to know about
/// them.
pub struct Import {
    /// The text of `gateway.toml`.
    pub gateway: String,
    /// The text of `forwarder.toml`.
    pub forwarder: String,
    /// Files of `[[list]]` entries.
    pub lists: Vec<ListFile>,
    /// Secret keys that the import held, by the names the configurations use; written with mode
    /// 0600.
    pub keys: Vec<KeyFile>,
    /// What is missing, assumed, replaced or left out, in the order of the imported lines.
    pub findings: Vec<Finding>,
}

/// A file of prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    /// Its name, relative to the configuration.
    pub name: String,
    /// Its text, as [`policy::sections::parse_list`] reads it.
    pub text: String,
}

/// A file with a private or preshared key; it has no `Debug`.
pub struct KeyFile {
    /// Its name, relative to the configuration.
    pub name: String,
    /// Base64 and a newline, wiped when dropped.
    pub text: Zeroizing<String>,
}

/// The public key that belongs to the base64 text of a private key; `None` when the text is no key.
///
/// The caller computes X25519: this crate computes nothing with secrets.
pub type Derive<'d> = &'d dyn Fn(&str) -> Option<PublicKey>;

/// A remark about an imported line, or about a value that no line has; prints as `FILE:LINE: KIND:
/// TEXT`, with the column after the line where one word is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the caller named it, and the line from 1; `None` for a value that no line has.
    pub at: Option<(String, u32)>,
    /// The column in characters from 1, where one word is meant.
    pub column: Option<u32>,
    /// What to do about it.
    pub kind: FindingKind,
    /// One sentence.
    pub text: String,
}

/// What a finding asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// The import did not hold a value: nothing works before it is filled in.
    Missing,
    /// A rule that neither side has: it is lost unless you replace it by hand.
    NoCounterpart,
    /// A value that was guessed: verify it.
    Assumed,
    /// Something Causeway does itself: nothing to do.
    Replaced,
    /// Something that does not concern the tunnel: it stays on the router.
    Stays,
    /// The rule is in the configurations, under the name that is given.
    Carried,
    /// A port that the internet reaches with these configurations: verify each.
    Public,
}

/// Why nothing could be imported.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImportError {
    /// A text above [`MAX_BYTES`].
    #[error("{file} has {bytes} bytes, more than {MAX_BYTES}: this is not an export")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: usize,
    },
    /// No two WireGuard interfaces show by any sign that they are one tunnel.
    #[error(
        "no tunnel between {edge} and {origin}: no WireGuard interface of the first router shares a network with one \
         of the second, is named by its network=, or is held by its peer's allowed-address; export both routers with \
         /export, and give the edge's export first"
    )]
    NoTunnel {
        /// The edge's file.
        edge: String,
        /// The origin's file.
        origin: String,
    },
    /// A file that is not text in an encoding that is known.
    #[error("{at}: {what}")]
    NotText {
        /// The file, with line and column where there is one.
        at: String,
        /// What is wrong, and how to fix it.
        what: &'static str,
    },
    /// Rules may be missing from what was read, or be in another order, so that what is carried
    /// could let in more.
    #[error(
        "{at}: {text}; rules may be missing or in another order, so nothing is imported: give a whole /export"
    )]
    RulesHidden {
        /// File, line and column.
        at: String,
        /// What is there.
        text: String,
    },
    /// One export does not say what the other would.
    #[error("{at}: {what}")]
    Ambiguous {
        /// The file, with line and column where there is one.
        at: String,
        /// What is not known, and how to fix it.
        what: String,
    },
    /// A wg-quick file without a part that makes a tunnel.
    #[error("{file} has no {part}: this is not a wg-quick configuration")]
    NotWgQuick {
        /// The file.
        file: String,
        /// `[Interface]` with an address, or `[Peer]`.
        part: &'static str,
    },
    /// A wg-quick file whose signs do not say whose it is.
    #[error(
        "{file} may be the edge's or the origin's; signs {signs}; say which with --role edge or --role origin"
    )]
    UnknownRole {
        /// The file.
        file: String,
        /// What each end would have.
        signs: String,
    },
    /// A value of the imported file that no configuration can have.
    #[error("{file}:{line}: {why}")]
    Refused {
        /// The file.
        file: String,
        /// The line of the value.
        line: u32,
        /// What is wrong with it.
        why: String,
    },
    /// The imported values contradict each other in a way that no configuration can say.
    #[error("the imported values contradict each other: {error}")]
    Contradiction {
        /// The first contradiction, at its place in the configuration that would have been written.
        error: Box<ConfigError>,
    },
}

impl FindingKind {
    /// The word that is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NoCounterpart => "no counterpart",
            Self::Assumed => "assumed",
            Self::Replaced => "replaced",
            Self::Stays => "stays on the router",
            Self::Carried => "carried",
            Self::Public => "becomes public",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.at {
            write!(f, "{file}:{line}:")?;
            self.column.iter().try_for_each(|column| write!(f, "{column}:"))?;
            f.write_str(" ")?;
        }
        write!(f, "{}: {}", self.kind.as_str(), self.text)
    }
}
