//! An upgrade that failed: the program of before runs again.
//!
//! `configs/lib/earlier-version`, which systemd runs as root each time a daemon has ended, writes it
//! and puts the program back; the daemon only reports it.

use serde::Deserialize;

/// The version of the file; another one counts as none.
const SCHEMA: u32 = 1;

/// What root's script noted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WentBack {
    schema: u32,
    /// The version that failed.
    pub failed: String,
    /// The version that runs again.
    pub runs: String,
    /// How the one that failed ended, such as `exit code 1`.
    pub why: String,
}

impl WentBack {
    /// Reads the file's text.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|noted: &Self| noted.schema == SCHEMA)
    }

    /// What is wrong and how to fix it, in one line, at the machine of this unit.
    #[must_use]
    pub fn problem(&self, unit: &str) -> String {
        let Self { failed, runs, why, .. } = self;
        format!(
            "version {failed} failed twice after its upgrade ({why}), and version {runs} runs again; read why \
             (`journalctl -u {unit}`), and install a version that works"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_writes_is_read_and_another_schema_is_not() {
        let text =
            r#"{"schema":1,"failed":"0.3.0","runs":"0.2.0","why":"ended by signal ABRT","at":1800000000}"#;
        let noted = WentBack::parse(text).unwrap();
        let line = "version 0.3.0 failed twice after its upgrade (ended by signal ABRT), and version 0.2.0 runs again; \
                    read why (`journalctl -u gateway`), and install a version that works";
        assert_eq!(noted.problem("gateway"), line);
        assert_eq!(WentBack::parse(&text.replace("\"schema\":1", "\"schema\":2")), None);
        assert_eq!(WentBack::parse("{"), None);
    }
}
