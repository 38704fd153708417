//! The file on the disk: age's format with a passphrase (age-encryption.org/v1, scrypt).

use age::DecryptError;
use age::scrypt::{Identity, Recipient};
use age::secrecy::SecretString;
use daemon::exit::{Exit, ExitError};
use zeroize::Zeroizing;

/// How the file begins.
pub(super) const MARK: &[u8] = b"age-encryption.org/v1\n";
/// The largest file that is read, in bytes.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// The logarithm of scrypt's cost: 64 MiB and about a second on a Pi, so that any machine can open
/// what another one sealed. Six words are 66 bits without it.
const COST: u8 = 16;
/// The highest one that is tried: 256 MiB.
const MAX_COST: u8 = 18;

/// Seals a text.
///
/// # Errors
/// What age says.
pub(super) fn seal(text: &[u8], passphrase: &str) -> Result<Vec<u8>, ExitError> {
    let mut recipient = Recipient::new(SecretString::from(passphrase));
    recipient.set_work_factor(COST);
    age::encrypt(&recipient, text).map_err(|error| ExitError::new(Exit::Failed, error))
}

/// Opens what [`seal`] sealed.
///
/// # Errors
/// [`Exit::Permission`] for another passphrase; [`Exit::Invalid`] for a file that is damaged or none
/// of these.
pub(super) fn open(bytes: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, ExitError> {
    let mut identity = Identity::new(SecretString::from(passphrase));
    identity.set_max_work_factor(MAX_COST);
    age::decrypt(&identity, bytes).map(Zeroizing::new).map_err(|error| {
        let is_other_passphrase = matches!(
            error,
            DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed
        );
        let (exit, what) = if is_other_passphrase {
            // A header that was altered in scrypt's own part looks alike.
            (Exit::Permission, "this is not its passphrase, or its beginning is damaged")
        } else if matches!(error, DecryptError::ExcessiveWork { .. }) {
            (Exit::Invalid, "it was not made by `causeway backup`: it asks for too much memory")
        } else if bytes.starts_with(MARK) {
            (Exit::Invalid, "it is damaged: take another copy")
        } else {
            (Exit::Invalid, "it is no backup of Causeway")
        };
        ExitError::new(exit, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_by_its_passphrase_and_any_altered_byte_is_noticed() {
        let sealed = seal(b"the text", "one two three").ok().unwrap();
        assert!(sealed.starts_with(MARK));
        assert_eq!(**open(&sealed, "one two three").ok().unwrap(), *b"the text");
        let error = open(&sealed, "one two four").err().unwrap();
        assert!(error.exit == Exit::Permission && error.message.contains("passphrase"), "{error}");
        // Each part of the file: mark, header, its MAC, nonce, text.
        for at in [3, MARK.len() + 4, MARK.len() + 60, sealed.len() - 30, sealed.len() - 1] {
            let mut altered = sealed.clone();
            if let Some(byte) = altered.get_mut(at) {
                *byte ^= 1;
            }
            assert!(open(&altered, "one two three").is_err(), "byte {at}");
        }
        for length in [0, MARK.len(), sealed.len() / 2, sealed.len() - 1] {
            let cut = sealed.get(..length).unwrap_or_default();
            assert!(open(cut, "one two three").is_err(), "{length} bytes");
        }
    }
}
