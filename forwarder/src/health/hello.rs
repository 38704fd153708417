//! A TLS ClientHello for a server name, and how a reply to it begins (RFC 8446 §4.1.2, RFC 6066
//! §3).
//!
//! It is a request only: no session follows, so the key share need not belong to a key.

/// Random bytes that a hello takes: its random, its session id and its key share.
pub(super) const RANDOM: usize = 96;

/// Record type of handshake messages.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// The record that holds a ClientHello for this server name.
pub(super) fn client_hello(name: &str, random: &[u8; RANDOM]) -> Vec<u8> {
    let (own, rest) = random.split_at(32);
    let (session, share) = rest.split_at(32);
    let mut body = vec![3, 3];
    body.extend_from_slice(own);
    body.extend(vector8(session));
    // TLS 1.3's suites, and what every server of 1.2 knows.
    let suites = [0x1301u16, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9];
    body.extend(vector16(&words(&suites)));
    body.extend([1, 0]);
    body.extend(vector16(&extensions(name, share)));
    let mut message = vec![CLIENT_HELLO, 0];
    message.extend(vector16(&body));
    let mut record = vec![HANDSHAKE, 3, 1];
    record.extend(vector16(&message));
    record
}

fn extensions(name: &str, share: &[u8]) -> Vec<u8> {
    let mut server_name = vec![0];
    server_name.extend(vector16(name.as_bytes()));
    let mut key_share = vec![0, 0x1d];
    key_share.extend(vector16(share));
    let groups = words(&[0x001d, 0x0017, 0x0018]);
    let signatures = words(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601, 0x0807]);
    let extensions = [
        (0, vector16(&server_name)),
        (10, vector16(&groups)),
        (11, vec![1, 0]),
        (13, vector16(&signatures)),
        (43, vector8(&words(&[0x0304, 0x0303]))),
        (51, vector16(&key_share)),
    ];
    let extension = |(kind, content): (u16, Vec<u8>)| {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(vector16(&content));
        bytes
    };
    extensions.into_iter().flat_map(extension).collect()
}

/// Whether a record begins with a ServerHello, as opposed to an alert.
pub(super) const fn is_server_hello(record: &[u8; 6]) -> bool {
    matches!(record, [HANDSHAKE, 3, _, _, _, SERVER_HELLO])
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// With a length of one byte in front; for contents below 256 bytes.
fn vector8(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(content.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(content);
    bytes
}

/// With a length of two bytes in front; for contents below 64 KiB.
fn vector16(content: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_of_a_hello_add_up_and_its_name_is_in_it() {
        let hello = client_hello("emby.example.com", &[7; RANDOM]);
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
        assert!(hello.windows(16).any(|window| window == b"emby.example.com"));
    }

    #[test]
    fn an_alert_is_no_server_hello() {
        assert!(is_server_hello(&[22, 3, 3, 0, 122, 2]));
        assert!(!is_server_hello(&[21, 3, 3, 0, 2, 2]));
    }
}
