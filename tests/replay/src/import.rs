//! Other products' configurations.

use std::path::Path;

use migrate::import::{self, FindingKind, ImportError, Role, WgQuickOptions};
use policy::{PublicKey, Source};

/// A wg-quick file of either end: it is refused at a line that it has, or both files that it
/// becomes are valid, and each port that they publish is reported.
pub(crate) fn wg_quick(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let source = Source { name: Path::new("wg0.conf"), text };
    let last = u32::try_from(text.lines().count()).unwrap_or(u32::MAX).max(1);
    for role in [None, Some(Role::Edge), Some(Role::Origin)] {
        let options = WgQuickOptions { role, ..WgQuickOptions::default() };
        let imported = match import::wg_quick(&source, &options, &|_| PublicKey::new([7; 32])) {
            Ok(imported) => imported,
            Err(ImportError::Refused { line, .. }) => {
                assert!((1..=last).contains(&line), "line {line} of {last}");
                continue;
            }
            Err(_) => continue,
        };
        for finding in &imported.findings {
            let line = finding.at.as_ref().map_or(1, |(_, line)| *line);
            assert!((1..=last).contains(&line), "{finding}");
        }
        let gateway = Source { name: Path::new("gateway.toml"), text: &imported.gateway };
        let gateway = policy::gateway::parse(&gateway).expect("what an import writes is valid");
        let forwarder = Source { name: Path::new("forwarder.toml"), text: &imported.forwarder };
        policy::forwarder::parse(&forwarder).expect("what an import writes is valid");
        let public = imported.findings.iter().filter(|finding| finding.kind == FindingKind::Public).count();
        assert_eq!(public, gateway.publish.len(), "a public port is not reported");
    }
}
