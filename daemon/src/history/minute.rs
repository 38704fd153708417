//! A minute as few bytes, since there are 43,200 of them in 30 days for every peer.
//!
//! Microseconds of the round trip plus 1, or 0 for none; lost probes in a million; bytes received;
//! bytes sent; then the peer. Numbers are of 7 bits a byte, the lowest first, as in LEB128.

use super::record::What;

/// A minute as bytes; `None` for another kind, and for a peer whose name is too long.
#[must_use]
pub fn encoded(what: &What) -> Option<Vec<u8>> {
    let What::Minute { peer, round_trip_ms, loss, received, sent } = what else { return None };
    let micros = round_trip_ms.map_or(0, |ms| rounded(ms * 1_000.0).saturating_add(1));
    let mut bytes = Vec::with_capacity(24 + peer.len());
    for number in [micros, rounded(loss * 1_000_000.0), *received, *sent] {
        push(&mut bytes, number);
    }
    bytes.extend(peer.as_bytes());
    Some(bytes)
}

/// The minute that was written.
#[must_use]
pub fn decoded(bytes: &[u8]) -> Option<What> {
    let mut rest = bytes;
    let micros = take(&mut rest)?;
    let lost = take(&mut rest)?;
    let (received, sent) = (take(&mut rest)?, take(&mut rest)?);
    let peer = std::str::from_utf8(rest).ok()?.to_owned();
    let round_trip_ms = micros.checked_sub(1).map(|micros| real(micros) / 1_000.0);
    Some(What::Minute { peer, round_trip_ms, loss: real(lost) / 1_000_000.0, received, sent })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast to an integer saturates, and what is no number is 0"
)]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds and millionths need fewer than 53 bits")]
fn real(value: u64) -> f64 {
    value as f64
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_read_as_it_was_written_and_takes_few_bytes() {
        let minute = |round_trip_ms, loss, received, sent| What::Minute {
            peer: "wroclaw".to_owned(),
            round_trip_ms,
            loss,
            received,
            sent,
        };
        let usual = minute(Some(23.456), 0.0, 1_234_567, 98_765_432);
        assert!(encoded(&usual).unwrap().len() <= 20, "{:?}", encoded(&usual));
        for minute in [usual, minute(None, 1.0, 0, 0), minute(Some(0.0), 0.333_333, u64::MAX, 1)] {
            assert_eq!(decoded(&encoded(&minute).unwrap()), Some(minute));
        }
        assert_eq!(encoded(&What::Unknown), None);
        for damaged in [&b""[..], &[0x80], &[0x80; 30], &[0, 0, 0, 0, 0xff]] {
            assert_eq!(decoded(damaged), None);
        }
    }
}
