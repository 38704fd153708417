//! The file by which keepalived knows whether this edge could carry the tunnel.
//!
//! It follows what this edge finds at itself: rules, device, socket, helper. No peer is asked and no
//! report of an origin counts: what is wrong beyond this machine is wrong for both edges.

use std::path::{Path, PathBuf};

use policy::gateway::Policy;

/// Its name in the state folder.
const NAME: &str = "keepalived-health";
/// What keepalived adds to its priority while all is well.
const WELL: &str = "0\n";
/// The number by which keepalived gives the address up (keepalived.conf(5), `vrrp_track_file`).
const ILL: &str = "-254\n";

/// The file, as it was last written.
#[derive(Default)]
pub(in crate::edge) struct HealthFile {
    written: Option<(PathBuf, bool)>,
}

/// Where the file is.
#[must_use]
pub fn path(policy: &Policy) -> PathBuf {
    policy.state_directory.join(NAME)
}

impl HealthFile {
    /// Writes whether all is well, where that is another than before.
    pub(in crate::edge) fn follow(&mut self, file: PathBuf, is_well: bool) {
        let next = Some((file, is_well));
        if self.written == next {
            return;
        }
        if let Some((file, is_well)) = &next {
            write(file, *is_well);
        }
        self.written = next;
    }
}

fn write(file: &Path, is_well: bool) {
    // In place: keepalived watches this file, and a new one under its name would be another.
    if let Err(error) = std::fs::write(file, if is_well { WELL } else { ILL }) {
        tracing::warn!(
            "{} cannot be written ({error}), so keepalived does not know how this edge is; free disk space or fix the \
             folder's permissions",
            file.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_when_it_changes_and_left_alone_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        let mut health = HealthFile::default();
        health.follow(file.clone(), true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "0\n");
        std::fs::write(&file, "-254\n").unwrap();
        health.follow(file.clone(), true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "-254\n", "a person's own value stays");
        health.follow(file.clone(), false);
        health.follow(file.clone(), true);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "0\n");
    }
}
