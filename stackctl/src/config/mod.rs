//! `stack.toml`: what the tree declares about its secrets, actions, hooks, cleaning, order and machines.

mod parse;

use std::collections::BTreeMap;
use std::time::Duration;

pub use parse::{ConfigError, parse};

use crate::glob::Pattern;
use crate::secret::HashKind;

/// A whole `stack.toml`; an absent file is the default.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    /// Declared secrets by name; a name belongs to one service.
    pub secrets: BTreeMap<String, Secret>,
    /// `[actions.SERVICE] NAME = [argv…]`.
    pub actions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// `[hooks.SERVICE] post_up = […]`.
    pub post_up: BTreeMap<String, Vec<Hook>>,
    /// `[clean.SERVICE]`.
    pub clean: BTreeMap<String, Clean>,
    /// `[depends] SERVICE = [SERVICE…]`.
    pub depends: BTreeMap<String, Vec<String>>,
    /// `[place] LOCATION = [SERVICE…]`: services that need no override file there.
    pub place: BTreeMap<String, Vec<String>>,
    /// `[project] SERVICE = "NAME"`: the Compose project of a service that is not called after it.
    pub projects: BTreeMap<String, String>,
    /// `[location.NAME]`: the machine a location lives on.
    pub locations: BTreeMap<String, Machine>,
    /// `[file."PATH"]`: mode and owner of a rendered file, by its path below the location.
    pub files: BTreeMap<String, FileRule>,
    /// `[up.SERVICE] wait`: how long a service may take to become healthy.
    pub wait: BTreeMap<String, Duration>,
}

/// A declared secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// The service whose section of `.env.generated` holds it.
    pub service: String,
    /// How it is made.
    pub kind: SecretKind,
    /// A login password that `setup` prints once, when it makes it.
    pub show_once: bool,
    /// Volumes made with it, or folders (with a `/`); without any, all volumes of the service's project count when it
    /// is lost.
    pub volumes: Vec<String>,
}

/// How a secret is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKind {
    /// Letters and digits, 8 to 256 of them.
    Password {
        /// How many.
        length: usize,
    },
    /// Random bytes (16 to 1024) in standard base64.
    Base64 {
        /// How many, before encoding.
        bytes: usize,
    },
    /// Random bytes (8 to 1024) in lower-case hexadecimal.
    Hex {
        /// How many, before encoding.
        bytes: usize,
    },
    /// A version 4 UUID.
    Uuid,
    /// An RSA private key.
    Rsa {
        /// 2048, 3072 or 4096.
        bits: usize,
    },
    /// An Ed25519 private key.
    Ed25519,
    /// A password hash of another secret.
    Hash {
        /// The other secret.
        of: String,
        /// Which hash.
        kind: HashKind,
    },
    /// A value written in stack.toml: no secret, but kept with them.
    Literal {
        /// The value.
        value: String,
    },
}

impl SecretKind {
    /// Whether the stored line is a key that templates render as PEM.
    #[must_use]
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Rsa { .. } | Self::Ed25519)
    }

    /// The secret this one is a hash of.
    #[must_use]
    pub fn hash_of(&self) -> Option<&String> {
        if let Self::Hash { of, .. } = self { Some(of) } else { None }
    }

    /// The word in stack.toml.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Password { .. } => "password",
            Self::Base64 { .. } => "base64",
            Self::Hex { .. } => "hex",
            Self::Uuid => "uuid",
            Self::Rsa { .. } => "rsa",
            Self::Ed25519 => "ed25519",
            Self::Hash { kind: HashKind::Argon2id, .. } => "argon2id",
            Self::Hash { kind: HashKind::Pbkdf2Sha512, .. } => "pbkdf2-sha512",
            Self::Hash { kind: HashKind::Bcrypt, .. } => "bcrypt",
            Self::Literal { .. } => "literal",
        }
    }
}

/// A command that runs once a service is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Given to `sh -c`.
    pub run: String,
    /// A folder below the location.
    pub cwd: String,
    /// Whether its failure fails the verb.
    pub fatal: bool,
}

/// What `clean` deletes for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clean {
    /// Rendered or cached files: deleted without asking.
    pub files: Vec<Pattern>,
    /// The service's data: deleted with `--yes`.
    pub data: Vec<Pattern>,
    /// Docker volumes: each deleted when its name is given.
    pub volumes: Vec<String>,
}

/// The machine a location lives on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// `ssh://[user@]host[:port]`.
    pub host: String,
    /// The tree's root on that machine.
    pub path: String,
    /// An ssh configuration file, from the tree's root.
    pub ssh_config: Option<String>,
    /// `stackctl` as it is called there.
    pub command: String,
}

/// Mode and owner of a rendered file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRule {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User and group numbers.
    pub owner: Option<(u32, u32)>,
}

impl Stack {
    /// The secrets of one service.
    pub fn secrets_of<'s>(&'s self, service: &'s str) -> impl Iterator<Item = (&'s str, &'s Secret)> {
        let all = self.secrets.iter().filter(move |(_, secret)| secret.service == service);
        all.map(|(name, secret)| (name.as_str(), secret))
    }

    /// The secrets that are hashes of `name`.
    pub fn hashes_of<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (&'s str, &'s Secret)> {
        self.secrets.iter().filter_map(move |(hash, secret)| {
            let of_it = matches!(&secret.kind, SecretKind::Hash { of, .. } if of == name);
            of_it.then_some((hash.as_str(), secret))
        })
    }
}
