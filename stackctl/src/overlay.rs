//! The generated last override: labels that make Compose notice changed files.
//!
//! `docker compose up` compares definitions, not the content of what they mount. A label that holds a keyed hash of
//! that content makes a changed file a changed definition, of exactly the containers that see the file.

use std::collections::BTreeMap;

use ring::hmac;
use serde_json::json;

/// Holds the hash of the mounted files.
pub const FILES_LABEL: &str = "io.causeway.stack.files";
/// Holds the location's folder, so that no other folder's project of this name is taken over.
pub const LOCATION_LABEL: &str = "io.causeway.stack.location";

/// One file that a container sees: the path inside the mount's target, and its content.
pub struct Content<'c> {
    /// Where the container sees it.
    pub target: &'c str,
    /// What it sees.
    pub bytes: &'c [u8],
}

/// A hash of files that only the holder of `key` can compare with guesses of their content.
#[must_use]
pub fn fingerprint<'c>(key: &[u8], files: impl IntoIterator<Item = Content<'c>>) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for file in files {
        for part in [file.target.as_bytes(), file.bytes] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    context.sign().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The override as text, given each container's definition and the hash of its files; image pins where a rollback needs them.
#[must_use]
pub fn text(location: &str, hashes: &BTreeMap<String, String>, pins: &BTreeMap<String, String>) -> String {
    let services: BTreeMap<&str, _> = hashes
        .iter()
        .map(|(name, hash)| {
            // Compose interpolates this file too.
            let mut service =
                json!({"labels": {FILES_LABEL: hash, LOCATION_LABEL: location.replace('$', "$$")}});
            if let (Some(image), Some(fields)) = (pins.get(name), service.as_object_mut()) {
                fields.insert("image".into(), json!(image));
            }
            (name.as_str(), service)
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&json!({"services": services})).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_of_place_content_or_key_changes_the_fingerprint() {
        let of = |key: &[u8], files: &[(&str, &[u8])]| {
            fingerprint(key, files.iter().map(|(target, bytes)| Content { target, bytes }))
        };
        let base = of(b"k", &[("/a", b"1")]);
        assert_eq!((base.len(), &base), (32, &of(b"k", &[("/a", b"1")])));
        for other in [
            of(b"j", &[("/a", b"1")]),
            of(b"k", &[("/b", b"1")]),
            of(b"k", &[("/a", b"2")]),
            of(b"k", &[]),
            of(b"k", &[("/a1", b"")]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_override_holds_labels_and_a_pinned_image_where_asked() {
        let hashes = [("web".to_owned(), "h1".to_owned()), ("db".to_owned(), "h2".to_owned())].into();
        let pins = [("db".to_owned(), "sha256:1".to_owned())].into();
        let value: serde_json::Value =
            serde_json::from_str(&text("/t/a$b", &hashes, &pins)).expect("JSON is YAML");
        assert_eq!(value["services"]["web"]["labels"][FILES_LABEL], "h1");
        assert_eq!(value["services"]["web"]["labels"][LOCATION_LABEL], "/t/a$$b");
        assert_eq!(value["services"]["db"]["image"], "sha256:1");
        assert!(value["services"]["web"].get("image").is_none());
    }
}
