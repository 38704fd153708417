//! Public keys that cannot be a peer's, given the keys that this end has.

use std::path::Path;

use crate::reader::{Reader, Table, Value};
use crate::{ConfigError, Position, Problem, Source};

/// The keys that are known at this end.
#[derive(Default)]
pub struct KnownKeys<'a> {
    /// This end's own public keys.
    pub own: Vec<[u8; 32]>,
    /// Secret keys, each with the file that holds it.
    pub secrets: Vec<(&'a Path, &'a [u8; 32])>,
}

/// What is wrong with the public keys of the peers, written as `name`, in the order of `[[peer]]` in
/// `source`: an own one among them, or a secret in the place of a public one.
#[must_use]
pub fn misplaced_keys(
    source: &Source<'_>,
    (name, peers): (&'static str, &[Option<[u8; 32]>]),
    known: &KnownKeys<'_>,
) -> Vec<ConfigError> {
    let problem = |key: &[u8; 32]| {
        let secret = known.secrets.iter().find(|(_, secret)| *secret == key);
        match secret {
            Some((file, _)) => Some(Problem::SecretAsPublicKey { file: file.display().to_string() }),
            None => known.own.contains(key).then_some(Problem::OwnPublicKey),
        }
    };
    let found = peers.iter().enumerate().filter_map(|(number, key)| Some((number, problem(key.as_ref()?)?)));
    found.map(|(number, problem)| ConfigError { at: place_of_key(source, name, number), problem }).collect()
}

/// Where a public key of a peer is written; the beginning of the text when it is not there.
fn place_of_key(source: &Source<'_>, name: &'static str, number: usize) -> Position {
    let reader = Reader::new(source);
    let document = reader.document();
    let place = document.as_ref().and_then(|document| {
        let peers = Table::root(&reader, document).tables("peer", "[[peer]]");
        peers.get(number)?.optional(name).map(Value::at)
    });
    place.unwrap_or_else(|| reader.position(0))
}
