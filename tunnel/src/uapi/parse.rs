//! The text of a `set` request.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use super::{AllowedIp, Errno, MAX_LINE, Set, SetPeer};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Reads the lines after `set=1`, without the empty line that ends them.
///
/// # Errors
/// [`Errno::Protocol`] for a line without `=` or an unknown key, [`Errno::Invalid`] for a bad
/// value, [`Errno::TooBig`] for a line beyond [`MAX_LINE`].
pub fn parse_set(lines: &str) -> Result<Set, Errno> {
    let mut set = Set::default();
    for line in lines.lines() {
        if line.len() > MAX_LINE {
            return Err(Errno::TooBig);
        }
        let (key, value) = line.split_once('=').ok_or(Errno::Protocol)?;
        if key == "public_key" {
            set.peers.push(SetPeer::new(public_key(value)?));
        } else if let Some(peer) = set.peers.last_mut() {
            peer.read(key, value)?;
        } else {
            set.read(key, value)?;
        }
    }
    Ok(set)
}

impl Set {
    fn read(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "private_key" => {
                let bytes = hex_key(value)?;
                self.private_key = Some((*bytes != [0; 32]).then(|| PrivateKey::from_bytes(*bytes)));
            }
            "listen_port" => self.listen_port = Some(value.parse().map_err(|_| Errno::Invalid)?),
            "fwmark" => self.fwmark = Some(number(value)?),
            "replace_peers" => self.replace_peers = yes(value)?,
            _ => return Err(Errno::Protocol),
        }
        Ok(())
    }
}

impl SetPeer {
    pub(super) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }

    fn read(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "remove" => self.remove = yes(value)?,
            "update_only" => self.update_only = yes(value)?,
            "preshared_key" => {
                let bytes = hex_key(value)?;
                self.preshared_key = Some((*bytes != [0; 32]).then(|| PresharedKey::from_bytes(*bytes)));
            }
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "persistent_keepalive_interval" => {
                self.keepalive = Some(value.parse().map_err(|_| Errno::Invalid)?);
            }
            "replace_allowed_ips" => self.replace_allowed_ips = yes(value)?,
            "allowed_ip" => self.allowed_ips.push(allowed_ip(value)?),
            "protocol_version" if value == "1" => {}
            "protocol_version" => return Err(Errno::Invalid),
            _ => return Err(Errno::Protocol),
        }
        Ok(())
    }
}

fn public_key(value: &str) -> Result<PublicKey, Errno> {
    PublicKey::from_bytes(*hex_key(value)?).map_err(|_| Errno::Invalid)
}

fn hex_key(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let (pairs, []) = value.as_bytes().as_chunks::<2>() else { return Err(Errno::Invalid) };
    let mut key = Zeroizing::new([0; 32]);
    if pairs.len() != key.len() {
        return Err(Errno::Invalid);
    }
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Ok(key)
}

fn nibble(digit: u8) -> Result<u8, Errno> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Errno::Invalid),
    }
}

fn yes(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::Invalid) }
}

fn number(value: &str) -> Result<u32, Errno> {
    match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => value.parse(),
    }
    .map_err(|_| Errno::Invalid)
}

fn endpoint(value: &str) -> Result<SocketAddr, Errno> {
    let address: SocketAddr = value.parse().map_err(|_| Errno::Invalid)?;
    let SocketAddr::V6(v6) = address else { return Ok(address) };
    Ok(v6.ip().to_ipv4_mapped().map_or(address, |v4| SocketAddr::new(IpAddr::V4(v4), v6.port())))
}

fn allowed_ip(value: &str) -> Result<AllowedIp, Errno> {
    let (is_removed, prefix) = value.strip_prefix('-').map_or((false, value), |prefix| (true, prefix));
    let prefix: IpNetwork = prefix.parse().map_err(|_| Errno::Invalid)?;
    // Host bits are ignored, as in `wg set`.
    let prefix = IpNetwork::new(prefix.network(), prefix.prefix()).map_err(|_| Errno::Invalid)?;
    Ok(if is_removed { AllowedIp::Remove(prefix) } else { AllowedIp::Add(prefix) })
}
