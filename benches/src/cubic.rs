//! Permission for namespaces to use cubic.

use std::fs;

/// Namespaces may use cubic until this is dropped.
#[derive(Debug)]
pub struct CubicAllowed {
    before: Option<String>,
}

/// Which congestion control namespaces may choose.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Lets namespaces use cubic where the machine allows them only its own default; the list is put
/// back afterwards.
pub fn allow() -> CubicAllowed {
    let before = fs::read_to_string(ALLOWED).unwrap_or_default().trim().to_owned();
    let changed = !before.split_whitespace().any(|name| name == "cubic")
        && fs::write(ALLOWED, format!("{before} cubic")).is_ok();
    CubicAllowed { before: changed.then_some(before) }
}

impl Drop for CubicAllowed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // An error cannot be reported from here; the list then keeps one extra name until the
            // next boot.
            let _ = fs::write(ALLOWED, before);
        }
    }
}
