//! The verbs as targets of the Makefile shim.

/// A verb of the Makefile shim: a target by itself, or behind `all-`.
struct Target {
    verb: &'static str,
    /// Whether it is also one as SERVICE-VERB.
    of_service: bool,
}

const fn of_location(verb: &'static str) -> Target {
    Target { verb, of_service: false }
}

const fn of_both(verb: &'static str) -> Target {
    Target { verb, of_service: true }
}

const TARGETS: [Target; 16] = [
    of_location("select"),
    of_location("unselect"),
    of_both("setup"),
    of_both("up"),
    of_both("down"),
    of_both("restart"),
    of_both("logs"),
    of_both("status"),
    of_both("clean"),
    of_both("render"),
    of_both("diff"),
    of_both("doctor"),
    of_both("rollback"),
    of_location("adopt"),
    of_both("print-command"),
    of_location("secrets"),
];

/// All of them.
pub fn verbs<'v>() -> impl Iterator<Item = &'v str> {
    TARGETS.iter().map(|target| target.verb)
}

/// Verbs that take a service.
pub fn service_verbs<'v>() -> impl Iterator<Item = &'v str> {
    TARGETS.iter().filter(|target| target.of_service).map(|target| target.verb)
}
