//! The code: one line of text that lets one machine join, for a short time.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::{HostPort, Name};
use tunnel::key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::hash::digest;
use super::letters::{self, LettersError};

/// What every code begins with; the digit is the version.
const PREFIX: &str = "causeway1-";
/// What is before the version.
const ANY_VERSION: &str = "causeway";
/// Bytes of the checksum over all the others.
const CHECKSUM: usize = 4;
/// The most endpoints of one edge.
pub const MAX_ENDPOINTS: usize = 4;

/// What the one who joins must know. It holds a secret, and therefore has no `Debug`.
#[derive(Clone)]
pub struct Code {
    /// The private key of the temporary peer.
    pub one_time: PrivateKey,
    /// The edge's public key.
    pub edge_key: PublicKey,
    /// The edge's name.
    pub edge: Name,
    /// Where the edge is, one to four.
    pub endpoints: Vec<HostPort>,
    /// The edge's address in the tunnel.
    pub edge_address: IpAddr,
    /// The address of the temporary peer, with the length of the tunnel's network.
    pub address: IpNetwork,
    /// The port of the link, on the edge's address in the tunnel.
    pub link_port: u16,
}

/// Why a text is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It begins otherwise.
    #[error("this is no code of `causeway pair`, which begins with \"{PREFIX}\"; copy the whole line")]
    Other,
    /// It begins as the codes of another version.
    #[error("the code is of another version of Causeway; update the older of the two machines")]
    Version,
    /// Its characters do not fit.
    #[error("the code is not as it was printed: {0}; copy it again")]
    Letters(#[from] LettersError),
    /// Every group fits, but not all of them together.
    #[error("the code is not as it was printed: groups are missing or too many; copy the whole line again")]
    Checksum,
    /// The checksum fits and the content does not.
    #[error(
        "the code holds something that this version does not understand; pair again with one version at both ends"
    )]
    Content,
}

impl Code {
    /// As one line.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = self.bytes(self.one_time.as_bytes());
        let sum = digest(CHECKSUM_LABEL, &[&bytes]);
        bytes.extend(sum.iter().take(CHECKSUM));
        Zeroizing::new(format!("{PREFIX}{}", *letters::encode(&bytes)))
    }

    /// Reads a code; white space in it does not matter.
    ///
    /// # Errors
    /// [`CodeError`]
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let line = without_spaces(text);
        let Some(groups) = line.strip_prefix(PREFIX) else {
            let is_ours = line
                .strip_prefix(ANY_VERSION)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if is_ours { CodeError::Version } else { CodeError::Other });
        };
        let bytes = letters::decode(groups)?;
        // The last group is filled with zeros, so the content says where the checksum is.
        let mut rest = Rest(&bytes);
        let code = Self::read(&mut rest);
        let length = bytes.len() - rest.0.len();
        let (content, sum) =
            (bytes.get(..length).unwrap_or_default(), rest.0.get(..CHECKSUM).unwrap_or_default());
        let expected = digest(CHECKSUM_LABEL, &[content]);
        let is_filled =
            rest.0.iter().skip(CHECKSUM).all(|byte| *byte == 0) && rest.0.len() < CHECKSUM + FILLING;
        if sum.is_empty() || !expected.starts_with(sum) || !is_filled {
            return Err(CodeError::Checksum);
        }
        code.and_then(Self::checked).ok_or(CodeError::Content)
    }

    /// Whether a text that is no code may be the first lines of one.
    #[must_use]
    pub fn is_beginning(text: &str) -> bool {
        let line = without_spaces(text);
        if PREFIX.starts_with(line.as_str()) {
            return true;
        }
        let Some(groups) = line.strip_prefix(PREFIX) else { return false };
        match letters::decode(groups) {
            Ok(bytes) => {
                let mut rest = Rest(&bytes);
                Self::read(&mut rest).is_none() || rest.0.len() < CHECKSUM
            }
            Err(LettersError::Length { group, length }) => {
                length < letters::GROUP && group == groups.split(letters::SEPARATOR).count()
            }
            Err(LettersError::Character { .. } | LettersError::Check { .. }) => false,
        }
    }

    /// Everything in it that is no secret: both ends have it, and the words cover it.
    pub(super) fn public_part(&self) -> Vec<u8> {
        self.bytes(self.one_time.public().as_bytes()).to_vec()
    }

    fn bytes(&self, one_time: &[u8; 32]) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        bytes.extend(one_time);
        bytes.extend(self.edge_key.as_bytes());
        bytes.extend(self.link_port.to_be_bytes());
        put_address(self.edge_address, &mut bytes);
        put_address(self.address.ip(), &mut bytes);
        bytes.push(self.address.prefix());
        put_text(self.edge.as_str(), &mut bytes);
        let endpoints = self.endpoints.iter().take(MAX_ENDPOINTS);
        bytes.push(u8::try_from(endpoints.len()).unwrap_or(u8::MAX));
        endpoints.for_each(|endpoint| put_text(&endpoint.to_string(), &mut bytes));
        bytes
    }

    fn read(rest: &mut Rest<'_>) -> Option<Self> {
        let one_time = Zeroizing::new(rest.array::<32>()?);
        let edge_key = rest.array::<32>()?;
        let link_port = u16::from_be_bytes(rest.array()?);
        let edge_address = rest.address()?;
        let address = rest.address()?;
        let [length] = rest.array::<1>()?;
        let edge = rest.text()?;
        let [count] = rest.array::<1>()?;
        let endpoints: Vec<&str> = (0..count).map(|_| rest.text()).collect::<Option<_>>()?;
        Some(Self {
            one_time: PrivateKey::from_bytes(*one_time),
            edge_key: PublicKey::from_bytes(edge_key).ok()?,
            edge: Name::new(edge)?,
            endpoints: endpoints.into_iter().map(policy::text::host_port).collect::<Option<_>>()?,
            edge_address,
            address: IpNetwork::new(address, length).ok()?,
            link_port,
        })
    }

    fn checked(self) -> Option<Self> {
        let is_right = (1..=MAX_ENDPOINTS).contains(&self.endpoints.len())
            && self.link_port > 0
            && self.address.contains(self.edge_address)
            && self.address.ip() != self.edge_address;
        is_right.then_some(self)
    }
}

fn without_spaces(text: &str) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(text.len()));
    let characters = text.chars().filter(|character| !character.is_whitespace());
    line.extend(characters.map(|character| character.to_ascii_lowercase()));
    line
}

/// Separates the checksum from other digests.
const CHECKSUM_LABEL: &[u8] = b"causeway pairing checksum";
/// More zeros than a group can be filled with.
const FILLING: usize = 5;

fn put_address(address: IpAddr, bytes: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.octets());
        }
    }
}

/// A name of the DNS has at most 253 characters, and a port five.
fn put_text(text: &str, bytes: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend(text.bytes().take(usize::from(length)));
}

/// What of a code is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.array::<1>()? {
            [4] => self.array::<4>().map(IpAddr::from),
            [6] => self.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_be_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::code;
    use super::*;

    #[test]
    fn a_code_says_the_same_at_both_ends() {
        let code = code();
        let text = code.to_text();
        assert!(text.starts_with(PREFIX) && !text.contains(char::is_whitespace), "{}", *text);
        let wrapped = format!("  {}\r\n{}\n", &text[..50], &text[50..]);
        for text in [text.as_str(), &wrapped, &text.to_uppercase()] {
            let back = Code::parse(text).ok().unwrap();
            assert_eq!(back.one_time.as_bytes(), code.one_time.as_bytes());
            assert_eq!(back.public_part(), code.public_part());
        }
    }

    #[test]
    fn a_code_of_ipv6_says_the_same_at_both_ends() {
        let code = Code {
            edge_address: "fd00::1".parse().unwrap(),
            address: "fd00::fffe/64".parse().unwrap(),
            endpoints: ["[2001:db8::1]:51820", "kyiv.example.com:443"]
                .map(|text| policy::text::host_port(text).unwrap())
                .to_vec(),
            ..code()
        };
        let back = Code::parse(&code.to_text()).ok().unwrap();
        assert_eq!(back.public_part(), code.public_part());
    }

    #[test]
    fn each_kind_of_error_is_named() {
        let text = code().to_text();
        let error = |text: &str| Code::parse(text).err().unwrap();
        assert_eq!(error("wg genkey"), CodeError::Other);
        assert_eq!(error(&text.replacen("causeway1", "causeway2", 1)), CodeError::Version);
        let groups: Vec<&str> = text.split('-').collect();
        assert_eq!(error(&groups[..groups.len() - 3].join("-")), CodeError::Checksum);
        let typed = text.replacen(groups[5], "zzzzzzzz", 1);
        assert_eq!(error(&typed), CodeError::Letters(LettersError::Check { group: 5 }));
        assert!(error(&typed).to_string().contains("group 5"), "the group is counted after the prefix");
    }

    #[test]
    fn a_code_whose_addresses_do_not_fit_is_refused() {
        for wrong in [
            Code { link_port: 0, ..code() },
            Code { endpoints: Vec::new(), ..code() },
            Code { address: "10.99.0.2/24".parse().unwrap(), ..code() },
            Code { address: "10.77.88.1/24".parse().unwrap(), ..code() },
        ] {
            assert_eq!(Code::parse(&wrong.to_text()).err(), Some(CodeError::Content));
        }
    }
}
