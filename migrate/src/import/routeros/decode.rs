//! The bytes of an export as text.

use std::path::Path;

use zeroize::Zeroizing;

use crate::import::outcome::{ImportError, MAX_BYTES};

/// The text of a file that another product wrote: UTF-8 or UTF-16, with or without a byte order
/// mark, or an 8-bit encoding.
///
/// A byte that is no UTF-8 becomes the character of that number (Latin-1). Names stay distinct,
/// and only comments can read differently from how they were meant.
///
/// # Errors
/// [`ImportError`], when the file is too large, or has characters that no text has.
pub fn decode(name: &Path, bytes: &[u8]) -> Result<Zeroizing<String>, ImportError> {
    let file = name.display().to_string();
    if bytes.len() > MAX_BYTES {
        return Err(ImportError::TooLarge { file, bytes: bytes.len() });
    }
    let refused = |at: String, what| ImportError::NotText { at, what };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [first, 0, _, 0, ..] if *first != 0 => wide(bytes, u16::from_le_bytes),
        [0, first, 0, _, ..] if *first != 0 => wide(bytes, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => Some(narrow(rest)),
        _ => Some(narrow(bytes)),
    };
    let text = text.ok_or_else(|| {
        refused(file.clone(), "a UTF-16 file that is cut off or damaged; save it again as UTF-8")
    })?;
    match control_character(&text) {
        None => Ok(text),
        Some((line, column)) => Err(refused(
            format!("{file}:{line}:{column}"),
            "a control character, so this is no text (a .backup file?); write the configuration with /export",
        )),
    }
}

fn wide(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<Zeroizing<String>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().copied().map(unit).collect());
    let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty())?;
    Some(Zeroizing::new(text))
}

fn narrow(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    })
}

/// Line and column of the first character that is neither printable, white space, nor of the
/// 8-bit range that some encodings use for letters.
fn control_character(text: &str) -> Option<(usize, usize)> {
    let is_wrong = |c: char| u32::from(c) < 0x20 && !matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    let at = text.find(is_wrong)?;
    let before = text.get(..at)?;
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    Some((line, column))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<String, String> {
        let text = decode(Path::new("KYIV.rsc"), bytes);
        text.map(|text| text.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_encoding_of_one_text_is_that_text() {
        let text = "/ip address\r\nadd comment=\"Київ\"\r\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();

        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [b"\xff\xfe".as_slice(), &little].concat(),
            [b"\xfe\xff".as_slice(), &big].concat(),
            little,
            big,
        ] {
            assert_eq!(decoded(&bytes).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_byte_of_another_encoding_keeps_names_distinct() {
        assert_eq!(decoded(b"add name=B\xfcro").as_deref(), Ok("add name=B\u{fc}ro"));
        assert_ne!(decoded(b"add name=\xca\xe8\xe5\xe2"), decoded(b"add name=\xcb\xfc\xe2\xb3"));
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_at_its_place() {
        let refused = decoded(b"/ip address\n\x00\x88\xac").unwrap_err();
        assert!(refused.starts_with("KYIV.rsc:2:1: a control character"), "{refused}");
        let refused = decoded(b"\xff\xfe/\x00i").unwrap_err();
        assert!(refused.starts_with("KYIV.rsc: a UTF-16 file that is cut off"), "{refused}");
    }
}
