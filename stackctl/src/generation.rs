//! Generations: what a service looked like when it was last healthy, kept so that it can come back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many generations of a service are kept.
pub const KEPT: usize = 5;

/// One generation; its files lie next to it under their own names.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number, counting from 1.
    pub number: u64,
    /// Seconds since 1970.
    pub made: u64,
    /// Rendered files by path below the location, in the order of their copies `0`, `1`, ….
    pub files: Vec<Kept>,
    /// Files of the tree that its containers mount and no template makes, in the order of their copies `mounted-0`, ….
    #[serde(default)]
    pub mounted: Vec<MountedFile>,
    /// Mounted files that are not kept, each with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// The image each container ran, by its content's name.
    pub images: BTreeMap<String, String>,
    /// A keyed hash of all of the above but number and time.
    pub content: String,
}

/// One rendered file of a generation.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its path below the location.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when stack.toml sets one.
    pub owner: Option<(u32, u32)>,
}

/// One file that a container mounts and no template makes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MountedFile {
    /// Its path below the tree's root.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: (u32, u32),
    /// Whether a container may write it: then it may hold data, and a rollback leaves it alone.
    pub writable: bool,
}

/// The number of the next generation and those that are now too old.
#[must_use]
pub fn succession(existing: &[u64]) -> (u64, Vec<u64>) {
    let mut sorted = existing.to_vec();
    sorted.sort_unstable();
    let next = sorted.last().map_or(1, |last| last + 1);
    let surplus = (sorted.len() + 1).saturating_sub(KEPT);
    (next, sorted.into_iter().take(surplus).collect())
}

/// The generation a rollback means: the named one, or the newest before what runs.
///
/// `running` is the content hash of what runs now; when no generation has it, the newest one is meant.
#[must_use]
pub fn target<'g>(all: &'g [Generation], named: Option<u64>, running: &str) -> Option<&'g Generation> {
    if let Some(number) = named {
        return all.iter().find(|generation| generation.number == number);
    }
    let current = all.iter().filter(|generation| generation.content == running).map(|g| g.number).max();
    all.iter()
        .filter(|generation| {
            generation.content != running && current.is_none_or(|current| generation.number < current)
        })
        .max_by_key(|generation| generation.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_generations_are_kept() {
        assert_eq!(succession(&[]), (1, vec![]));
        assert_eq!(succession(&[3, 1, 2]), (4, vec![]));
        assert_eq!(succession(&[1, 2, 3, 4, 5]), (6, vec![1]));
        assert_eq!(succession(&[1, 2, 3, 4, 5, 6, 7]), (8, vec![1, 2, 3]));
    }

    #[test]
    fn a_rollback_means_the_newest_before_what_runs() {
        let all = [generation(1, "a"), generation(2, "b")];
        assert_eq!(target(&all, None, "b").map(|g| g.number), Some(1));
        assert_eq!(target(&all, None, "new").map(|g| g.number), Some(2));
        assert_eq!(target(&all, None, "a"), None, "nothing is older");
        assert_eq!(target(&all, Some(2), "a").map(|g| g.number), Some(2));
        assert_eq!(target(&all, Some(9), "a"), None);
    }

    fn generation(number: u64, content: &str) -> Generation {
        let (files, mounted, left_out) = (Vec::new(), Vec::new(), Vec::new());
        Generation {
            number,
            made: 0,
            files,
            mounted,
            left_out,
            images: BTreeMap::new(),
            content: content.into(),
        }
    }
}
