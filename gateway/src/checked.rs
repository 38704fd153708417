//! `gateway check --json`: what was found, as a document.

use std::path::Path;

use policy::gateway::Policy;
use policy::{ConfigError, Position};
use serde_json::{Value, json};

use daemon::files::{LoadError, fix_of};

/// Version of the document's shape.
const SCHEMA: u32 = 1;

/// A valid configuration: every key as it is in effect, under the names that the file has; with notes, who would be
/// trusted, and what does not pair up.
#[must_use]
pub fn valid(path: &Path, policy: &Policy, [notes, trusted, unpaired]: [&[String]; 3]) -> Value {
    let warnings: Vec<Value> =
        policy.warnings.iter().map(|warning| located(&warning.at, &warning.message)).collect();
    json!({
        "schema": SCHEMA, "file": path.display().to_string(), "valid": true,
        "configuration": toml::from_str::<Value>(&policy.to_toml()).unwrap_or_default(),
        "warnings": warnings, "notes": notes, "trusted": trusted, "unpaired": unpaired, "errors": [],
    })
}

/// Why there is no valid configuration; `line` and `column` are `null` for a file that cannot be read at all.
#[must_use]
pub fn invalid(path: &Path, error: &LoadError) -> Value {
    let errors: Vec<Value> = match error {
        LoadError::Unreadable { path, error } => {
            let message = format!("{error}{}", fix_of(path, error));
            vec![json!({"file": path, "line": null, "column": null, "message": message})]
        }
        LoadError::Invalid(errors) => {
            let of_error = |error: &ConfigError| located(&error.at, &error.problem.to_string());
            errors.iter().map(of_error).collect()
        }
    };
    json!({
        "schema": SCHEMA, "file": path.display().to_string(), "valid": false,
        "warnings": [], "notes": [], "trusted": [], "unpaired": [], "errors": errors,
    })
}

fn located(at: &Position, message: &str) -> Value {
    json!({"file": at.file.display().to_string(), "line": at.line, "column": at.column, "message": message})
}

#[cfg(test)]
mod tests {
    use policy::Source;

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
