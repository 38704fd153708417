//! Banned sources.

use std::net::IpAddr;

use daemon::exit::{Exit, ExitError};
use serde_json::json;

use super::blocking::blocking;
use super::meter::parse_bans;
use crate::control::report::{Bans, SCHEMA};
use crate::kernel::{Failure, Helper, Listing, nft};

/// The longest ban with an end: a year, in seconds.
const LONGEST_BAN: u64 = 31_536_000;

/// The banned sources.
///
/// # Errors
/// What `nft` said.
pub(super) async fn list(helper: &Helper) -> Result<Bans, Failure> {
    let mut bans = Vec::new();
    for what in [Listing::Bans4, Listing::Bans6] {
        let helper = helper.clone();
        bans.extend(parse_bans(&blocking(move || helper.list(what)).await?));
    }
    Ok(Bans { schema: SCHEMA, bans })
}

/// Bans a source, for some seconds or permanently.
///
/// # Errors
/// [`Exit::Usage`] for a time that is none, else what `nft` said.
pub(super) async fn ban(helper: &Helper, address: IpAddr, seconds: Option<u64>) -> Result<(), ExitError> {
    let address = address.to_canonical();
    let element = match seconds {
        Some(seconds) if (1..=LONGEST_BAN).contains(&seconds) => {
            json!({"elem": {"val": address, "timeout": seconds}})
        }
        Some(_) => {
            let message =
                format!("a ban lasts from 1 to {LONGEST_BAN} seconds, or permanently without a time");
            return Err(ExitError::new(Exit::Usage, message));
        }
        None => json!(address),
    };
    Ok(change(helper, "add", address, &element).await?)
}

/// Lifts a ban.
///
/// # Errors
/// What `nft` said, as when there is no such ban.
pub(super) async fn unban(helper: &Helper, address: IpAddr) -> Result<(), Failure> {
    let address = address.to_canonical();
    change(helper, "delete", address, &json!(address)).await
}

async fn change(
    helper: &Helper,
    verb: &str,
    address: IpAddr,
    element: &serde_json::Value,
) -> Result<(), Failure> {
    let set = if address.is_ipv4() { "bans4" } else { "bans6" };
    let object = json!({"family": nft::FAMILY, "table": nft::TABLE, "name": set, "elem": [element]});
    let ruleset = json!({"nftables": [{verb: {"element": object}}]}).to_string();
    let helper = helper.clone();
    blocking(move || helper.apply_ruleset(ruleset)).await
}
