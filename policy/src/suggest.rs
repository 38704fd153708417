//! The name that was probably meant.

/// The most bytes of a name that is compared.
const MAX_LENGTH: usize = 64;

/// Of `candidates` the one nearest to `written`, when it is near enough to be a typing error.
///
/// Near enough is one edit in three characters; an edit inserts, removes or changes one character,
/// or swaps two neighbours. Names longer than 64 bytes are not compared.
pub fn nearest<'c>(written: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if written.len() > MAX_LENGTH {
        return None;
    }
    let limit = (written.chars().count() / 3).max(1);
    let written = written.to_lowercase();
    candidates
        .filter(|candidate| candidate.len() <= MAX_LENGTH)
        .map(|candidate| (strsim::osa_distance(&written, &candidate.to_lowercase()), candidate))
        .filter(|&(edits, _)| edits <= limit)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        let keys = ["listen_port", "private_key_file", "mtu"];
        assert_eq!(nearest("listenport", keys.into_iter()), Some("listen_port"));
        assert_eq!(nearest("mut", keys.into_iter()), Some("mtu"));
        assert_eq!(nearest("MTU", keys.into_iter()), Some("mtu"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
    }
}
