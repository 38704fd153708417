//! macOS's permission for the local network: without it, another machine of the LAN looks as if
//! there were no route to it.
//!
//! Since macOS 15 a program needs the permission to reach an address of the LAN, and a system call
//! that is denied ends with `EHOSTUNREACH`. Daemons that launchd starts and programs of root are
//! exempt; agents of a user are not (Apple's technical note TN3179).

use std::io;
use std::net::IpAddr;

/// `EHOSTUNREACH`, as macOS numbers it.
const NO_ROUTE: i32 = 65;
/// Users below are the system's, whose programs only root or launchd starts.
const FIRST_PERSON: u32 = 500;

/// A program, as far as macOS decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Whether it runs on macOS.
    pub is_mac: bool,
    /// The effective user.
    pub uid: u32,
}

impl Program {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self { is_mac: cfg!(target_os = "macos"), uid: rustix::process::geteuid().as_raw() }
    }

    /// What to do about an error of reaching an address, where the permission may be what is
    /// missing. An upstream with a name comes without its address, which may be one of the LAN.
    #[must_use]
    pub fn advice(self, error: &io::Error, address: Option<IpAddr>) -> Option<&'static str> {
        self.advice_without_route(address).filter(|_| error.raw_os_error() == Some(NO_ROUTE))
    }

    /// As [`Self::advice`], for an error that is known to be that there is no route.
    #[must_use]
    pub fn advice_without_route(self, address: Option<IpAddr>) -> Option<&'static str> {
        let is_asked = self.is_mac && self.uid >= FIRST_PERSON;
        (is_asked && address.is_none_or(is_local)).then_some(
            "the machine is off, or macOS denies the local network: allow this program in System Settings > \
             Privacy & Security > Local Network",
        )
    }
}

/// Whether an address may be of a network that this machine is on; loopback needs no permission.
fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::Evidence;

    const AGENT: Program = Program { is_mac: true, uid: 501 };

    #[test]
    fn no_route_to_the_lan_names_the_setting_and_no_other_error_does() {
        let advice = |number: i32, address: &str| {
            AGENT.advice(&io::Error::from_raw_os_error(number), Some(address.parse().unwrap()))
        };
        for lan in ["192.168.88.20", "10.0.0.2", "172.16.5.1", "169.254.7.7", "fd00::2", "fe80::2"] {
            let text = advice(65, lan).unwrap_or_else(|| panic!("{lan}"));
            assert!(text.contains("System Settings > Privacy & Security > Local Network"), "{text}");
        }
        assert!(advice(65, "::ffff:192.168.88.20").is_some());
        for other in ["127.0.0.1", "::1", "192.0.2.2", "100.64.0.1", "2001:db8::2"] {
            assert_eq!(advice(65, other), None, "{other}");
        }
        // Refused, timed out, network unreachable, and Linux' number of the same error.
        for number in [61, 60, 51, 113] {
            assert_eq!(advice(number, "192.168.88.20"), None, "{number}");
        }
        assert_eq!(AGENT.advice(&io::ErrorKind::HostUnreachable.into(), None), None, "no number");
    }

    #[test]
    fn a_name_may_lead_to_the_lan() {
        assert!(AGENT.advice(&io::Error::from_raw_os_error(65), None).is_some());
    }

    #[test]
    fn what_macos_does_not_ask_has_no_advice() {
        let lan = Some("192.168.88.20".parse().unwrap());
        for program in [
            Program { is_mac: false, uid: 1000 },
            Program { is_mac: true, uid: 0 },
            Program { is_mac: true, uid: 399 },
        ] {
            assert_eq!(program.advice(&io::Error::from_raw_os_error(65), lan), None, "{program:?}");
            assert_eq!(program.advice_without_route(lan), None, "{program:?}");
        }
        assert!(AGENT.advice_without_route(lan).is_some());
    }

    #[test]
    fn the_advice_has_room_in_evidence_with_the_error_before_it() {
        let text = format!("No route to host (os error 65): {}", AGENT.advice_without_route(None).unwrap());
        assert_eq!(Evidence::of(&text).as_str(), text);
    }
}
