//! The four words that both operators compare, and what binds the edge before it knows who joins.
//!
//! Whoever sits between the two ends has a pairing of its own with each of them, and its words with
//! both would have to be equal. It cannot choose them: the edge is bound to its nonce and its terms
//! before it sees the joiner's nonce, and the joiner has sent its key and nonce before it sees the
//! edge's. What is left is one guess among 2^44.

use std::fmt;

use tunnel::key::PublicKey;

use super::code::Code;
use super::hash::digest;
use super::message::Offer;
use crate::link::message::Bytes;

/// How many words.
const COUNT: usize = 4;
/// Bits of each word.
const BITS: usize = 11;

/// Four words of 11 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words([&'static str; COUNT]);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// The words that all of these are chosen from: BIP 39's English list.
#[must_use]
pub fn word_list() -> &'static [&'static str; 1 << BITS] {
    bip39::Language::English.word_list()
}

/// What the edge is bound to.
pub(super) struct Opening<'a> {
    /// Its nonce.
    pub(super) nonce: &'a Bytes<32>,
    /// Its terms, as they are sent.
    pub(super) terms: &'a str,
}

impl Opening<'_> {
    /// What is sent before it.
    pub(super) fn commitment(&self, code: &Code) -> Bytes<32> {
        let label = b"causeway pairing v1 commitment";
        Bytes(digest(label, &[&code.public_part(), &self.nonce.0, self.terms.as_bytes()]))
    }

    /// The words of one pairing: they cover everything that both ends have sent, and the code.
    pub(super) fn words(&self, code: &Code, offer: &Offer, joiner: &PublicKey) -> Words {
        let parts: [&[u8]; 7] = [
            &code.public_part(),
            joiner.as_bytes(),
            &self.nonce.0,
            &offer.nonce.0,
            self.terms.as_bytes(),
            offer.name.as_str().as_bytes(),
            offer.version.as_str().as_bytes(),
        ];
        of_digest(&digest(b"causeway pairing v1 words", &parts))
    }
}

fn of_digest(digest: &[u8; 32]) -> Words {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    let bits = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let list = word_list();
    Words(std::array::from_fn(|place| {
        let index = (bits >> (64 - (place + 1) * BITS)) & ((1 << BITS) - 1);
        usize::try_from(index).ok().and_then(|index| list.get(index)).copied().unwrap_or_default()
    }))
}

#[cfg(test)]
mod tests {
    use policy::Name;
    use std::collections::BTreeSet;

    use super::super::example::{code, offer};
    use super::*;

    #[test]
    fn the_first_44_bits_choose_the_words() {
        let list = bip39::Language::English.word_list();
        assert_eq!(of_digest(&[0; 32]).to_string(), "abandon abandon abandon abandon");
        assert_eq!(of_digest(&[0xff; 32]).to_string(), "zoo zoo zoo zoo");
        let mut digest = [0; 32];
        digest[5] = 0b0001_0000;
        assert_eq!(of_digest(&digest).0, [list[0], list[0], list[0], list[1]], "the last bit of 44");
        digest[5] = 0b0000_1111;
        assert_eq!(of_digest(&digest).0, [list[0]; 4], "what is behind them does not count");
    }

    #[test]
    fn whatever_is_altered_alters_the_words() {
        let (code, nonce, terms) = (code(), Bytes([1; 32]), r#"{"peer":"wroclaw"}"#);
        let opening = Opening { nonce: &nonce, terms };
        let offer = offer();
        let words = |opening: &Opening<'_>, code: &Code, offer: &Offer| {
            opening.words(code, offer, &PublicKey::from_bytes(offer.key.0).unwrap()).to_string()
        };
        let mut seen = BTreeSet::from([words(&opening, &code, &offer)]);
        let mut is_new = |words: String| assert!(seen.insert(words.clone()), "{words}");

        is_new(words(&Opening { nonce: &Bytes([2; 32]), ..opening }, &code, &offer));
        is_new(words(&Opening { terms: r#"{"peer":"Wroclaw"}"#, ..opening }, &code, &offer));
        let name = Name::new("mac").unwrap();
        for other in [
            Offer { nonce: Bytes([9; 32]), ..offer.clone() },
            Offer { key: Bytes([9; 32]), ..offer.clone() },
            Offer { name: name.clone(), ..offer.clone() },
            Offer { version: name.clone(), ..offer.clone() },
        ] {
            is_new(words(&opening, &code, &other));
        }
        let port = policy::text::host_port("192.0.2.66:51820").unwrap();
        for other in [
            Code { one_time: tunnel::key::PrivateKey::from_bytes([9; 32]), ..code.clone() },
            Code { edge_key: tunnel::key::PrivateKey::from_bytes([9; 32]).public(), ..code.clone() },
            Code { edge: name, ..code.clone() },
            Code { endpoints: vec![port], ..code.clone() },
            Code { edge_address: "10.77.88.9".parse().unwrap(), ..code.clone() },
            Code { address: "10.77.88.253/24".parse().unwrap(), ..code.clone() },
            Code { link_port: 1, ..code.clone() },
        ] {
            is_new(words(&opening, &other, &offer));
        }
    }
}
