//! The systemd units as systemd itself judges them.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

#[test]
fn every_unit_scores_two_or_better() -> Result<()> {
    for unit in ["gateway.service", "forwarder.service"] {
        // The threshold is in tenths; above it the exit status is a failure.
        let output = analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"], unit)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{unit}: {}", said.lines().last().unwrap_or_default());
    }
    Ok(())
}

fn analyze(arguments: &[&str], unit: &str) -> Result<Output> {
    let path = lab::workspace().join("configs/systemd").join(unit);
    let output = Command::new("systemd-analyze").args(arguments).arg(path).output();
    output.context("systemd-analyze is not installed: run scripts/packages test")
}
