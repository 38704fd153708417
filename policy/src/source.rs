//! Where text came from, and places in it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A configuration file's name and its text, read by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file's path as the operator gave it; relative paths inside the text are taken from its
    /// folder.
    pub name: &'a Path,
    /// The whole text.
    pub text: &'a str,
}

/// A place in a file; prints as `file:line:column`, both counted from 1, the column in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The file, as the operator named it.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}
