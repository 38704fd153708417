//! Where the edge of a code may be.

use std::net::{SocketAddr, ToSocketAddrs as _};

use daemon::exit::{Exit, ExitError};
use policy::HostPort;

/// Every address of every endpoint of a code, in their order.
pub(super) struct Endpoints {
    first: HostPort,
    found: Vec<(HostPort, SocketAddr)>,
}

impl Endpoints {
    /// Looks names up.
    ///
    /// # Errors
    /// When none has an address.
    pub(super) fn resolved(endpoints: &[HostPort]) -> Result<Self, ExitError> {
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for endpoint in endpoints {
            match endpoint.to_string().to_socket_addrs() {
                Ok(addresses) => found.extend(addresses.map(|address| (endpoint.clone(), address))),
                Err(error) => errors.push(format!("{endpoint}: {error}")),
            }
        }
        if let Some((first, _)) = found.first() {
            return Ok(Self { first: first.clone(), found });
        }
        let fix = "this machine finds no address of the edge; look at its name server, or pair with --endpoint ADDRESS";
        Err(ExitError::new(Exit::Failed, format!("{}\n{fix}", errors.join("\n"))))
    }

    /// The addresses.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.found.iter().map(|(_, address)| *address).collect()
    }

    /// The endpoint with this address, as the code has it; the first one for any other.
    pub(super) fn named(&self, address: Option<SocketAddr>) -> HostPort {
        let named = self.found.iter().find(|(_, found)| Some(*found) == address);
        named.map_or_else(|| self.first.clone(), |(endpoint, _)| endpoint.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_that_answered_is_named_and_the_first_one_for_an_address_of_none() {
        let texts = ["192.0.2.2:51820", "[2001:db8::2]:51820"];
        let endpoints = texts.map(|text| policy::text::host_port(text).unwrap());
        let resolved = Endpoints::resolved(&endpoints).ok().unwrap();
        assert_eq!(resolved.addresses(), texts.map(|text| text.parse().unwrap()));
        for (address, expected) in [
            (Some("[2001:db8::2]:51820"), &endpoints[1]),
            (Some("192.0.2.3:51820"), &endpoints[0]),
            (None, &endpoints[0]),
        ] {
            assert_eq!(&resolved.named(address.map(|text| text.parse().unwrap())), expected);
        }
    }
}
