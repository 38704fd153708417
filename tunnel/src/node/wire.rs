//! The outer framing of WireGuard's messages (WireGuard paper §5.4): what is read before anything
//! is authenticated.

/// Bytes of a handshake initiation.
pub(super) const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub(super) const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub(super) const COOKIE_LEN: usize = 64;
/// Bytes a data message adds to its content; also the length of a keepalive.
pub(super) const DATA_OVERHEAD: usize = 32;
/// Bytes of a data message's header.
pub(super) const DATA_HEADER: usize = 16;
/// Counters from here on are never accepted (reject-after-messages, WireGuard paper §6.1).
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13) + 1;

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The first message of a handshake.
    Initiation,
    /// The second one, for the handshake that `receiver` began.
    Response {
        /// Receiver index.
        receiver: u32,
    },
    /// A cookie for the handshake message that `receiver` sent.
    Cookie {
        /// Receiver index.
        receiver: u32,
    },
    /// An encrypted packet, or a keepalive.
    Data {
        /// Receiver index.
        receiver: u32,
        /// The nonce.
        counter: u64,
    },
}

impl Message {
    /// The kind of `datagram`, if its type, reserved bytes and length agree.
    #[inline]
    pub(super) fn classify(datagram: &[u8]) -> Option<Self> {
        let kind = word(datagram, 0)?;
        match (kind, datagram.len()) {
            (1, INITIATION_LEN) => Some(Self::Initiation),
            (2, RESPONSE_LEN) => Some(Self::Response { receiver: word(datagram, 8)? }),
            (3, COOKIE_LEN) => Some(Self::Cookie { receiver: word(datagram, 4)? }),
            (4, DATA_OVERHEAD..) => {
                let receiver = word(datagram, 4)?;
                let counter = u64::from(word(datagram, 8)?) | u64::from(word(datagram, 12)?) << 32;
                Some(Self::Data { receiver, counter })
            }
            _ => None,
        }
    }

    /// The receiver of a data message that begins so, whatever its length.
    pub(super) fn classify_data(start: &[u8; 8]) -> Option<u32> {
        (word(start, 0)? == 4).then(|| word(start, 4)).flatten()
    }
}

/// The sender index of a handshake message.
pub(super) fn sender_index(message: &[u8]) -> Option<u32> {
    word(message, 4)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_the_right_length_are_recognised() {
        for (kind, length) in [(1, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_LEN)] {
            assert!(Message::classify(&message(kind, length)).is_some());
            assert_eq!(Message::classify(&message(kind, length - 1)), None);
            assert_eq!(Message::classify(&message(kind, length + 1)), None);
        }
        assert!(Message::classify(&message(4, DATA_OVERHEAD)).is_some());
        assert_eq!(Message::classify(&message(4, DATA_OVERHEAD - 1)), None);
        assert_eq!(Message::classify(&message(5, 148)), None);
        assert_eq!(Message::classify(&[1, 0, 0]), None);
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        let mut initiation = message(1, INITIATION_LEN);
        initiation[2] = 1;

        assert_eq!(Message::classify(&initiation), None);
    }

    #[test]
    fn a_data_message_carries_its_index_and_counter() {
        let mut data = message(4, 48);
        data[4..8].copy_from_slice(&0xabcd_ef01u32.to_le_bytes());
        data[8..16].copy_from_slice(&REJECT_AFTER_MESSAGES.to_le_bytes());

        let expected = Message::Data { receiver: 0xabcd_ef01, counter: REJECT_AFTER_MESSAGES };
        assert_eq!(Message::classify(&data), Some(expected));
        assert_eq!(u128::from(REJECT_AFTER_MESSAGES), (1u128 << 64) - (1 << 13));
    }

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes
    }
}
