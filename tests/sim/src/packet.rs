//! Inner packets that can be distinguished.

use std::net::Ipv4Addr;

const PROTOCOL: u8 = 253;
const LEN: usize = 28;

/// An IPv4 packet whose content is its number, twice.
#[must_use]
pub fn numbered(from: &str, to: &str, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; LEN + 8];
    bytes[0] = 0x45;
    bytes[3] = bytes.len() as u8;
    bytes[8] = 64;
    bytes[9] = PROTOCOL;
    bytes[12..16].copy_from_slice(&from.parse::<Ipv4Addr>().expect("an address").octets());
    bytes[16..20].copy_from_slice(&to.parse::<Ipv4Addr>().expect("an address").octets());
    bytes[20..28].copy_from_slice(&number.to_be_bytes());
    bytes[28..36].copy_from_slice(&(!number).to_be_bytes());
    bytes
}

/// The number of a packet that is exactly as it was made.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.get(20..28)?.try_into().ok()?);
    let check = u64::from_be_bytes(bytes.get(28..36)?.try_into().ok()?);
    (bytes.len() == LEN + 8 && bytes[9] == PROTOCOL && check == !number).then_some(number)
}
