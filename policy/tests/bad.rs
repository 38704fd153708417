//! Every way a configuration can be wrong, with the errors it gives.
//!
//! Each `tests/bad/*.toml` has a `.txt` of the same name with the errors it must give. After a
//! change of an error's text, run with `UPDATE_EXPECTED=1` and read the difference.

// Helpers of tests fail by panicking, as tests do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use policy::{
    ConfigError, FileRef, KnownKeys, Problem, SecretKey, Source, forwarder, gateway, misplaced_keys,
};

#[test]
fn every_bad_file_gives_the_errors_it_must() {
    let mut wrong = Vec::new();
    for file in bad_files() {
        let printed: String = errors_of(&file).iter().map(|error| format!("{error}\n")).collect();
        let expected = file.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected, &printed).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != printed {
            wrong.push(format!("{}:\n{printed}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn a_text_of_nothing_but_repeated_keys_is_refused_with_a_bounded_number_of_errors() {
    let lines = "a = 1\n".repeat(100_000);
    let one_line = format!("x = {{ {}a = 1 }}", "a = 1, ".repeat(20_000));
    let unknown: String = (0..20_000).map(|number| format!("k{number} = 1\n")).collect();
    for text in [lines, one_line, unknown] {
        let source = Source { name: Path::new("gateway.toml"), text: &text };
        let errors = gateway::parse(&source).unwrap_err();
        assert!((1..=1_000).contains(&errors.len()), "{} errors", errors.len());
    }
    let long = "#".repeat(5 << 20);
    let errors = gateway::parse(&Source { name: Path::new("gateway.toml"), text: &long }).unwrap_err();
    assert!(matches!(errors.as_slice(), [ConfigError { problem: Problem::TooLarge { .. }, .. }]));
}

#[test]
fn every_variant_is_produced() {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for file in bad_files() {
        seen.extend(errors_of(&file).iter().map(|error| variant(&error.problem)));
    }
    seen.extend(file_errors().iter().map(|error| variant(&error.problem)));
    seen.extend(errors_in("too large", &"#".repeat(9 << 20)).iter().map(|error| variant(&error.problem)));
    let flood = format!("[lan]\nprefixes = [{}]\n", "\"10.0.0.0/8\", ".repeat(65_537));
    seen.extend(errors_in("too many", &flood).iter().map(|error| variant(&error.problem)));

    let missing: Vec<String> = variants().difference(&seen).cloned().collect();

    assert!(missing.is_empty(), "no file produces {missing:?}");
}

#[test]
fn every_error_says_where_what_and_how_to_fix_it() {
    for error in bad_files().iter().flat_map(|file| errors_of(file)).chain(file_errors()) {
        let printed = error.to_string();
        let place = format!("{}:{}:{}: ", error.at.file.display(), error.at.line, error.at.column);
        assert!(printed.starts_with(&place), "{printed}");
        assert!(printed.contains("; "), "no fix: {printed}");
        assert!(!printed.contains('\n'), "several lines: {printed}");
        assert!(printed.len() < 500, "too long: {printed}");
    }
}

#[test]
fn errors_about_files_have_the_exit_codes_of_the_contract() {
    let codes: Vec<u8> = file_errors().iter().map(ConfigError::exit_code).collect();

    assert_eq!(codes, [4, 4, 5, 5, 5, 4, 4, 4, 4, 4]);
}

/// What a daemon reports about a file that the configuration names.
fn file_errors() -> Vec<ConfigError> {
    let text = MINIMAL.replace("kyiv.key", "${CREDENTIALS_DIRECTORY}/kyiv.key");
    let credential =
        gateway::parse(&source("/etc/causeway/gateway.toml", &text)).unwrap().interface.private_key_file;
    let policy = gateway::parse(&source("/etc/causeway/gateway.toml", MINIMAL)).unwrap();
    let key: &FileRef = &policy.interface.private_key_file;
    let file = key.path(None).unwrap().display().to_string();
    let mut errors = vec![
        key.error(Problem::MissingKeyFile { file: file.clone() }),
        key.error(Problem::MissingListFile { file: "friends.list".to_owned() }),
        key.error(Problem::KeyFileMode { file: file.clone(), mode: 0o644 }),
        key.error(Problem::UnreadableFile { file, reason: "permission denied".to_owned() }),
        key.error(Problem::UnreadableSecretFile {
            file: "kyiv.tsig".to_owned(),
            reason: "permission denied".to_owned(),
        }),
        key.error(Problem::MalformedSecretFile {
            file: "kyiv.tsig".to_owned(),
            reason: "it holds no API token; write the token into it, as one line".to_owned(),
        }),
        SecretKey::parse("not a key", key).err().unwrap(),
        credential.path(None).unwrap_err(),
    ];
    let peer =
        "[[peer]]\nname = \"wroclaw\"\npublic_key = \"CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n";
    let (source, key) = (source("gateway.toml", peer), base_point());
    let own = KnownKeys { own: vec![key], ..KnownKeys::default() };
    errors.extend(misplaced_keys(&source, ("public_key", &[Some(key)]), &own));
    let secret = KnownKeys { secrets: vec![(Path::new("kyiv.key"), &key)], ..KnownKeys::default() };
    errors.extend(misplaced_keys(&source, ("public_key", &[Some(key)]), &secret));
    errors
}

fn base_point() -> [u8; 32] {
    let mut key = [0; 32];
    key[0] = 9;
    key
}

const MINIMAL: &str = "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"kyiv.key\"\n\
                       [wan]\ninterface = \"eth0\"\n";

fn bad_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    assert!(files.len() >= 50, "the corpus is gone");
    files
}

fn errors_of(file: &Path) -> Vec<ConfigError> {
    let name = file.file_name().unwrap().to_str().unwrap();
    let errors = errors_in(name, &std::fs::read_to_string(file).unwrap());
    assert!(!errors.is_empty(), "{name} is valid");
    errors
}

fn errors_in(name: &str, text: &str) -> Vec<ConfigError> {
    let source = source(name, text);
    let errors = match name.split('-').next().unwrap() {
        "forwarder" => forwarder::parse(&source).err(),
        "list" => policy::sections::parse_list(&source).err(),
        _ => gateway::parse(&source).err(),
    };
    errors.unwrap_or_default()
}

fn source<'a>(name: &'a str, text: &'a str) -> Source<'a> {
    Source { name: Path::new(name), text }
}

fn variant(problem: &Problem) -> String {
    format!("{problem:?}").split([' ', '{']).next().unwrap().to_owned()
}

/// The variants of `Problem`, read from its source.
fn variants() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/problem.rs")).unwrap();
    let body = text.split("pub enum Problem {").nth(1).unwrap().split("\n}").next().unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = lines.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    names.map(|line| line.trim_end_matches([' ', '{', ',']).to_owned()).collect()
}
