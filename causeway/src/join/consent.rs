//! Whether the operator of this machine has to compare the words as well.
//!
//! A first edge reaches nothing here yet, and an edge whose key the configuration has proves itself
//! by its key. Any other one would reach the services of this machine: whoever altered the code
//! would need no more than that.

use std::path::Path;

use daemon::exit::{Exit, ExitError};
use policy::forwarder::Policy;
use tunnel::key::PublicKey;

use super::file::has_key;
use crate::lines::Lines;

/// Whether the operator here is asked, for an edge with the key `edge` next to what `existing` has.
///
/// # Errors
/// [`Exit::Conflict`] when the key is another than the operator `expected`.
pub(super) fn is_asked(
    existing: Option<&Policy>,
    edge: &PublicKey,
    expected: Option<&PublicKey>,
) -> Result<bool, ExitError> {
    match expected {
        Some(expected) if expected == edge => Ok(false),
        Some(expected) => {
            let message = format!(
                "the code is of an edge with the key {edge}, and --expect has {expected}: nothing was changed"
            );
            Err(ExitError::new(Exit::Conflict, message))
        }
        None => Ok(existing.is_some_and(|policy| !policy.peers.iter().any(|peer| has_key(peer, edge)))),
    }
}

/// Whether the operator here is asked about the key that the edge is to have next: whoever has its
/// old one could offer it.
///
/// # Errors
/// [`Exit::Conflict`] when the key is another than the operator `expected`.
pub(super) fn is_asked_about_next(
    next: Option<&PublicKey>,
    expected: Option<&PublicKey>,
) -> Result<bool, ExitError> {
    if expected.is_none() || next == expected {
        return Ok(next.is_some() && expected.is_none());
    }
    let next = next.map_or_else(|| "no other key".to_owned(), |key| format!("the key {key}"));
    let expected = expected.map(ToString::to_string).unwrap_or_default();
    let message =
        format!("the edge is to have {next} next, and --expect-next has {expected}: nothing was changed");
    Err(ExitError::new(Exit::Conflict, message))
}

/// The operator who can answer about an edge that is new here.
///
/// # Errors
/// [`Exit::Usage`] when standard input is at its end.
pub(super) fn operator(config: &Path, edge: &PublicKey) -> Result<Lines, ExitError> {
    reader(|| {
        format!(
            "{} does not have an edge with the key {edge}, which would reach the services of this machine, and standard \
             input is at its end, so that no one can compare the words: run this at a terminal, or compare that key with \
             the one that `causeway pair` shows, and add --expect {edge}",
            config.display()
        )
    })
}

/// The operator who can answer about the edge's next key.
///
/// # Errors
/// [`Exit::Usage`] when standard input is at its end.
pub(super) fn operator_of_next(next: &PublicKey) -> Result<Lines, ExitError> {
    reader(|| {
        format!(
            "the edge is to have the key {next} next, and standard input is at its end, so that no one can compare the \
             words: run this at a terminal, or compare that key with the one that `causeway pair` shows, and add \
             --expect-next {next}"
        )
    })
}

fn reader(message: impl FnOnce() -> String) -> Result<Lines, ExitError> {
    let lines = Lines::read().map_err(|error| ExitError::new(Exit::Failed, error))?;
    if lines.is_over() { Err(ExitError::new(Exit::Usage, message())) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use policy::Source;
    use tunnel::key::PrivateKey;

    use super::*;

    #[test]
    fn another_edge_next_to_what_is_there_is_asked_about_and_no_other() {
        let policy = policy();
        let asked =
            |existing, edge, expected: Option<&PublicKey>| is_asked(existing, &key(edge), expected).ok();
        assert_eq!(asked(None, 9, None), Some(false), "a first edge reaches nothing yet");
        assert_eq!(asked(Some(&policy), 1, None), Some(false), "the edge proves its key");
        assert_eq!(asked(Some(&policy), 9, None), Some(true));
        assert_eq!(asked(Some(&policy), 9, Some(&key(9))), Some(false));
        for existing in [None, Some(&policy)] {
            let error = is_asked(existing, &key(9), Some(&key(1))).err().unwrap();
            assert_eq!(error.exit, Exit::Conflict);
            assert!(error.message.contains(&key(9).to_string()), "{error}");
        }
    }

    #[test]
    fn the_next_key_of_an_edge_is_asked_about_unless_it_is_the_expected_one() {
        let asked = |next: Option<u8>, expected: Option<u8>| {
            let (next, expected) = (next.map(key), expected.map(key));
            is_asked_about_next(next.as_ref(), expected.as_ref()).map_err(|error| error.exit)
        };
        assert_eq!(asked(None, None), Ok(false));
        assert_eq!(asked(Some(3), None), Ok(true));
        assert_eq!(asked(Some(3), Some(3)), Ok(false));
        assert_eq!(asked(Some(3), Some(4)), Err(Exit::Conflict));
        assert_eq!(asked(None, Some(4)), Err(Exit::Conflict));
    }

    fn policy() -> Policy {
        let text = format!(
            "[interface]\naddress = [\"10.77.88.2/24\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"kyiv\"\n\
             public_key = \"{}\"\nendpoint = \"192.0.2.2:51820\"\n",
            key(1)
        );
        policy::forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).unwrap()
    }

    fn key(number: u8) -> PublicKey {
        PrivateKey::from_bytes([number; 32]).public()
    }
}
