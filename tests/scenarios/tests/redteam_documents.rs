//! Tests hold what the documents say about attacks: every test that they name exists, and every
//! attack is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The documents that name tests.
const DOCUMENTS: [&str; 2] = ["docs/SECURITY.md", "docs/ATTACKS.md"];

#[test]
fn every_test_that_the_documents_name_exists() -> Result<()> {
    let tests = tests()?;
    let mut missing = Vec::new();
    let mut named = 0;
    for document in DOCUMENTS {
        for (file, name) in references(document)? {
            named += 1;
            let exists = if file == "fuzz" {
                lab::workspace().join(format!("tests/fuzz/targets/{name}.rs")).exists()
            } else {
                let (whole, folder) = (format!("/{file}.rs"), format!("/{file}/"));
                tests
                    .iter()
                    .any(|(path, test)| *test == name && (path.ends_with(&whole) || path.contains(&folder)))
            };
            if !exists {
                missing.push(format!("{document}: {file}::{name}"));
            }
        }
    }
    ensure!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
    ensure!(named > 80, "only {named} tests are named");
    Ok(())
}

#[test]
fn every_attack_that_is_tried_is_in_the_document_by_which_it_is_run() -> Result<()> {
    let named: BTreeSet<String> = references("docs/ATTACKS.md")?.into_iter().map(|(_, name)| name).collect();
    let attacks = tests()?.into_iter().filter(|(path, _)| {
        path.contains("/tests/scenarios/tests/redteam_") && !path.ends_with("/redteam_documents.rs")
    });
    let unnamed: Vec<_> = attacks.filter(|(_, test)| !named.contains(test)).collect();
    ensure!(unnamed.is_empty(), "docs/ATTACKS.md does not name {unnamed:?}");
    Ok(())
}

/// What a document has between backticks in the form FILE::TEST.
fn references(document: &str) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(lab::workspace().join(document)).with_context(|| document.to_owned())?;
    let pieces = text.split('`').skip(1).step_by(2);
    let is_name = |piece: &&str| {
        piece.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_/:".contains(c))
    };
    let pairs = pieces.filter(is_name).filter_map(|piece| piece.rsplit_once("::"));
    Ok(pairs.map(|(file, name)| (file.to_owned(), name.to_owned())).collect())
}

/// Path and name of every test of the workspace and of the separate workspaces in its folders.
fn tests() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for folder in
        ["causeway", "daemon", "forwarder", "gateway", "migrate", "policy", "stackctl", "tests", "tunnel"]
    {
        let folder = lab::workspace().join(folder);
        if folder.exists() {
            collect(&folder, &mut found)?;
        }
    }
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // A separate workspace has its build output inside.
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, found)?;
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.extend(names(&path)?);
        }
    }
    Ok(())
}

fn names(path: &PathBuf) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(path)?;
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let mut names = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if !is_test(line) {
            continue;
        }
        // Other attributes may be between.
        let function =
            lines.by_ref().find_map(|line| line.split_once("fn ").map(|(_, rest)| rest.to_owned()));
        let function = function.with_context(|| format!("{}: no function", path.display()))?;
        let name = function.split(['(', '<']).next().unwrap_or_default();
        names.push((path.display().to_string(), name.to_owned()));
    }
    Ok(names)
}
