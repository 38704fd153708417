//! What the tests of this folder begin with.

use policy::Name;
use tunnel::key::PrivateKey;

use super::code::Code;
use super::message::{Offer, Terms};
use crate::link::message::Bytes;

pub(super) fn code() -> Code {
    Code {
        one_time: PrivateKey::from_bytes([5; 32]),
        edge_key: PrivateKey::from_bytes([1; 32]).public(),
        edge: name("kyiv"),
        endpoints: vec![policy::text::host_port("kyiv.example.com:51820").unwrap()],
        edge_address: "10.77.88.1".parse().unwrap(),
        address: "10.77.88.254/24".parse().unwrap(),
        link_port: 51_899,
    }
}

pub(super) fn terms() -> Terms {
    Terms {
        peer: name("wroclaw"),
        version: name("0.1.0"),
        addresses: vec!["10.77.88.2/24".parse().unwrap()],
        may_publish: ["80", "443", "443/udp"].map(str::to_owned).to_vec(),
        preshared_key: false,
        next_key: None,
    }
}

pub(super) fn offer() -> Offer {
    let key = PrivateKey::from_bytes([2; 32]).public();
    Offer { key: Bytes(*key.as_bytes()), nonce: Bytes([4; 32]), name: name("mini"), version: name("0.1.0") }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}
