//! The grammar of single strings: addresses, ports, durations, rates, bandwidths.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::prefix::is_private;
use crate::{Bandwidth, Host, HostPort, PortRange, Protocol, Protocols, Rate, RateUnit};

/// `10.0.0.0/8`, or a single address as a prefix of full length; host bits are left in.
#[must_use]
pub fn prefix(text: &str) -> Option<IpNetwork> {
    match text.split_once('/') {
        Some((address, length)) => {
            IpNetwork::new(self::address(address)?, decimal(length)?.try_into().ok()?).ok()
        }
        None => address(text).map(IpNetwork::from),
    }
}

/// An address that is neither IPv4 in IPv6 nor written with a zone.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        IpAddr::V4(_) | IpAddr::V6(_) => Some(address),
    }
}

/// An address over TLS, or in the clear of a machine in a private network or this one.
#[must_use]
pub fn private_or_tls(text: &str) -> Option<String> {
    let is_private = text.strip_prefix("http://").is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        let host = split_port(host).map_or(host, |(host, _)| host);
        let is_plain = text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_plain && address(host).is_some_and(|address| is_private(address.into()))
    });
    if is_private { Some(text.to_owned()) } else { fetchable(text) }
}

/// An address to fetch from: over TLS, or in the clear from this machine itself.
#[must_use]
pub fn fetchable(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 2048;
    let own = ["http://127.0.0.1", "http://[::1]"]
        .iter()
        .any(|own| text.strip_prefix(own).is_some_and(|rest| rest.starts_with([':', '/'])));
    let tls = text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    (plain && (tls || own) && !text.contains('@')).then(|| text.to_owned())
}

/// A port above 0.
#[must_use]
pub fn port(text: &str) -> Option<u16> {
    decimal(text).and_then(|number| u16::try_from(number).ok()).filter(|&port| port != 0)
}

/// `443` or `5000-5010`.
#[must_use]
pub fn ports(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(port(first.trim())?, port(last.trim())?)
}

/// Splits `host:rest` and `[v6]:rest`; the brackets are left out.
#[must_use]
pub fn split_port(text: &str) -> Option<(&str, &str)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once("]:")?;
        return host.contains(':').then_some((host, rest));
    }
    let (host, rest) = text.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, rest))
}

/// An address and ports, as `192.168.88.2:443` and `[fd00::1]:5000-5010`.
#[must_use]
pub fn address_ports(text: &str) -> Option<(IpAddr, PortRange)> {
    let (host, rest) = split_port(text)?;
    Some((address(host)?, ports(rest)?))
}

/// An address with one port, as `127.0.0.1:9590` and `[::1]:9590`.
#[must_use]
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, ports) = address_ports(text)?;
    (ports.count() == 1).then_some(SocketAddr::new(address, ports.first()))
}

/// A DNS name or an address.
#[must_use]
pub fn host(text: &str) -> Option<Host> {
    if let Some(address) = address(text) {
        return Some(Host::Address(address));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let numeric = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    (name.len() <= 253 && !numeric && name.split('.').all(label)).then(|| Host::Name(name.into()))
}

/// `host:port`.
#[must_use]
pub fn host_port(text: &str) -> Option<HostPort> {
    let (name, rest) = split_port(text)?;
    Some(HostPort { host: host(name)?, port: port(rest)? })
}

/// `tcp` or `udp`.
#[must_use]
pub fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// `tcp`, `udp` or `tcp+udp`.
#[must_use]
pub fn protocols(text: &str) -> Option<Protocols> {
    match text {
        "tcp" => Some(Protocols::Tcp),
        "udp" => Some(Protocols::Udp),
        "tcp+udp" => Some(Protocols::Both),
        _ => None,
    }
}

/// As [`duration`], with days (`7d`), and seconds without a unit: what a command line takes.
#[must_use]
pub fn period(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "" => Some(Duration::from_secs(number)),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => duration(text),
    }
}

/// `250ms`, `25s`, `2m` or `1h`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// `50/second`.
#[must_use]
pub fn rate(text: &str) -> Option<Rate> {
    let (count, unit) = text.split_once('/')?;
    let per = match unit {
        "second" => RateUnit::Second,
        "minute" => RateUnit::Minute,
        "hour" => RateUnit::Hour,
        _ => return None,
    };
    let count = u32::try_from(decimal(count)?).ok().filter(|&count| count > 0)?;
    Some(Rate { count, per })
}

/// `800kbit`, `100mbit`, `10mbyte` or `1gbit`, per second; at least 8 kbit, at most 1,000 gbit.
#[must_use]
pub fn bandwidth(text: &str) -> Option<Bandwidth> {
    let (number, unit) = number_and_unit(text)?;
    let bits_per_unit: u64 = match unit {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        "kbyte" => 8_000,
        "mbyte" => 8_000_000,
        "gbyte" => 8_000_000_000,
        _ => return None,
    };
    let bits = number.checked_mul(bits_per_unit)?;
    (8_000..=1_000_000_000_000).contains(&bits).then_some(Bandwidth { bytes_per_second: bits / 8 })
}

/// `65536`, `64KiB`, `256MiB` or `1GiB`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((decimal(digits)?, unit))
}

/// Decimal digits only: no sign, no leading zero, nothing else.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_fetched_over_tls_or_from_this_machine() {
        for valid in [
            "https://www.cloudflare.com/ips-v4",
            "https://[2001:db8::1]/x",
            "http://127.0.0.1:8080/x",
            "http://[::1]/x",
        ] {
            assert_eq!(fetchable(valid).as_deref(), Some(valid));
        }
        for bad in [
            "http://example.com/x",
            "http://127.0.0.1.example.com/x",
            "http://[::1].example.com/x",
            "https://",
            "https:///x",
            "https://user@example.com/x",
            "https://example.com/a b",
            "file:///etc/shadow",
            "",
        ] {
            assert_eq!(fetchable(bad), None, "{bad}");
        }
    }
}
