//! Other products' configurations.

use std::path::Path;

use migrate::import::{self, FindingKind, Import, ImportError, Role, WgQuickOptions};
use policy::{PublicKey, Source};

/// Between the edge's file and the origin's.
const BETWEEN: &str = "\n%%\n";

/// A wg-quick file of either end, or of both: it is refused at a line that it has, or both files that
/// it becomes are valid, and each port that they publish is reported.
pub(crate) fn wg_quick(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some((edge, origin)) = text.split_once(BETWEEN) {
        let source = |text| Source { name: Path::new("wg0.conf"), text };
        let options = WgQuickOptions::default();
        let last = edge.lines().count().max(origin.lines().count());
        judge(import::wg_quick_both(&source(edge), &source(origin), &options, &|_| None), last);
        return;
    }
    let source = Source { name: Path::new("wg0.conf"), text };
    for role in [None, Some(Role::Edge), Some(Role::Origin)] {
        let options = WgQuickOptions { role, ..WgQuickOptions::default() };
        let imported = import::wg_quick(&source, &options, &|_| PublicKey::new([7; 32]));
        judge(imported, text.lines().count());
    }
}

/// What an import of files with so many lines must be.
fn judge(imported: Result<Import, ImportError>, lines: usize) {
    let last = u32::try_from(lines).unwrap_or(u32::MAX).max(1);
    let imported = match imported {
        Ok(imported) => imported,
        Err(ImportError::Refused { line, .. }) => {
            assert!((1..=last).contains(&line), "line {line} of {last}");
            return;
        }
        Err(_) => return,
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
