//! Patterns of `[clean]`: paths below a location with `*` inside one segment.

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// An absolute path, or one that climbs out of the location.
    #[error("{0:?} leaves the location's folder")]
    Escapes(String),
    /// Nothing but `*`, or an empty path: it would name the whole location.
    #[error("{0:?} names the whole location")]
    Everything(String),
}

/// A checked pattern, split into segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Checks a pattern as it is written in stack.toml.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.starts_with('/') || text.split('/').any(|segment| segment == "..") {
            return Err(PatternError::Escapes(text.to_owned()));
        }
        let segments: Vec<String> =
            text.split('/').filter(|s| !s.is_empty() && *s != ".").map(str::to_owned).collect();
        if segments.first().is_none_or(|first| first.chars().all(|c| c == '*')) {
            return Err(PatternError::Everything(text.to_owned()));
        }
        Ok(Self(segments))
    }

    /// The segments, outermost first.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.0
    }
}

/// Whether `name` is matched by one segment, in which `*` matches any text.
#[must_use]
pub fn segment_matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_inside_one_segment_only() {
        assert!(segment_matches("*", "anything"));
        assert!(segment_matches("db*.sqlite3", "db-1.sqlite3"));
        assert!(!segment_matches("db*.sqlite3", "db.sqlite3-wal"));
        assert!(segment_matches("plain", "plain"));
        assert!(!segment_matches("plain", "plainer"));
        assert!(!segment_matches("a*a", "a"));
    }

    #[test]
    fn a_pattern_may_not_leave_or_swallow_the_location() {
        assert_eq!(Pattern::parse("../x"), Err(PatternError::Escapes("../x".into())));
        assert_eq!(Pattern::parse("/etc"), Err(PatternError::Escapes("/etc".into())));
        assert_eq!(Pattern::parse("*"), Err(PatternError::Everything("*".into())));
        assert_eq!(Pattern::parse("./"), Err(PatternError::Everything("./".into())));
        assert!(Pattern::parse("immich/upload/*").is_ok());
    }
}
