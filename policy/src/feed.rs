//! Whether a fetched list of prefixes may replace the one in use.
//!
//! A faulty feed must neither open a service to everyone nor close it to everyone: an implausible
//! list is refused, and the last good list stays. The caller fetches and writes.

use std::path::Path;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::sections::parse_list;
use crate::{ConfigError, Source};

/// The largest text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Of 100 prefixes in use, how many a new text may lose.
pub const MAX_LOSS_PERCENT: usize = 30;
/// The shortest IPv4 prefix that is plausible: no provider's proxies fill more than a 256th of all
/// addresses.
pub const SHORTEST_V4: u8 = 8;
/// The shortest IPv6 prefix that is plausible; registries give their members nothing larger.
pub const SHORTEST_V6: u8 = 16;

/// Why a fetched text is refused; the list in use stays as it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// More than [`MAX_BYTES`].
    #[error("the feed has {bytes} bytes, more than {MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A page for people, such as a login form or an error.
    #[error("the feed is a web page, not a list of prefixes")]
    WebPage,
    /// No prefix at all.
    #[error("the feed holds no prefix")]
    Empty,
    /// A whole address family or an implausibly large part of one.
    #[error("the feed holds {prefix}, which is wider than any real range: nearly everyone would be allowed")]
    TooWide {
        /// The prefix.
        prefix: IpNetwork,
    },
    /// A range that no public client can have.
    #[error("the feed holds {prefix}, which is inside {special}, a range no public client can have")]
    NotPublic {
        /// The prefix.
        prefix: IpNetwork,
        /// The special range (RFC 6890 and its registries).
        special: IpNetwork,
    },
    /// A line that is not a prefix.
    #[error("{error}")]
    BadLine {
        /// The first such line.
        error: Box<ConfigError>,
    },
    /// Too much of what is in use would go.
    #[error(
        "the feed loses {lost} of the {known} prefixes in use, more than {MAX_LOSS_PERCENT} %; to accept it anyway, remove the list's file"
    )]
    Shrunk {
        /// Prefixes in use that the feed does not cover.
        lost: usize,
        /// Prefixes in use.
        known: usize,
    },
}

/// Compares a fetched text with the list in use, which is empty when there is none yet.
///
/// Returns the text of the new list file: one prefix per line, sorted, without doubles. A prefix in
/// use is not lost when the feed covers all its addresses, however they are cut.
///
/// # Errors
/// The first reason why the text is not plausible.
pub fn judge(fetched: &str, in_use: &[IpNetwork]) -> Result<String, Refusal> {
    if fetched.len() > MAX_BYTES {
        return Err(Refusal::TooLarge { bytes: fetched.len() });
    }
    if is_web_page(fetched) {
        return Err(Refusal::WebPage);
    }
    if let Some(prefix) = fetched.lines().filter_map(written_prefix).find(|prefix| is_too_wide(*prefix)) {
        return Err(Refusal::TooWide { prefix });
    }
    let source = Source { name: Path::new("feed"), text: fetched };
    let prefixes = parse_list(&source).map_err(|errors| match errors.into_iter().next() {
        Some(error) => Refusal::BadLine { error: Box::new(error) },
        None => Refusal::Empty,
    })?;
    if prefixes.is_empty() {
        return Err(Refusal::Empty);
    }
    if let Some((prefix, special)) = prefixes.iter().find_map(|&prefix| Some((prefix, special(prefix)?))) {
        return Err(Refusal::NotPublic { prefix, special });
    }
    let covered = Intervals::of(&prefixes);
    let lost = in_use.iter().filter(|&&prefix| !covered.cover(prefix)).count();
    if lost * 100 > in_use.len() * MAX_LOSS_PERCENT {
        return Err(Refusal::Shrunk { lost, known: in_use.len() });
    }
    Ok(prefixes.iter().map(|prefix| format!("{prefix}\n")).collect())
}

/// A byte-order mark or white space may precede the first tag.
fn is_web_page(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('<')
}

fn written_prefix(line: &str) -> Option<IpNetwork> {
    line.split('#').next()?.trim().parse().ok()
}

fn is_too_wide(prefix: IpNetwork) -> bool {
    match prefix {
        IpNetwork::V4(prefix) => prefix.prefix() < SHORTEST_V4,
        IpNetwork::V6(prefix) => prefix.prefix() < SHORTEST_V6,
    }
}

/// Ranges that are not globally reachable (the special-purpose registries of RFC 6890) or not
/// unicast.
const SPECIAL: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::/16",
    "64:ff9b::/48",
    "100::/48",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

fn special(prefix: IpNetwork) -> Option<IpNetwork> {
    let touches = |range: &IpNetwork| {
        range.is_ipv4() == prefix.is_ipv4()
            && (range.contains(prefix.network()) || prefix.contains(range.network()))
    };
    SPECIAL.iter().filter_map(|text| text.parse().ok()).find(touches)
}

/// Addresses as sorted, disjoint ranges of numbers; neighbours are joined.
struct Intervals {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Intervals {
    fn of(prefixes: &[IpNetwork]) -> Self {
        let family = |v4: bool| {
            let mut ranges: Vec<(u128, u128)> = prefixes
                .iter()
                .filter(|prefix| prefix.is_ipv4() == v4)
                .map(|&prefix| range(prefix))
                .collect();
            ranges.sort_unstable();
            let mut joined: Vec<(u128, u128)> = Vec::new();
            for (first, last) in ranges {
                match joined.last_mut() {
                    Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                    _ => joined.push((first, last)),
                }
            }
            joined
        };
        Self { v4: family(true), v6: family(false) }
    }

    fn cover(&self, prefix: IpNetwork) -> bool {
        let (first, last) = range(prefix);
        let ranges = if prefix.is_ipv4() { &self.v4 } else { &self.v6 };
        ranges.iter().any(|range| range.0 <= first && last <= range.1)
    }
}

fn range(prefix: IpNetwork) -> (u128, u128) {
    match prefix {
        IpNetwork::V4(prefix) => (prefix.network().to_bits().into(), prefix.broadcast().to_bits().into()),
        IpNetwork::V6(prefix) => (prefix.network().to_bits(), prefix.broadcast().to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../configs/lists/cloudflare.list");

    #[test]
    fn the_shipped_list_is_plausible_and_replaces_itself() {
        let in_use = shipped();
        assert_eq!(in_use.iter().filter(|prefix| prefix.is_ipv4()).count(), 15);
        assert_eq!(in_use.iter().filter(|prefix| prefix.is_ipv6()).count(), 7);

        let text = judge(SHIPPED, &in_use).unwrap();

        assert_eq!(judge(&text, &in_use).as_deref(), Ok(text.as_str()));
        assert_eq!(text.lines().count(), 22);
    }

    #[test]
    fn an_empty_feed_and_one_of_comments_are_refused() {
        for text in ["", "\n\n", "# nothing today\n"] {
            assert_eq!(judge(text, &shipped()), Err(Refusal::Empty), "{text:?}");
        }
    }

    #[test]
    fn a_web_page_is_refused() {
        for text in ["<!DOCTYPE html><html>", "\u{feff}\n <html>", "  <?xml version=\"1.0\"?>"] {
            assert_eq!(judge(text, &shipped()), Err(Refusal::WebPage), "{text:?}");
        }
    }

    #[test]
    fn everyone_and_nearly_everyone_are_refused() {
        for wide in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "96.0.0.0/7", "2000::/3", "2600::/15"] {
            let text = format!("{SHIPPED}{wide}\n");
            assert_eq!(judge(&text, &shipped()), Err(Refusal::TooWide { prefix: wide.parse().unwrap() }));
        }
        for at_the_limit in ["104.0.0.0/8", "2606::/16"] {
            assert!(judge(&format!("{SHIPPED}{at_the_limit}\n"), &shipped()).is_ok(), "{at_the_limit}");
        }
    }

    #[test]
    fn ranges_that_no_client_can_have_are_refused() {
        for private in
            ["192.168.88.0/24", "10.0.0.0/8", "127.0.0.1/32", "224.0.0.0/8", "fd00::/64", "fe80::/64"]
        {
            let refused = judge(&format!("{SHIPPED}{private}\n"), &shipped());
            assert!(matches!(refused, Err(Refusal::NotPublic { .. })), "{private}: {refused:?}");
        }
    }

    #[test]
    fn a_line_that_is_not_a_prefix_is_refused_with_its_place() {
        for bad in ["104.16.0.1/13", "cloudflare.com", "104.16.0.0/33", "{\"ip\": 1}"] {
            let refused = judge(&format!("104.24.0.0/14\n{bad}\n"), &[]).unwrap_err();
            assert!(refused.to_string().starts_with("feed:2:1"), "{refused}");
        }
    }

    #[test]
    fn three_prefixes_in_ten_may_go_and_not_four() {
        let ten: Vec<IpNetwork> = (1..=10).map(|n| format!("203.{n}.0.0/16").parse().unwrap()).collect();
        let text = |from: usize| ten.iter().skip(from).map(|p| format!("{p}\n")).collect::<String>();

        assert!(judge(&text(3), &ten).is_ok());
        assert_eq!(judge(&text(4), &ten), Err(Refusal::Shrunk { lost: 4, known: 10 }));
    }

    #[test]
    fn losing_a_whole_family_of_the_shipped_list_is_too_much() {
        let v4: String = shipped().iter().filter(|p| p.is_ipv4()).map(|p| format!("{p}\n")).collect();
        assert_eq!(judge(&v4, &shipped()), Err(Refusal::Shrunk { lost: 7, known: 22 }));
    }

    #[test]
    fn the_same_addresses_cut_otherwise_are_no_loss() {
        let in_use = ["104.16.0.0/13".parse().unwrap(), "172.64.0.0/14".parse().unwrap()];
        assert!(judge("104.16.0.0/14\n104.20.0.0/14\n172.64.0.0/13\n", &in_use).is_ok());
    }

    #[test]
    fn a_feed_at_the_size_limit_is_read_and_one_byte_more_is_not() {
        let mut text = format!("{SHIPPED}#");
        text.push_str(&"x".repeat(MAX_BYTES - text.len()));
        assert!(judge(&text, &shipped()).is_ok());
        text.push('x');
        assert_eq!(judge(&text, &shipped()), Err(Refusal::TooLarge { bytes: MAX_BYTES + 1 }));
    }

    fn shipped() -> Vec<IpNetwork> {
        parse_list(&Source { name: Path::new("cloudflare.list"), text: SHIPPED }).unwrap()
    }
}
