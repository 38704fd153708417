//! Whether an address is one of this machine's.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an interface has `address`, in this network namespace and now.
///
/// # Errors
/// From the system.
pub fn is_own(address: IpAddr) -> io::Result<bool> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the call writes one pointer, to a list that lives until it is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut at: *const libc::ifaddrs = first;
    let mut is_there = false;
    while !at.is_null() {
        // SAFETY: `at` is an entry of the list.
        let entry = unsafe { &*at };
        is_there |= address_of(entry) == Some(address);
        at = entry.ifa_next;
    }
    // SAFETY: it is the list that the call above made, and nothing points to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(is_there)
}

fn address_of(entry: &libc::ifaddrs) -> Option<IpAddr> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: a socket address begins with its family, and is as long as that says.
    unsafe {
        match i32::from((*entry.ifa_addr).sa_family) {
            libc::AF_INET => {
                let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                let address = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machines_and_an_address_of_the_documentation_is_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()).unwrap());
        assert!(!is_own("198.51.100.77".parse().unwrap()).unwrap());
        assert!(!is_own("2001:db8::2".parse().unwrap()).unwrap());
    }
}
