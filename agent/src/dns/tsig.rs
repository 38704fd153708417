//! The key that signs updates: pure.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::tsig::{Algorithm, Key, KeyName};
use zeroize::Zeroizing;

/// The shortest secret that is taken, in bytes: what is shorter is no key of `tsig-keygen`.
const LEAST: usize = 16;

/// Why a text is no key; never says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither of the two forms.
    #[error(
        "it holds no TSIG key; write what `tsig-keygen NAME` or `keymgr -t NAME` prints, or one line ALGORITHM:NAME:SECRET"
    )]
    Form,
    /// An algorithm that is broken or unknown.
    #[error(
        "its algorithm is none of hmac-sha256, hmac-sha384 and hmac-sha512; make a new key, such as with `tsig-keygen NAME`"
    )]
    Algorithm,
    /// The name of the key is no DNS name.
    #[error("the name of its key is no DNS name")]
    Name,
    /// The secret is no base64, or short.
    #[error("its secret is not the base64 of at least 16 bytes")]
    Secret,
}

/// A TSIG key.
#[derive(Clone)]
pub struct UpdateKey(pub(super) Key);

impl fmt::Display for UpdateKey {
    /// Its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.name().fmt(f)
    }
}

impl UpdateKey {
    /// Reads a `key` clause as BIND has it, the YAML of Knot DNS, or `ALGORITHM:NAME:SECRET` as
    /// `dig -y` takes it.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (algorithm, name, secret) =
            clause(text).or_else(|| yaml(text)).or_else(|| line(text)).ok_or(KeyError::Form)?;
        let algorithm = match algorithm.to_ascii_lowercase().trim_end_matches('.') {
            "hmac-sha256" => Algorithm::Sha256,
            "hmac-sha384" => Algorithm::Sha384,
            "hmac-sha512" => Algorithm::Sha512,
            _ => return Err(KeyError::Algorithm),
        };
        let name: KeyName = name.parse().map_err(|_| KeyError::Name)?;
        let secret = Zeroizing::new(STANDARD.decode(secret).map_err(|_| KeyError::Secret)?);
        if secret.len() < LEAST {
            return Err(KeyError::Secret);
        }
        Key::new(algorithm, &secret, name, None, None).map(Self).map_err(|_| KeyError::Form)
    }
}

/// The value behind a word, without quotation marks.
fn after<'t>(words: &[&'t str], word: &str) -> Option<&'t str> {
    let at = words.iter().position(|found| *found == word)?;
    words.get(at + 1).map(|value| value.trim_matches('"'))
}

/// `key "NAME" { algorithm ALGORITHM; secret "SECRET"; };`
fn clause(text: &str) -> Option<(&str, &str, &str)> {
    let is_comment = |line: &&str| line.starts_with('#') || line.starts_with("//");
    let lines = text.lines().map(str::trim).filter(|line| !is_comment(line));
    let is_end = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';');
    let words: Vec<&str> =
        lines.flat_map(|line| line.split(is_end)).filter(|word| !word.is_empty()).collect();
    Some((after(&words, "algorithm")?, after(&words, "key")?, after(&words, "secret")?))
}

/// `- id: NAME`, `algorithm: ALGORITHM`, `secret: SECRET`
fn yaml(text: &str) -> Option<(&str, &str, &str)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    Some((after(&words, "algorithm:")?, after(&words, "id:")?, after(&words, "secret:")?))
}

fn line(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.trim().split(':');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !text.trim().contains(char::is_whitespace)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ==";

    #[test]
    fn a_key_is_read_as_every_name_server_prints_it() {
        for text in [
            format!("key \"kyiv\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n"),
            format!("# made today\nkey kyiv. {{ algorithm hmac-sha512; secret {SECRET}; }};"),
            format!(
                "# hmac-sha256:kyiv:{SECRET}\nkey:\n  - id: kyiv\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
            ),
            format!("hmac-sha256:kyiv:{SECRET}\n"),
        ] {
            let key = UpdateKey::parse(&text).map(|key| key.to_string());
            assert_eq!(key.as_deref(), Ok("kyiv"), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for (text, error) in [
            ("", KeyError::Form),
            ("-----BEGIN PRIVATE KEY-----", KeyError::Form),
            (SECRET, KeyError::Form),
            (&format!("hmac-md5:kyiv:{SECRET}"), KeyError::Algorithm),
            ("hmac-sha256:kyiv:%%%", KeyError::Secret),
            ("hmac-sha256:kyiv:c2VjcmV0", KeyError::Secret),
            (&format!("hmac-sha256:ky..iv:{SECRET}"), KeyError::Name),
        ] {
            assert_eq!(UpdateKey::parse(text).err(), Some(error), "{text}");
            assert!(!error.to_string().contains("c2Vj"));
        }
    }
}
