//! What the archives of a release contain, and that their installers find it. Programs are stand-ins,
//! so that nothing is compiled; what needs a Mac is not run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

#[test]
fn an_archive_of_static_programs_is_a_tree_in_which_the_installer_works() -> Result<()> {
    let folder = Folder::new("static")?;
    let tree = folder.0.join("causeway-0.1.0-linux-amd64");
    run(Command::new(script("packaging/archive")).arg(&tree))?;
    let programs = tree.join("bin");
    stand_ins(&programs, &["gateway", "gatewayctl", "forwarder", "causeway", "causeway-agent", "stackctl"])?;
    for end in ["gateway", "forwarder"] {
        let (from_archive, from_source) = (folder.0.join("a").join(end), folder.0.join("s").join(end));
        run(Command::new(tree.join("scripts/install")).arg(end).env("DESTDIR", &from_archive))?;
        let mut source = Command::new(script("scripts/install"));
        run(source.arg(end).env("DESTDIR", &from_source).env("BINARIES", &programs))?;
        let installed = files(&from_archive)?;
        ensure!(installed.contains_key(&PathBuf::from(format!("usr/local/bin/{end}"))), "{installed:?}");
        ensure!(installed == files(&from_source)?, "{end}: the archive and the source tree differ");
    }
    Ok(())
}

#[test]
fn the_archive_for_macs_installs_what_it_contains_and_nothing_that_writing_it_left() -> Result<()> {
    let folder = Folder::new("macos")?;
    let programs = folder.0.join("programs");
    stand_ins(&programs, &["forwarder", "causeway", "stackctl"])?;
    let mut build = Command::new(script("packaging/macos/build"));
    build.env("PROGRAMS", &programs).env("OUT", &folder.0).env("VERSION", "0.1.0").env("TAR", "bsdtar");
    run(&mut build)?;
    let archive = folder.0.join("causeway-0.1.0-macos.tar.gz");
    run(Command::new("sha256sum")
        .args(["--check", "--strict"])
        .arg(archive.with_extension("gz.sha256"))
        .current_dir(&folder.0))?;
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&folder.0))?;
    let tree = folder.0.join("causeway-0.1.0-macos");
    let root = folder.0.join("root");
    run(Command::new(tree.join("install")).env("DESTDIR", &root))?;
    let installed = files(&root.join("usr/local"))?;
    for (file, mode) in [
        ("bin/forwarder", 0o755),
        ("bin/causeway", 0o755),
        ("bin/stackctl", 0o755),
        ("share/causeway/NOTICES", 0o644),
        ("share/causeway/docs/OPERATIONS.md", 0o644),
        ("share/causeway/examples/forwarder.toml", 0o644),
        ("share/causeway/launchd/com.causeway.forwarder.plist", 0o644),
    ] {
        ensure!(installed.get(Path::new(file)) == Some(&mode), "{file}: {installed:?}");
    }
    let new = installed.keys().find(|file| file.extension().is_some_and(|extension| extension == "new"));
    ensure!(new.is_none(), "{new:?}");
    for name in ["install", "uninstall"] {
        let refused = Command::new(tree.join(name)).output()?;
        ensure!(refused.status.code() == Some(1), "{name} on Linux: {refused:?}");
        ensure!(String::from_utf8_lossy(&refused.stderr).contains("macOS"), "{refused:?}");
    }
    Ok(())
}

#[test]
fn the_formula_has_no_word_left_to_fill_in() -> Result<()> {
    let (homepage, url) = ("https://example.com/causeway", "https://example.com/causeway-0.2.0-macos.tar.gz");
    let sum = "ab".repeat(32);
    let formula =
        run(Command::new(script("packaging/homebrew/formula")).args([homepage, url, "0.2.0", &sum]))?;
    for line in [
        format!("  homepage \"{homepage}\"\n"),
        format!("  url \"{url}\"\n"),
        "  version \"0.2.0\"\n".to_owned(),
        format!("  sha256 \"{sum}\"\n"),
    ] {
        ensure!(formula.contains(&line), "{line} is not in\n{formula}");
    }
    for word in ["HOMEPAGE", "URL", "VERSION", "SHA256"] {
        ensure!(!formula.contains(word), "{word} is left in\n{formula}");
    }
    Ok(())
}

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("causeway-archives-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn script(path: &str) -> PathBuf {
    lab::workspace().join(path)
}

/// Runs a command to its end with status 0; its standard output.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn stand_ins(folder: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in names {
        fs::write(folder.join(name), format!("#!/bin/sh\necho {name}\n"))?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Every file below a folder, with its mode.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, u32>> {
    let listed = run(Command::new("find").arg(folder).args(["-type", "f", "-printf", "%P\\n"]))?;
    let mode =
        |file: &str| -> Result<u32> { Ok(fs::metadata(folder.join(file))?.permissions().mode() & 0o777) };
    let entry = |file: &str| -> Result<(PathBuf, u32)> { Ok((PathBuf::from(file), mode(file)?)) };
    listed.lines().map(entry).collect()
}
