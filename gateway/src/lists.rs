//! `gatewayctl lists refresh`: a fetched list takes the old one's place when it is plausible; else
//! the old one stays.
//!
//! `causeway-agent` does the same once a day, by a user that may write nothing but the folder of the
//! lists. How texts are
//! fetched is the caller's: the daemon, which shares this crate, has no client for it.

use std::io::{self, Read};
use std::path::Path;

use ipnetwork::IpNetwork;
use policy::feed;
use policy::gateway::parse;
use policy::sections::{List, parse_list};
use policy::{FileLocation, Source};

use daemon::exit::{Exit, ExitError};
use daemon::files::{LoadError, Replacement, Target, read_text, sweep};

/// Judges a fetched text, from a file or standard input, and puts it in the place of the list's
/// file.
///
/// # Errors
/// [`Exit::Stale`] when the text is refused and the file is as it was, [`Exit::Failed`] when there
/// is none yet.
pub fn refresh_file(file: &Path, from: Option<&Path>) -> Result<String, ExitError> {
    let stop =
        |error: io::Error, what: &Path| ExitError::new(Exit::Failed, format!("{}: {error}", what.display()));
    let fetched = match from {
        Some(from) => read_text(from).map_err(|error| stop(error, from))?,
        None => {
            let limit = u64::try_from(feed::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
            let mut text = String::new();
            let read = io::stdin().lock().take(limit).read_to_string(&mut text);
            read.map_err(|error| stop(error, Path::new("standard input")))?;
            text
        }
    };
    take(file, Ok(fetched))
}

/// Fetches every list of the configuration that has a `url`, or those of them that are named; a
/// line for each.
///
/// # Errors
/// When one could not be renewed; the others are. [`Exit::Stale`] when an old file is in place for
/// each of them.
pub fn refresh_all(
    config: &Path,
    only: &[String],
    mut fetch: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<String>, ExitError> {
    let (mut lines, mut errors) = (Vec::new(), Vec::<ExitError>::new());
    for list in chosen(config, only)? {
        let FileLocation::Path(file) = &list.file.location else { continue };
        let texts: Result<Vec<_>, _> = list.urls.iter().map(|url| fetch(url)).collect();
        match take(file, texts.map(|texts| texts.join("\n"))) {
            Ok(line) => lines.push(format!("@{}: {line}", list.name)),
            Err(stop) => errors.push(ExitError::new(stop.exit, format!("@{}: {stop}", list.name))),
        }
    }
    if errors.is_empty() {
        return Ok(lines);
    }
    let worst = errors.iter().map(|stop| stop.exit).find(|exit| *exit != Exit::Stale);
    lines.extend(errors.iter().map(ToString::to_string));
    Err(ExitError::new(worst.unwrap_or(Exit::Stale), lines.join("\n")))
}

fn chosen(config: &Path, only: &[String]) -> Result<Vec<List>, ExitError> {
    let text = read_text(config)
        .map_err(|error| LoadError::Unreadable { path: config.display().to_string(), error })?;
    let policy = parse(&Source { name: config, text: &text }).map_err(LoadError::Invalid)?;
    let mut lists = policy.lists;
    lists.retain(|list| !list.urls.is_empty());
    if let Some(unknown) = only.iter().find(|name| !lists.iter().any(|list| list.name.as_str() == *name)) {
        let message = format!("{}: there is no list {unknown} with a url", config.display());
        return Err(ExitError::new(Exit::Usage, message));
    }
    lists.retain(|list| only.is_empty() || only.iter().any(|name| list.name.as_str() == name));
    Ok(lists)
}

/// Puts a plausible text in place; returns what was done.
fn take(file: &Path, fetched: Result<String, String>) -> Result<String, ExitError> {
    let in_use = in_use(file);
    let there = in_use.is_some();
    let in_use = in_use.unwrap_or_default();
    let judged = fetched.and_then(|text| feed::judge(&text, &in_use).map_err(|refusal| refusal.to_string()));
    let text = judged.map_err(|why| {
        let (exit, kept) =
            if there { (Exit::Stale, "kept as it is") } else { (Exit::Failed, "there is no list yet") };
        ExitError::new(exit, format!("{}: {kept}: {why}", file.display()))
    })?;
    replace(file, &text).map_err(|error| {
        let exit = if there { Exit::Stale } else { Exit::Failed };
        ExitError::new(exit, format!("{}: {error}", file.display()))
    })?;
    let prefixes = text.lines().count();
    let same =
        in_use.len() == prefixes && in_use.iter().zip(text.lines()).all(|(old, new)| old.to_string() == new);
    Ok(format!("{prefixes} prefixes, {}", if same { "as before" } else { "changed" }))
}

/// The prefixes of the list in use; `None` when there is no usable one.
fn in_use(file: &Path) -> Option<Vec<IpNetwork>> {
    let text = read_text(file).ok()?;
    parse_list(&Source { name: file, text: &text }).ok().filter(|prefixes| !prefixes.is_empty())
}

/// The new file takes the old one's place in one step; a reader sees the one or the other.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    if let (Some(folder), Some(name)) = (file.parent(), file.file_name()) {
        sweep(folder, &format!("{}.", name.to_string_lossy()));
    }
    Replacement::prepare(file, Target::own(0o644), text.as_bytes())?.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GOOD: &str = "104.16.0.0/13\n172.64.0.0/13\n131.0.72.0/22\n2606:4700::/32\n";

    #[test]
    fn a_list_is_replaced_by_a_plausible_text_only() {
        let folder = tempfile::tempdir().unwrap();
        let (file, from) = (folder.path().join("cloudflare.list"), folder.path().join("fetched"));
        let refresh = |text: &str| {
            fs::write(&from, text).unwrap();
            refresh_file(&file, Some(&from))
        };
        assert_eq!(refresh("").unwrap_err().exit, Exit::Failed, "there is nothing to fall back on");
        assert!(refresh(GOOD).unwrap().ends_with("changed"));
        assert!(refresh(GOOD).unwrap().ends_with("as before"));
        let before = fs::read_to_string(&file).unwrap();
        for bad in ["", "<html>", "0.0.0.0/0\n", "::/0\n", "104.16.0.0/13\n172.64.0.0/13\n"] {
            assert_eq!(refresh(bad).unwrap_err().exit, Exit::Stale, "{bad:?}");
            assert_eq!(fs::read_to_string(&file).unwrap(), before);
        }
    }

    #[test]
    fn lists_with_an_address_are_fetched_and_one_failure_keeps_no_other_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gateway.toml");
        let list = |name: &str, urls: &str| {
            format!("[[list]]\nname = \"{name}\"\nfile = \"{name}.list\"\nurl = {urls}\n")
        };
        let text = format!(
            "{}\n{}{}",
            include_str!("../../configs/gateway.toml"),
            list("good", "[\"https://lists.example/v4\", \"https://lists.example/v6\"]"),
            list("bad", "\"https://lists.example/bad\""),
        );
        fs::write(&config, text).unwrap();
        fs::write(folder.path().join("bad.list"), GOOD).unwrap();
        let (v4, v6) = GOOD.split_at(GOOD.find("2606").unwrap());
        let fetch = |url: &str| match url.rsplit('/').next() {
            Some("v4") => Ok(v4.to_owned()),
            Some("v6") => Ok(v6.to_owned()),
            _ => Err("503".to_owned()),
        };
        let only = ["good".to_owned(), "bad".to_owned()];
        let stop = refresh_all(&config, &only, fetch).unwrap_err();
        assert_eq!(stop.exit, Exit::Stale, "{stop}");
        assert!(
            stop.message.contains("@bad") && stop.message.contains("@good: 4 prefixes, changed"),
            "{stop}"
        );
        let written = fs::read_to_string(folder.path().join("good.list")).unwrap();
        assert!(GOOD.lines().all(|line| written.contains(line)));
        assert_eq!(refresh_all(&config, &only[..1], fetch).unwrap(), ["@good: 4 prefixes, as before"]);
        assert_eq!(refresh_all(&config, &["partners".to_owned()], fetch).unwrap_err().exit, Exit::Usage);
    }
}
