//! Bytes as one line of text that people copy: groups of eight characters, the last of which checks
//! the others.

use zeroize::{Zeroize as _, Zeroizing};

/// Digits and letters without `i`, `l`, `o` and `u`: those look like others, or like nothing meant.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a group that carry data, five bits each.
const DATA: usize = 7;
/// A group with its check.
pub(super) const GROUP: usize = DATA + 1;
/// Between groups.
pub(super) const SEPARATOR: char = '-';

/// Why a text is no groups; groups count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LettersError {
    /// A character that no group has.
    #[error("group {group} has {character:?}, which no code has")]
    Character {
        /// Which group.
        group: usize,
        /// The character.
        character: char,
    },
    /// A group is too short or too long.
    #[error("group {group} has {length} characters instead of {GROUP}")]
    Length {
        /// Which group.
        group: usize,
        /// How many characters it has.
        length: usize,
    },
    /// A group's check does not fit.
    #[error("group {group} has a typing error, or is not in its place")]
    Check {
        /// Which group.
        group: usize,
    },
}

/// The bytes as groups; zeros fill the last one.
pub(super) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let groups = (bytes.len() * 8).div_ceil(DATA * 5);
    let mut text = Zeroizing::new(String::with_capacity(groups * (GROUP + 1)));
    let mut values = Zeroizing::new(Vec::with_capacity(groups * DATA));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            values.push(low_five(held >> bits));
        }
    }
    if bits > 0 {
        values.push(low_five(held << (5 - bits)));
    }
    held.zeroize();
    values.resize(groups * DATA, 0);
    for (index, group) in values.chunks(DATA).enumerate() {
        if index > 0 {
            text.push(SEPARATOR);
        }
        text.extend(group.iter().chain([&check(index, group)]).map(|value| character(*value)));
    }
    text
}

/// The bytes of groups, those that fill the last one included.
///
/// Upper case counts as lower case, `o` as 0, and `i` and `l` as 1.
pub(super) fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, LettersError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for (index, group) in text.split(SEPARATOR).enumerate() {
        for value in values(index, group)?.iter() {
            held = (held << 5) | u32::from(*value);
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from((held >> bits) & 0xff).unwrap_or_default());
            }
        }
    }
    held.zeroize();
    Ok(bytes)
}

/// The values of a group without its check, which must fit.
fn values(index: usize, group: &str) -> Result<Zeroizing<Vec<u8>>, LettersError> {
    let number = index + 1;
    let mut values = Zeroizing::new(Vec::with_capacity(GROUP));
    for character in group.chars() {
        let value = value(character).ok_or(LettersError::Character { group: number, character })?;
        values.push(value);
    }
    let length = values.len();
    if length != GROUP {
        return Err(LettersError::Length { group: number, length });
    }
    let found = values.pop();
    if found == Some(check(index, &values)) { Ok(values) } else { Err(LettersError::Check { group: number }) }
}

/// Any one wrong value changes it, since odd numbers have an inverse among 32, and so do most
/// values that changed places; the group's own place counts too.
fn check(index: usize, group: &[u8]) -> u8 {
    let weighed =
        group.iter().zip((1_usize..).step_by(2)).map(|(value, weight)| usize::from(*value) * weight);
    low_five(u32::try_from((weighed.sum::<usize>() + index) % 32).unwrap_or_default())
}

fn low_five(value: u32) -> u8 {
    u8::try_from(value & 31).unwrap_or_default()
}

fn character(value: u8) -> char {
    ALPHABET.get(usize::from(value)).map_or('0', |letter| char::from(*letter))
}

fn value(character: char) -> Option<u8> {
    let letter = match character.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        other => other,
    };
    let at = ALPHABET.iter().position(|known| char::from(*known) == letter)?;
    u8::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_that_look_alike_are_read_as_what_was_meant() {
        let text = encode(&[0, 0, 0x10, 0x84, 0x21]);
        assert!(text.contains('0') && text.contains('1'), "{}", *text);
        for (from, to) in [("0", "o"), ("0", "O"), ("1", "l"), ("1", "I")] {
            assert_eq!(decode(&text.replace(from, to)).unwrap(), decode(&text).unwrap());
        }
        assert_eq!(decode(&text.to_uppercase()).unwrap(), decode(&text).unwrap());
    }

    #[test]
    fn a_wrong_character_and_a_short_group_are_named() {
        let text = encode(&[7; 20]);
        let wrong = text.replacen('-', "-u", 1);
        assert_eq!(decode(&wrong).unwrap_err(), LettersError::Character { group: 2, character: 'u' });
        let short = text.get(..text.len() - 1).unwrap();
        assert_eq!(decode(short).unwrap_err(), LettersError::Length { group: 5, length: 7 });
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let back = decode(&encode(&bytes)).unwrap();
            prop_assert!(back.starts_with(&bytes));
            prop_assert!(back.iter().skip(bytes.len()).all(|byte| *byte == 0));
        }

        #[test]
        fn any_single_typing_error_is_found_in_its_group(
            bytes in proptest::collection::vec(any::<u8>(), 5..60),
            at in any::<proptest::sample::Index>(),
            to in 0_u8..32,
        ) {
            let text = encode(&bytes);
            let at = at.index(text.len());
            let mut typed: Vec<char> = text.chars().collect();
            prop_assume!(typed[at] != '-' && typed[at] != character(to));
            typed[at] = character(to);
            let typed: String = typed.into_iter().collect();
            prop_assert_eq!(decode(&typed).unwrap_err(), LettersError::Check { group: at / (GROUP + 1) + 1 });
        }

        #[test]
        fn two_groups_that_changed_places_are_found(
            bytes in proptest::collection::vec(any::<u8>(), 20..60),
        ) {
            let text = encode(&bytes);
            let mut groups: Vec<&str> = text.split('-').collect();
            groups.swap(0, 1);
            prop_assert!(decode(&groups.join("-")).is_err());
        }
    }
}
