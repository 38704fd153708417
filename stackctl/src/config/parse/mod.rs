//! Reading `stack.toml`: unknown keys, wrong kinds and loose ends are errors with their place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Clean, FileRule, Hook, Machine, Secret, SecretKind, Stack};
use crate::glob::Pattern;
use crate::nearest::{hint, nearest};
use crate::secret::HashKind;
use crate::template::{Position, position};

/// A mistake in `stack.toml`, with its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", .position.line, .position.column)]
pub struct ConfigError {
    /// Line and column.
    pub position: Position,
    /// What is wrong and how to fix it.
    pub message: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawStack {
    secrets: BTreeMap<String, BTreeMap<Spanned<String>, RawSecret>>,
    actions: BTreeMap<String, BTreeMap<Spanned<String>, Vec<String>>>,
    hooks: BTreeMap<String, RawHooks>,
    clean: BTreeMap<String, RawClean>,
    depends: BTreeMap<String, Vec<String>>,
    place: BTreeMap<String, Vec<String>>,
    project: BTreeMap<String, Spanned<String>>,
    location: BTreeMap<String, RawMachine>,
    file: BTreeMap<Spanned<String>, RawFile>,
    up: BTreeMap<String, RawUp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    kind: Spanned<String>,
    length: Option<usize>,
    bytes: Option<usize>,
    bits: Option<usize>,
    of: Option<Spanned<String>>,
    value: Option<String>,
    #[serde(default)]
    show_once: bool,
    #[serde(default)]
    volumes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHooks {
    #[serde(default)]
    post_up: Vec<RawHook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHook {
    run: String,
    #[serde(default)]
    cwd: String,
    on_failure: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RawClean {
    files: Vec<Spanned<String>>,
    data: Vec<Spanned<String>>,
    volumes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMachine {
    host: Spanned<String>,
    path: String,
    ssh_config: Option<String>,
    command: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    mode: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUp {
    wait: Spanned<String>,
}

/// Reads and checks a whole file.
pub fn parse(text: &str) -> Result<Stack, ConfigError> {
    let raw: RawStack = toml::from_str(text).map_err(|error| from_toml(text, &error))?;
    let at = |span: std::ops::Range<usize>, message: String| ConfigError {
        position: position(text.as_bytes(), span.start),
        message,
    };
    let mut stack = Stack {
        depends: raw.depends,
        place: raw.place,
        secrets: secrets(raw.secrets, &at)?,
        actions: actions(raw.actions, &at)?,
        ..Stack::default()
    };
    for (service, name) in raw.project {
        if !crate::tree::is_service_name(name.get_ref()) {
            let message = "a project's name is lower-case letters, digits, _ and -";
            return Err(at(name.span(), message.into()));
        }
        stack.projects.insert(service, name.into_inner());
    }
    for (service, hooks) in raw.hooks {
        let hooks: Result<_, _> = hooks.post_up.into_iter().map(|raw| hook(raw, &at)).collect();
        stack.post_up.insert(service, hooks?);
    }
    for (service, raw) in raw.clean {
        let clean =
            Clean { files: patterns(raw.files, &at)?, data: patterns(raw.data, &at)?, volumes: raw.volumes };
        stack.clean.insert(service, clean);
    }
    for (name, raw) in raw.location {
        stack.locations.insert(name, machine(raw, &at)?);
    }
    for (path, raw) in raw.file {
        let span = path.span();
        if Pattern::parse(path.get_ref()).is_err() {
            return Err(at(span, "a file is named by its path below the location".into()));
        }
        stack.files.insert(path.into_inner(), file_rule(raw, &at)?);
    }
    for (service, raw) in raw.up {
        let span = raw.wait.span();
        let wait = seconds(raw.wait.get_ref())
            .ok_or_else(|| at(span, "a wait is 1s to 3600s, written like \"120s\" or \"5m\"".into()))?;
        stack.wait.insert(service, wait);
    }
    Ok(stack)
}

/// `90s` or `5m`, up to an hour.
fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) =
        text.strip_suffix('s').map_or_else(|| (text.strip_suffix('m'), 60), |n| (Some(n), 1));
    let seconds = number?.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

type At<'a> = dyn Fn(std::ops::Range<usize>, String) -> ConfigError + 'a;

fn secrets(
    raw: BTreeMap<String, BTreeMap<Spanned<String>, RawSecret>>,
    at: &At<'_>,
) -> Result<BTreeMap<String, Secret>, ConfigError> {
    let mut all: BTreeMap<String, Secret> = BTreeMap::new();
    let mut hashes = Vec::new();
    for (service, declared) in raw {
        for (name, raw) in declared {
            let span = name.span();
            let name = name.into_inner();
            if !crate::envfile::is_name(&name) {
                return Err(at(span, format!("{name:?} cannot be a variable's name")));
            }
            if let Some(of) = &raw.of {
                hashes.push((name.clone(), of.get_ref().clone(), of.span()));
            }
            let kind = kind(&raw, at)?;
            let (show_once, volumes) = (raw.show_once, raw.volumes);
            let secret = Secret { service: service.clone(), kind, show_once, volumes };
            if let Some(other) = all.insert(name.clone(), secret) {
                return Err(at(span, format!("{name} is declared twice: {} has it too", other.service)));
            }
        }
    }
    for (name, of, span) in hashes {
        let other = all.get(&of).map(|secret| &secret.kind);
        if of == name || matches!(other, Some(SecretKind::Hash { .. })) {
            return Err(at(span, format!("{of} is itself a hash: name the password")));
        }
    }
    Ok(all)
}

fn kind(raw: &RawSecret, at: &At<'_>) -> Result<SecretKind, ConfigError> {
    const KINDS: [&str; 10] = [
        "password",
        "base64",
        "hex",
        "uuid",
        "rsa",
        "ed25519",
        "argon2id",
        "pbkdf2-sha512",
        "bcrypt",
        "literal",
    ];
    let word = raw.kind.get_ref().as_str();
    let fail = |message: String| at(raw.kind.span(), message);
    let allowed: &[&str] = match word {
        "password" => &["length"],
        "base64" | "hex" => &["bytes"],
        "rsa" => &["bits"],
        "argon2id" | "pbkdf2-sha512" | "bcrypt" => &["of"],
        "literal" => &["value"],
        "uuid" | "ed25519" => &[],
        _ => return Err(fail(format!("unknown kind {word:?}{}", hint(&nearest(word, KINDS))))),
    };
    let given = [
        ("length", raw.length.is_some()),
        ("bytes", raw.bytes.is_some()),
        ("bits", raw.bits.is_some()),
        ("of", raw.of.is_some()),
        ("value", raw.value.is_some()),
    ];
    if let Some((key, _)) = given.iter().find(|(key, given)| *given && !allowed.contains(key)) {
        return Err(fail(format!("a {word} takes no {key:?}")));
    }
    let within = |value: Option<usize>, default: usize, key: &str, range: std::ops::RangeInclusive<usize>| {
        let value = value.unwrap_or(default);
        let text = format!("{key} is {} to {}", range.start(), range.end());
        if range.contains(&value) { Ok(value) } else { Err(fail(text)) }
    };
    let of = |kind| match &raw.of {
        Some(of) => Ok(SecretKind::Hash { of: of.get_ref().clone(), kind }),
        None => Err(fail(format!("a {word} needs of = \"NAME\", the secret it is a hash of"))),
    };
    match word {
        "password" => Ok(SecretKind::Password { length: within(raw.length, 24, "length", 8..=256)? }),
        "base64" => Ok(SecretKind::Base64 { bytes: within(raw.bytes, 32, "bytes", 16..=1024)? }),
        "hex" => Ok(SecretKind::Hex { bytes: within(raw.bytes, 32, "bytes", 8..=1024)? }),
        "uuid" => Ok(SecretKind::Uuid),
        "ed25519" => Ok(SecretKind::Ed25519),
        "rsa" => match raw.bits.unwrap_or(2048) {
            bits @ (2048 | 3072 | 4096) => Ok(SecretKind::Rsa { bits }),
            _ => Err(fail("bits is 2048, 3072 or 4096".into())),
        },
        "argon2id" => of(HashKind::Argon2id),
        "pbkdf2-sha512" => of(HashKind::Pbkdf2Sha512),
        "bcrypt" => of(HashKind::Bcrypt),
        _ => match &raw.value {
            Some(value) if !value.contains('\n') => Ok(SecretKind::Literal { value: value.clone() }),
            _ => Err(fail("a literal needs value = \"…\", of one line".into())),
        },
    }
}

fn actions(
    raw: BTreeMap<String, BTreeMap<Spanned<String>, Vec<String>>>,
    at: &At<'_>,
) -> Result<BTreeMap<String, BTreeMap<String, Vec<String>>>, ConfigError> {
    let mut all = BTreeMap::new();
    for (service, actions) in raw {
        let mut named = BTreeMap::new();
        for (name, argv) in actions {
            let span = name.span();
            if argv.is_empty() {
                return Err(at(span, "an action is a list: a program and its arguments".into()));
            }
            if let Some(place) =
                argv.iter().skip(1).position(|word| word == "@compose" || word == "@stackctl")
            {
                let message = format!("word {} can only come first: it is the program", place + 2);
                return Err(at(span, message));
            }
            named.insert(name.into_inner(), argv);
        }
        all.insert(service, named);
    }
    Ok(all)
}

fn hook(raw: RawHook, at: &At<'_>) -> Result<Hook, ConfigError> {
    let fatal = match raw.on_failure.as_ref().map(|word| word.get_ref().as_str()) {
        None | Some("warn") => false,
        Some("fatal") => true,
        Some(_) => {
            let span = raw.on_failure.as_ref().map_or(0..0, Spanned::span);
            return Err(at(span, "on_failure is \"warn\" or \"fatal\"".into()));
        }
    };
    Ok(Hook { run: raw.run, cwd: raw.cwd, fatal })
}

fn patterns(raw: Vec<Spanned<String>>, at: &At<'_>) -> Result<Vec<Pattern>, ConfigError> {
    raw.into_iter()
        .map(|text| Pattern::parse(text.get_ref()).map_err(|error| at(text.span(), error.to_string())))
        .collect()
}

fn machine(raw: RawMachine, at: &At<'_>) -> Result<Machine, ConfigError> {
    let host = raw.host.get_ref();
    // A name that starts with a dash would be an option of ssh.
    let good = host.strip_prefix("ssh://").is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('-')
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"@.-_:[]".contains(&b))
    });
    if !good {
        return Err(at(raw.host.span(), "host is ssh://[user@]name[:port]".into()));
    }
    let command = raw.command.unwrap_or_else(|| "stackctl".into());
    Ok(Machine { host: host.clone(), path: raw.path, ssh_config: raw.ssh_config, command })
}

fn file_rule(raw: RawFile, at: &At<'_>) -> Result<FileRule, ConfigError> {
    let mode = match raw.mode {
        None => None,
        Some(text) => match u32::from_str_radix(text.get_ref(), 8) {
            Ok(mode) if mode <= 0o777 => Some(mode),
            _ => return Err(at(text.span(), "a mode is octal, like \"0640\"".into())),
        },
    };
    let owner = match raw.owner {
        None => None,
        Some(text) => {
            let numbers = text.get_ref().split_once(':');
            let parsed = numbers.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
            Some(parsed.ok_or_else(|| at(text.span(), "an owner is numbers, like \"472:472\"".into()))?)
        }
    };
    Ok(FileRule { mode, owner })
}

fn from_toml(text: &str, error: &toml::de::Error) -> ConfigError {
    let position = position(text.as_bytes(), error.span().map_or(0, |span| span.start));
    let message = error.message().to_owned();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten();
    let known: BTreeSet<&str> = quoted.collect();
    let hint = unknown.map(|name| hint(&nearest(name, known))).unwrap_or_default();
    ConfigError { position, message: format!("{message}{hint}") }
}

#[cfg(test)]
mod tests;
