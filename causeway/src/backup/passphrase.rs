//! The passphrase: six words that `backup` chooses, or the first line of a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use daemon::exit::{Exit, ExitError};
use zeroize::Zeroizing;

/// How many words are chosen: 66 bits.
const WORDS: usize = 6;
/// The longest passphrase, in bytes.
const MAX_BYTES: u64 = 1024;
/// The shortest one of a file, in bytes: a guess costs whoever has the backup about a second.
const MIN_BYTES: usize = 12;

/// Six random words.
///
/// # Errors
/// When the system has no random numbers.
pub(super) fn choose() -> Result<Zeroizing<String>, ExitError> {
    let list = daemon::pairing::words::word_list();
    let mut seed = Zeroizing::new([0_u8; 2 * WORDS]);
    getrandom::fill(&mut *seed).map_err(|error| ExitError::new(Exit::Failed, error))?;
    let (pairs, _) = seed.as_chunks::<2>();
    // 2,048 words: each 16 bits choose one evenly.
    let words = pairs.iter().filter_map(|pair| list.get(usize::from(u16::from_be_bytes(*pair)) % list.len()));
    Ok(Zeroizing::new(words.copied().collect::<Vec<_>>().join(" ")))
}

/// The first line of a file that its owner alone may read.
///
/// # Errors
/// [`Exit::Permission`] for a file that others may read; what the system says.
pub(super) fn of_file(path: &Path) -> Result<Zeroizing<String>, ExitError> {
    let failed = |error: io::Error| ExitError::new(Exit::of(&error), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        let message = format!("{path}: others may read the passphrase (mode {mode:04o}): chmod 600 {path}");
        return Err(ExitError::new(Exit::Permission, message));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    let passphrase = as_words(text.lines().next().unwrap_or_default());
    if passphrase.len() < MIN_BYTES {
        let message = format!("{}: a passphrase has at least {MIN_BYTES} characters", path.display());
        return Err(ExitError::new(Exit::Usage, message));
    }
    Ok(passphrase)
}

/// What is typed at the terminal, unseen.
///
/// # Errors
/// [`Exit::Usage`] without a terminal.
pub(super) fn ask() -> Result<Zeroizing<String>, ExitError> {
    let typed = rpassword::prompt_password("passphrase (it is not shown): ").map_err(|error| {
        let fix = "run this at a terminal, or name a file with the passphrase by --passphrase-file FILE";
        ExitError::new(Exit::Usage, format!("{error}; {fix}"))
    })?;
    Ok(as_words(&Zeroizing::new(typed)))
}

/// White space between words counts once.
fn as_words(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    #[test]
    fn six_words_are_chosen_and_no_two_choices_are_alike() {
        let (one, two) = (choose().ok().unwrap(), choose().ok().unwrap());
        assert_eq!(one.split(' ').count(), WORDS);
        assert_ne!(*one, *two);
    }

    #[test]
    fn a_file_that_others_may_read_or_with_a_short_passphrase_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        for (text, mode, exit) in [
            ("  correct  horse battery\nsecond line\n", 0o600, None),
            ("correct horse battery\n", 0o644, Some(Exit::Permission)),
            ("short\n", 0o600, Some(Exit::Usage)),
            ("", 0o600, Some(Exit::Usage)),
        ] {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = of_file(&path);
            assert_eq!(read.as_ref().err().map(|error| error.exit), exit, "{text:?}");
            if let Ok(passphrase) = read {
                assert_eq!(*passphrase, "correct horse battery");
            }
        }
    }
}
