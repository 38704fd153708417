//! Waiting for something to become true, never for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// How often a condition is checked.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it has an answer or `limit` is over.
///
/// `Ok(None)` means not yet. An error also means not yet; the last one is quoted when time is up.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let answer = probe();
        let late = start.elapsed() >= limit;
        match answer {
            Ok(Some(value)) => return Ok(value),
            Err(error) if late => return Err(error).with_context(|| timeout(limit, what)),
            Ok(None) if late => return Err(anyhow!(timeout(limit, what))),
            Ok(None) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// As [`until`], and answers how long it took.
pub fn time_until(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    until(limit, what, || Ok(probe()?.then_some(())))?;
    Ok(start.elapsed())
}

fn timeout(limit: Duration, what: &str) -> String {
    format!("waited {limit:?} for {what}")
}
