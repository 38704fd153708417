//! Finds out the edge's public address: from the kernel, or by asking for it.

use std::net::{IpAddr, Ipv4Addr};

use gateway::kernel::read_system;
use policy::gateway::{AddressSource, Policy};
use policy::prefix::is_special;

use super::exchange::exchange;
use super::failure::Failure;
use super::lookout::Unknown;
use super::own_address::own_address;
use super::update::question;
use crate::http::Http;

/// The longest page that is taken for an address.
const MAX_PAGE: usize = 64;

/// The public address now; `current` is the one that counts so far. It blocks.
///
/// # Errors
/// [`Unknown`], with what to do.
pub(super) fn find(
    policy: &Policy,
    source: &AddressSource,
    current: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Unknown> {
    let address = match source {
        AddressSource::Fixed(address) => return Ok(*address),
        AddressSource::Interface => {
            let system = read_system(&[]).map_err(|failure| Unknown::Temporary(failure.to_string()))?;
            return own_address(&system, policy, current);
        }
        AddressSource::Page(url) => page(url)?,
        AddressSource::Query { server, name } => {
            let asked = question(name, fastrand::u16(..), true)
                .and_then(|request| request.address(&exchange(server, &request.bytes)?));
            asked.map_err(|failure| match failure {
                Failure::Refused(reason) => Unknown::Lasting(format!("{source}: {reason}")),
                other @ (Failure::Unavailable { .. } | Failure::Outdated) => {
                    Unknown::Temporary(format!("{source}: {other}"))
                }
            })?
        }
    };
    if is_special(IpAddr::V4(address)) {
        return Err(Unknown::Lasting(format!(
            "{source} shows {address}, which is no address of the internet; write another one as [dns] address"
        )));
    }
    Ok(address)
}

fn page(url: &str) -> Result<Ipv4Addr, Unknown> {
    let http = Http::new(url, None).map_err(|error| Unknown::Lasting(error.message))?;
    let answer = http.send("GET", url, None).map_err(Unknown::Temporary)?;
    if answer.status != 200 {
        return Err(Unknown::Temporary(format!("[dns] address answered with status {}", answer.status)));
    }
    let text = answer.text.trim();
    let address = (text.len() <= MAX_PAGE).then(|| text.parse().ok()).flatten();
    address.ok_or_else(|| {
        Unknown::Lasting(
            "the page of [dns] address is not an IPv4 address alone; write the address of one that is"
                .to_owned(),
        )
    })
}
