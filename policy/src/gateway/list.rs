//! The text of a list file: one prefix per line, comments after `#`.

use ipnetwork::IpNetwork;

use super::List;
use crate::reader::{MAX_ITEMS, Reader, excerpt};
use crate::{ConfigError, Problem, Source, text};

impl List {
    /// Takes the prefixes of the list's file.
    ///
    /// # Errors
    /// Every bad line at once; the list keeps the prefixes it had.
    pub fn load(&mut self, source: &Source<'_>) -> Result<(), Vec<ConfigError>> {
        self.prefixes = parse_list(source)?;
        Ok(())
    }
}

/// Reads a list file: one prefix per line, sorted and without doubles; host bits are an error, and so is a whole
/// address family.
///
/// # Errors
/// Every bad line at once.
pub fn parse_list(source: &Source<'_>) -> Result<Vec<IpNetwork>, Vec<ConfigError>> {
    let reader = Reader::new(source);
    let mut prefixes = Vec::new();
    let mut offset = 0;
    for line in source.text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default();
        let written = content.trim();
        if !written.is_empty() {
            let indent = content.len() - content.trim_start().len();
            match prefix(written) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => reader.report(offset + indent, problem),
            }
        }
        offset += line.len();
        if prefixes.len() > MAX_ITEMS {
            reader.report(offset, Problem::TooMany { what: "list", limit: MAX_ITEMS });
            break;
        }
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    reader.finish(Some(prefixes)).map(|(prefixes, _)| prefixes)
}

fn prefix(written: &str) -> Result<IpNetwork, Problem> {
    let prefix = text::prefix(written).ok_or_else(|| Problem::BadListLine { written: excerpt(written) })?;
    let network = text::network(prefix);
    if network != prefix {
        return Err(Problem::HostBits { written: prefix.to_string(), network: network.to_string() });
    }
    if prefix.prefix() == 0 {
        return Err(Problem::ListHoldsEverything { prefix: prefix.to_string() });
    }
    Ok(prefix)
}
