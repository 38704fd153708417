//! The text of `wg show all dump`.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tunnel::uapi::{PeerSnapshot, Snapshot};

/// One line for the interface, one for each peer, fields separated by tabs.
///
/// Private and preshared keys are `(hidden)` unless `show_keys`; a missing one is `(none)` either
/// way.
#[must_use]
pub(super) fn dump(name: &str, device: &Snapshot, show_keys: bool) -> String {
    let private = secret(device.private_key.as_ref().map(tunnel::key::PrivateKey::as_bytes), show_keys);
    let public = device.private_key.as_ref().map_or_else(none, |key| key.public().to_string());
    let mark = if device.fwmark == 0 { "off".to_owned() } else { format!("{:#x}", device.fwmark) };
    let mut text = format!("{name}\t{private}\t{public}\t{}\t{mark}\n", device.listen_port);
    for peer in &device.peers {
        write_peer(&mut text, name, peer, show_keys);
    }
    text
}

fn write_peer(text: &mut String, name: &str, peer: &PeerSnapshot, show_keys: bool) {
    let preshared = secret(peer.preshared_key.as_ref().map(tunnel::key::PresharedKey::as_bytes), show_keys);
    let endpoint = peer.endpoint.map_or_else(none, |endpoint| endpoint.to_string());
    let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    let prefixes = if prefixes.is_empty() { none() } else { prefixes.join(",") };
    let handshake = peer.latest_handshake.unwrap_or_default().as_secs();
    let keepalive = match peer.keepalive.unwrap_or_default().as_secs() {
        0 => "off".to_owned(),
        seconds => seconds.to_string(),
    };
    let _ = writeln!(
        text,
        "{name}\t{}\t{preshared}\t{endpoint}\t{prefixes}\t{handshake}\t{}\t{}\t{keepalive}",
        peer.public_key, peer.rx_bytes, peer.tx_bytes,
    );
}

fn secret(key: Option<&[u8; 32]>, show: bool) -> String {
    match key {
        None => none(),
        Some(key) if show => STANDARD.encode(key),
        Some(_) => "(hidden)".to_owned(),
    }
}

fn none() -> String {
    "(none)".to_owned()
}

#[cfg(test)]
mod tests {
    use tunnel::key::{PresharedKey, PrivateKey};

    use super::*;

    #[test]
    fn the_dump_has_the_fields_of_wg_and_hides_keys() {
        let text = dump("gw0", &example(), false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines[0].len(), 5);
        assert_eq!((lines[0][1], lines[0][3], lines[0][4]), ("(hidden)", "51820", "0x4357"));
        assert_eq!(lines[1].len(), 9);
        assert_eq!(lines[1][2..], ["(hidden)", "(none)", "10.77.88.2/32", "0", "5", "6", "off"]);
    }

    #[test]
    fn keys_are_shown_to_those_who_may_ask() {
        let text = dump("gw0", &example(), true);
        assert!(!text.contains("(hidden)"));
        assert!(text.contains(&STANDARD.encode([9; 32])));
    }

    fn example() -> Snapshot {
        let peer = PeerSnapshot {
            public_key: PrivateKey::from_bytes([3; 32]).public(),
            preshared_key: Some(PresharedKey::from_bytes([9; 32])),
            endpoint: None,
            keepalive: None,
            allowed_ips: vec!["10.77.88.2/32".parse().unwrap()],
            latest_handshake: None,
            rx_bytes: 5,
            tx_bytes: 6,
        };
        Snapshot {
            private_key: Some(PrivateKey::from_bytes([1; 32])),
            listen_port: 51820,
            fwmark: 0x4357,
            peers: vec![peer],
        }
    }
}
