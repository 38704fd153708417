//! `forwarder --log FILE`: everything that the daemon would print on standard error is in the file.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Bytes of a full log file.
const FULL: usize = 5 << 20;

#[test]
fn an_error_of_the_configuration_is_in_the_log_and_not_on_standard_error() {
    let (folder, log) = folder();
    let output = forwarder(&folder, &["--log", "state/forwarder.log"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(4), ""));
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("/forwarder.toml:1:2: the file has no key \"nothing\""), "{text}");
}

#[test]
fn a_daemon_that_cannot_start_again_and_again_fills_no_disk() {
    let (folder, log) = folder();
    fs::create_dir(log.parent().unwrap()).unwrap();
    fs::write(&log, vec![b'-'; FULL]).unwrap();
    for _ in 0..2 {
        forwarder(&folder, &["--log", "state/forwarder.log"]);
    }
    assert_eq!(fs::metadata(log.with_extension("log.1")).unwrap().len(), FULL as u64);
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("/forwarder.toml:1:2: ").count(), 2, "{text}");
}

#[test]
fn a_log_that_cannot_be_written_is_named_and_the_daemon_goes_on_without() {
    let (folder, _) = folder();
    let output = forwarder(&folder, &["--log", "forwarder.toml/forwarder.log"]);
    let text = stderr(&output);
    assert!(text.starts_with("--log forwarder.toml/forwarder.log: "), "{text}");
    assert!(text.contains("; the log goes on here\n") && text.contains("/forwarder.toml:1:2: "), "{text}");
}

#[test]
fn a_command_has_no_log() {
    let (folder, log) = folder();
    let output = forwarder(&folder, &["--log", "state/forwarder.log", "check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--log is the daemon's") && !log.exists(), "{}", stderr(&output));
}

/// A folder with a configuration that is none, and where its log would be.
fn folder() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("forwarder.toml"), "[nothing]\n").unwrap();
    let log = folder.path().join("state/forwarder.log");
    (folder, log)
}

fn forwarder(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_forwarder")));
    command.current_dir(folder).args(["--config", "forwarder.toml"]).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
