//! `manual FOLDER`: writes the man pages and shell completions of every program into a folder, made
//! from the command lines that the programs parse. It is not shipped; `packaging/build` runs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, Parser};
use clap_complete::Shell;

/// Write the man pages and shell completions of every program.
#[derive(Parser)]
struct Arguments {
    /// Write to this folder; create it if missing.
    folder: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { folder } = Arguments::parse();
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn programs() -> Vec<Command> {
    let programs = vec![causeway::cli::command(), forwarder::cli::command(), stackctl::cli::Cli::command()];
    #[cfg(target_os = "linux")]
    let programs =
        programs.into_iter().chain(gateway::cli::commands()).chain([agent::cli::command()]).collect();
    programs
}

/// Writes a page for each program and each of its commands, `NAME.1` and `NAME-COMMAND.1`, and the
/// completions for each shell, named as the shell looks for them.
fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for mut program in programs() {
        clap_mangen::generate_to(program.clone(), folder)?;
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            clap_complete::generate_to(shell, &mut program, &name, folder)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages below SEE ALSO and in lists of commands, as `gateway\-check(1)`.
    fn named(page: &str) -> Vec<String> {
        let plain = page.replace('\\', "");
        let ends = plain.match_indices("(1)").map(|(end, _)| end);
        let word = |end| plain.get(..end)?.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '-').next();
        ends.filter_map(word).map(str::to_owned).collect()
    }

    #[test]
    fn every_program_has_a_page_and_completions_and_every_page_that_one_names_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("written");
        for program in ["causeway", "forwarder", "gateway", "gatewayctl", "stackctl"] {
            let page = fs::read_to_string(folder.path().join(format!("{program}.1"))).expect(program);
            let named = named(&page);
            assert!(!named.is_empty(), "{program}.1 names no page of a command");
            for other in named {
                assert!(folder.path().join(format!("{other}.1")).exists(), "{program}.1 names {other}(1)");
            }
            for file in [format!("{program}.bash"), format!("{program}.fish"), format!("_{program}")] {
                let text = fs::read_to_string(folder.path().join(&file)).expect(&file);
                assert!(text.contains(program), "{file}");
            }
        }
    }

    #[test]
    fn commands_that_only_the_daemon_starts_are_not_documented() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("written");
        assert!(!folder.path().join("gateway-kernel-helper.1").exists());
        let page = fs::read_to_string(folder.path().join("gateway.1")).expect("a page");
        assert!(!page.contains("kernel"), "{page}");
    }
}
