//! The proof of identity that a link begins with: both ends hold their WireGuard key.
//!
//! Each end sends a nonce and the newest schema that it knows, and then a MAC over the role of its
//! sender, both nonces, both public keys, both schemas and who it is. The key of the MAC comes from
//! the secret that the two static keys share and the preshared key, so that no other holder of a
//! source address can make one, and none can be used twice, sent back, or keep the two ends from
//! the newest schema that both know.

use ring::hmac;
use tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::message::{About, Bytes, Greeting};

/// Separates the key of the MAC from other uses of the same keys.
const LABEL: &[u8] = b"causeway link v1";

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that dials.
    Origin,
    /// The end that is dialled.
    Edge,
}

impl Role {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Origin => Self::Edge,
            Self::Edge => Self::Origin,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Origin => 1,
            Self::Edge => 2,
        }
    }
}

/// The key of the MACs between two ends; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

/// Who the two ends of a link are, as one of them has it.
#[derive(Clone)]
pub struct Identity {
    own: PublicKey,
    far: PublicKey,
    secret: Secret,
}

impl Identity {
    /// The identity of a link between the owners of these keys.
    #[must_use]
    pub fn new(own: &PrivateKey, far: &PublicKey, preshared: Option<&PresharedKey>) -> Self {
        let mut material = Zeroizing::new([0; 64]);
        let (shared, psk) = material.split_at_mut(32);
        shared.copy_from_slice(own.agree(far).as_slice());
        // WireGuard's own reading of no preshared key is one of zeros.
        psk.copy_from_slice(preshared.map_or([0; 32].as_slice(), |key| key.as_bytes()));
        Self { own: own.public(), far: *far, secret: expand(material.as_slice(), LABEL) }
    }
}

/// HKDF-SHA256 (RFC 5869) without a salt, of one block: its first 32 bytes.
fn expand(material: &[u8], info: &[u8]) -> Secret {
    let pseudorandom = sign(&[0; 32], &[material]);
    sign(&pseudorandom.0, &[info, &[1]])
}

/// HMAC-SHA256 of the parts, one after the other.
fn sign(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut mac = [0; 32];
    mac.copy_from_slice(context.sign().as_ref());
    Secret(mac)
}

/// What both ends have sent before their hellos.
#[derive(Clone, Copy, Debug)]
pub struct Greetings {
    /// This end's.
    pub own: Greeting,
    /// The other end's.
    pub far: Greeting,
}

impl Greetings {
    /// The schema of the link: the newest that both ends know; `None` when there is none.
    #[must_use]
    pub fn schema(&self) -> Option<u32> {
        Some(self.own.schema.min(self.far.schema)).filter(|schema| *schema > 0)
    }
}

/// Makes and judges the proofs of one link, seen from the end in a role.
pub struct Proof<'a> {
    /// The two ends.
    pub identity: &'a Identity,
    /// The role of this end.
    pub role: Role,
    /// What was sent before.
    pub greetings: &'a Greetings,
}

impl Proof<'_> {
    /// The proof that this end sends.
    #[must_use]
    pub fn make(&self, about: &About) -> Bytes<32> {
        Bytes(sign(&self.identity.secret.0, &[&self.covered(self.role, about)]).0)
    }

    /// Whether the other end's proof is right; compared in constant time.
    #[must_use]
    pub fn is_right(&self, about: &About, mac: &Bytes<32>) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.identity.secret.0);
        hmac::verify(&key, &self.covered(self.role.other(), about), &mac.0).is_ok()
    }

    /// What a proof by the end in the role `sender` covers: every part has a fixed or a stated
    /// length.
    fn covered(&self, sender: Role, about: &About) -> Vec<u8> {
        let Greetings { own, far } = self.greetings;
        let Identity { own: own_key, far: far_key, .. } = self.identity;
        let (nonces, keys, schemas) = match self.role {
            Role::Origin => ([own.nonce, far.nonce], [own_key, far_key], [own.schema, far.schema]),
            Role::Edge => ([far.nonce, own.nonce], [far_key, own_key], [far.schema, own.schema]),
        };
        let mut covered = LABEL.to_vec();
        covered.push(sender.byte());
        covered.extend(nonces.iter().flat_map(|nonce| nonce.0));
        covered.extend(keys.iter().flat_map(|key| key.as_bytes()));
        covered.extend(schemas.iter().flat_map(|schema| schema.to_be_bytes()));
        covered.extend(about.instance.0);
        for text in [&about.version, &about.name].into_iter().chain(&about.capabilities) {
            // A name has at most 32 characters.
            covered.push(u8::try_from(text.as_str().len()).unwrap_or(u8::MAX));
            covered.extend(text.as_str().bytes());
        }
        covered
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy::Name;

    use super::*;

    /// Both ends of a link, as far as a proof depends on them.
    struct Ends {
        origin: Identity,
        edge: Identity,
    }

    #[test]
    fn the_key_is_derived_as_rfc_5869_says() {
        // Its test case 3: no salt, no info.
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
        let key = expand(&[0x0b; 22], b"");
        assert_eq!(key.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn each_end_accepts_the_proof_of_the_other() {
        let ends = ends(None, None);
        let mac = origin(&ends, &greetings(1, 1)).make(&about());
        assert!(edge(&ends, &turned(greetings(1, 1))).is_right(&about(), &mac));
        let mac = edge(&ends, &turned(greetings(1, 1))).make(&about());
        assert!(origin(&ends, &greetings(1, 1)).is_right(&about(), &mac));
    }

    #[test]
    fn a_proof_that_is_sent_back_is_refused() {
        let ends = ends(None, None);
        let mac = origin(&ends, &greetings(1, 1)).make(&about());
        assert!(!origin(&ends, &greetings(1, 1)).is_right(&about(), &mac));
        let mut same = greetings(1, 1);
        same.far.nonce = same.own.nonce;
        let mac = origin(&ends, &same).make(&about());
        assert!(!origin(&ends, &same).is_right(&about(), &mac), "not even with one nonce for both");
    }

    #[test]
    fn a_proof_for_other_nonces_is_refused() {
        let ends = ends(None, None);
        let mac = origin(&ends, &greetings(1, 1)).make(&about());
        let mut later = turned(greetings(1, 1));
        later.own.nonce = Bytes([9; 32]);
        assert!(!edge(&ends, &later).is_right(&about(), &mac));
    }

    #[test]
    fn a_schema_that_was_lowered_on_the_way_is_refused() {
        let ends = ends(None, None);
        let mac = origin(&ends, &greetings(2, 2)).make(&about());
        assert!(!edge(&ends, &turned(greetings(1, 2))).is_right(&about(), &mac));
        assert!(!edge(&ends, &turned(greetings(2, 1))).is_right(&about(), &mac));
    }

    #[test]
    fn a_newer_end_talks_down_to_an_older_one() {
        assert_eq!(greetings(3, 1).schema(), Some(1));
        assert_eq!(greetings(1, 3).schema(), Some(1));
        assert_eq!(greetings(1, 0).schema(), None);
    }

    #[test]
    fn another_key_another_preshared_key_and_one_on_one_side_only_are_refused() {
        let (one, two) = (PresharedKey::from_bytes([1; 32]), PresharedKey::from_bytes([2; 32]));
        for (at_origin, at_edge) in [(Some(&one), None), (None, Some(&one)), (Some(&one), Some(&two))] {
            let ends = ends(at_origin, at_edge);
            let mac = origin(&ends, &greetings(1, 1)).make(&about());
            assert!(!edge(&ends, &turned(greetings(1, 1))).is_right(&about(), &mac));
        }
        let mut thief = ends(None, None);
        thief.origin = Identity::new(&key(3), &key(2).public(), None);
        let mac = origin(&thief, &greetings(1, 1)).make(&about());
        assert!(!edge(&thief, &turned(greetings(1, 1))).is_right(&about(), &mac));
    }

    #[test]
    fn who_the_other_end_is_cannot_be_changed_on_the_way() {
        let ends = ends(None, None);
        let mac = origin(&ends, &greetings(1, 1)).make(&about());
        let name = |text| Name::new(text).unwrap();
        let changed = [
            About { version: name("0.0.9"), ..about() },
            About { name: name("kyiv"), ..about() },
            About { instance: Bytes([4; 16]), ..about() },
            About { capabilities: BTreeSet::new(), ..about() },
        ];
        for changed in changed {
            assert!(!edge(&ends, &turned(greetings(1, 1))).is_right(&changed, &mac), "{changed:?}");
        }
    }

    fn ends(at_origin: Option<&PresharedKey>, at_edge: Option<&PresharedKey>) -> Ends {
        Ends {
            origin: Identity::new(&key(1), &key(2).public(), at_origin),
            edge: Identity::new(&key(2), &key(1).public(), at_edge),
        }
    }

    fn origin<'a>(ends: &'a Ends, greetings: &'a Greetings) -> Proof<'a> {
        Proof { identity: &ends.origin, role: Role::Origin, greetings }
    }

    fn edge<'a>(ends: &'a Ends, greetings: &'a Greetings) -> Proof<'a> {
        Proof { identity: &ends.edge, role: Role::Edge, greetings }
    }

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes([byte; 32])
    }

    /// As the origin has them.
    fn greetings(origin: u32, edge: u32) -> Greetings {
        Greetings {
            own: Greeting { nonce: Bytes([5; 32]), schema: origin },
            far: Greeting { nonce: Bytes([6; 32]), schema: edge },
        }
    }

    fn turned(greetings: Greetings) -> Greetings {
        Greetings { own: greetings.far, far: greetings.own }
    }

    fn about() -> About {
        About {
            version: Name::new("0.1.0").unwrap(),
            name: Name::new("wroclaw").unwrap(),
            capabilities: BTreeSet::from([Name::new("health").unwrap()]),
            instance: Bytes([3; 16]),
        }
    }
}
