//! Instructions, counted by callgrind.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::hot::Loop;

/// Turns a loop; [`instructions`] counts what happens in here alone.
///
/// # Errors
/// The loop is broken.
#[inline(never)]
pub fn counted_turns(hot: &mut Loop, turns: u32) -> Result<()> {
    for _ in 0..turns {
        hot.turn().context("the loop is broken")?;
    }
    Ok(())
}

/// What this program executes in [`counted_turns`] when it is called with these arguments.
///
/// # Errors
/// There is no valgrind, or the program failed.
pub fn instructions(arguments: &[&str]) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_turns*"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .output()
        .context("valgrind: run benches/packages")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", arguments.join(" "));
    collected(&said)
}

fn collected(said: &str) -> Result<u64> {
    let (_, number) = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .with_context(|| format!("callgrind counted nothing: {said}"))?;
    let number = number.trim().parse()?;
    ensure!(number > 0, "callgrind saw no turn: the program has no symbols, or another name for them");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_callgrind_says_and_no_count_is_an_error() {
        let said = |number| format!("==7== Events    : Ir\n==7== Collected : {number}\n==7==\n");
        assert_eq!(collected(&said("1234")).unwrap(), 1234);
        assert!(collected(&said("0")).is_err());
        assert!(collected("==7== nothing").is_err());
    }
}
