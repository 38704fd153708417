//! What stackctl rendered last, so that a file edited by hand is never overwritten unseen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::overlay::{Content, fingerprint};
use crate::render::Output;

/// The rendered files of a location.
#[derive(Serialize, Deserialize, Default, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// By path below the location.
    #[serde(default)]
    pub files: BTreeMap<String, Written>,
    /// Names of secrets that were made here, with the service they are of.
    #[serde(default)]
    pub minted: BTreeMap<String, String>,
    /// For each service that Compose was asked about: the rendered files its containers mount singly.
    #[serde(default)]
    pub mounted_singly: BTreeMap<String, BTreeSet<String>>,
}

/// One rendered file, as it was written.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Written {
    /// Keyed hash of its bytes.
    pub hash: String,
    /// Whether it carried a secret.
    pub secret: bool,
}

/// What lies at an output's path now.
pub struct Present<'p> {
    /// Its bytes.
    pub bytes: &'p [u8],
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: (u32, u32),
}

/// How a new content reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A new file is renamed over the old one.
    Replace,
    /// The old file's inode gets the new bytes, since a container may have mounted just this file.
    InPlace,
}

/// What to do about one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Everything is as it must be.
    Keep,
    /// The bytes are right, mode or owner are not.
    Attributes,
    /// The bytes must change.
    Write(Style),
    /// The location has a file of its own where a shared template would render: it wins.
    OwnFile,
    /// The rendered file was edited by hand.
    EditedByHand,
}

impl Manifest {
    /// Decides about one output; `overwrite` gives up edits made by hand, `style` is how it would be written.
    #[must_use]
    pub fn decide(
        &self,
        key: &[u8],
        output: &Output,
        present: Option<&Present<'_>>,
        overwrite: bool,
        style: Style,
    ) -> Decision {
        let Some(present) = present else { return Decision::Write(Style::Replace) };
        if present.bytes == output.bytes.as_slice() {
            let right =
                present.mode == output.mode && output.owner.is_none_or(|owner| owner == present.owner);
            return if right { Decision::Keep } else { Decision::Attributes };
        }
        let write = Decision::Write(style);
        match self.files.get(&output.path) {
            _ if overwrite => write,
            None if output.shared => Decision::OwnFile,
            Some(written) if written.hash == content_hash(key, present.bytes) => write,
            _ => Decision::EditedByHand,
        }
    }

    /// Notes a file as rendered.
    pub fn note(&mut self, key: &[u8], output: &Output) {
        let written = Written { hash: content_hash(key, &output.bytes), secret: output.secret };
        self.files.insert(output.path.clone(), written);
    }

    /// How a rendered file is written, given all services of its location.
    ///
    /// As long as Compose was not asked about one of them, it might mount the file singly.
    #[must_use]
    pub fn style<'s>(&self, path: &str, mut services: impl Iterator<Item = &'s String>) -> Style {
        let free =
            services.all(|name| self.mounted_singly.get(name).is_some_and(|mounted| !mounted.contains(path)));
        if free { Style::Replace } else { Style::InPlace }
    }
}

/// The keyed hash of a file's bytes.
#[must_use]
pub fn content_hash(key: &[u8], bytes: &[u8]) -> String {
    fingerprint(key, [Content { target: "", bytes }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn what_stackctl_wrote_it_may_change_and_what_a_person_wrote_it_may_not() {
        let mut manifest = Manifest::default();
        let old = output("old", false);
        manifest.note(b"k", &old);
        let new = output("new", false);
        assert_eq!(decide(&manifest, &new, None), Decision::Write(Style::Replace));
        assert_eq!(decide(&manifest, &new, Some("old")), Decision::Write(Style::InPlace));
        assert_eq!(decide(&manifest, &new, Some("new")), Decision::Keep);
        assert_eq!(decide(&manifest, &new, Some("edited")), Decision::EditedByHand);
        let present = Present { bytes: b"edited", mode: 0o600, owner: (0, 0) };
        assert_eq!(
            manifest.decide(b"k", &new, Some(&present), true, Style::InPlace),
            Decision::Write(Style::InPlace)
        );
    }

    #[test]
    fn a_locations_own_file_wins_over_a_shared_template() {
        assert_eq!(decide(&Manifest::default(), &output("x", true), Some("own")), Decision::OwnFile);
        assert_eq!(decide(&Manifest::default(), &output("x", false), Some("own")), Decision::EditedByHand);
    }

    #[test]
    fn only_files_that_may_be_mounted_singly_keep_their_inode() {
        let services = ["caddy".to_owned(), "emby".to_owned()];
        let mut manifest = Manifest::default();
        manifest.mounted_singly.insert("caddy".into(), BTreeSet::new());
        assert_eq!(manifest.style("a", services.iter()), Style::InPlace, "emby is not known yet");
        manifest.mounted_singly.insert("emby".into(), BTreeSet::new());
        assert_eq!(manifest.style("a", services.iter()), Style::Replace);
        manifest.mounted_singly.insert("emby".into(), ["a".to_owned()].into());
        assert_eq!(manifest.style("a", services.iter()), Style::InPlace);
    }

    #[test]
    fn a_wrong_mode_or_owner_alone_is_fixed_without_writing() {
        let present = Present { bytes: b"x", mode: 0o644, owner: (0, 0) };
        let decision =
            Manifest::default().decide(b"k", &output("x", false), Some(&present), false, Style::InPlace);
        assert_eq!(decision, Decision::Attributes);
        let mut owned = output("x", false);
        owned.owner = Some((1, 1));
        let present = Present { bytes: b"x", mode: 0o600, owner: (0, 0) };
        assert_eq!(
            Manifest::default().decide(b"k", &owned, Some(&present), false, Style::InPlace),
            Decision::Attributes
        );
    }

    fn decide(manifest: &Manifest, output: &Output, bytes: Option<&str>) -> Decision {
        let present = bytes.map(|text| Present { bytes: text.as_bytes(), mode: 0o600, owner: (0, 0) });
        manifest.decide(b"k", output, present.as_ref(), false, Style::InPlace)
    }

    fn output(text: &str, shared: bool) -> Output {
        Output {
            path: "a".into(),
            template: "a.tmpl".into(),
            bytes: Zeroizing::new(text.into()),
            mode: 0o600,
            owner: None,
            secret: true,
            shared,
            uses: Vec::new(),
        }
    }
}
