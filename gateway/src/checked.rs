//! `gateway check --json`: what was found, as a document.

use std::path::Path;

use policy::gateway::Policy;
use serde_json::Value;

use daemon::command_line;
use daemon::files::LoadError;

/// A valid configuration: every key in effect, under its name in the file; with notes, who would be
/// trusted, and what does not match the other end.
#[must_use]
pub fn valid(path: &Path, policy: &Policy, [notes, trusted, unpaired]: [&[String]; 3]) -> Value {
    let configuration = toml::from_str::<Value>(&policy.to_toml()).unwrap_or_default();
    around(command_line::valid(path, &configuration, &policy.warnings, notes), trusted, unpaired)
}

/// Why there is no valid configuration.
#[must_use]
pub fn invalid(path: &Path, error: &LoadError) -> Value {
    around(command_line::invalid(path, error), &[], &[])
}

/// The document with the fields that only the edge's has.
fn around(mut document: Value, trusted: &[String], unpaired: &[String]) -> Value {
    if let Some(fields) = document.as_object_mut() {
        fields.extend(
            [("trusted", trusted), ("unpaired", unpaired)].map(|(key, lines)| (key.to_owned(), lines.into())),
        );
    }
    document
}

#[cfg(test)]
mod tests {
    use policy::Source;
    use serde_json::json;

    use super::*;

    const FILE: &str = "/etc/causeway/gateway.toml";

    #[test]
    fn a_valid_file_is_every_key_in_effect_under_its_name() {
        let text = include_str!("../../configs/gateway.toml");
        let policy = policy::gateway::parse(&Source { name: Path::new(FILE), text }).unwrap();
        let document = valid(Path::new(FILE), &policy, [&[], &[], &[]]);
        assert_eq!(document.pointer("/valid"), Some(&json!(true)));
        assert_eq!(document.pointer("/configuration/interface/listen_port"), Some(&json!(51820)));
        assert_eq!(document.pointer("/configuration/publish/0/name"), Some(&json!("https")));
        assert_eq!(document.pointer("/configuration/state/directory"), Some(&json!("/var/lib/causeway")));
    }

    #[test]
    fn an_error_has_its_place_and_its_message() {
        let errors =
            policy::gateway::parse(&Source { name: Path::new(FILE), text: "[wan]\nport = 1\n" }).unwrap_err();
        let document = invalid(Path::new(FILE), &LoadError::Invalid(errors));
        assert_eq!(document.pointer("/valid"), Some(&json!(false)));
        let errors = document.pointer("/errors").and_then(Value::as_array).unwrap();
        let unknown =
            errors.iter().find(|error| error["message"].as_str().unwrap().contains("\"port\"")).unwrap();
        assert_eq!(
            (&unknown["file"], &unknown["line"], &unknown["column"]),
            (&json!(FILE), &json!(2), &json!(1))
        );
    }
}
