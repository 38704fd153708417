//! The fuzz targets' seed corpus, run without a fuzzer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

#[test]
fn every_input_of_the_corpus_keeps_every_promise() -> Result<()> {
    for (name, target) in replay::TARGETS {
        let inputs = inputs(name)?;
        ensure!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            target(&input);
        }
    }
    Ok(())
}

#[test]
fn inputs_that_are_cut_short_or_changed_keep_every_promise_too() -> Result<()> {
    for (name, target) in replay::TARGETS {
        for input in inputs(name)?.into_iter().take(8) {
            for at in (0..input.len()).step_by(input.len() / 8 + 1) {
                target(&input[..at]);
                let mut changed = input.clone();
                changed[at] ^= 0x81;
                target(&changed);
            }
        }
    }
    Ok(())
}

#[test]
fn no_folder_of_the_corpus_is_without_its_target() -> Result<()> {
    for entry in fs::read_dir(corpus())? {
        let name = entry?.file_name();
        let known = replay::TARGETS.iter().any(|(target, _)| name.to_str() == Some(target));
        ensure!(known, "{} belongs to no target", name.display());
    }
    Ok(())
}

fn inputs(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = corpus().join(target);
    let mut files = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    files.into_iter().map(|file| Ok(fs::read(file)?)).collect()
}

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}
