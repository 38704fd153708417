//! What a pairing is about, decided before anything is opened: pure.

use std::net::IpAddr;
use std::path::Path;

use daemon::exit::{Exit, ExitError};
use daemon::link::message::Bytes;
use daemon::pairing::code::Code;
use daemon::pairing::message::Terms;
use policy::gateway::{Peer, Policy};
use policy::{Host, HostPort, Name, PublicPorts, Source};
use tunnel::key::{PrivateKey, PublicKey};

use crate::machine;

use super::address::{self, AddressError, Addresses};
use super::file::{NewPeer, with_peer};

/// What an origin may open by itself, unless the operator says otherwise: the web.
pub(crate) const USUAL: [&str; 3] = ["80", "443", "443/udp"];

/// What the operator asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The peer's name.
    pub(super) name: Name,
    /// The ports that it may open by itself.
    pub(super) may_publish: Option<Vec<PublicPorts>>,
    /// Its address in the tunnel.
    pub(super) address: Option<IpAddr>,
    /// Where the other machine finds the edge.
    pub(super) endpoints: Vec<HostPort>,
    /// The key that the edge is to have next.
    pub(super) next_key: Option<PublicKey>,
}

/// A pairing as it will be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    wanted: Wanted,
    /// Ports of [`USUAL`] that the peer does not get, since they are taken.
    pub(super) left_out: Vec<PublicPorts>,
    /// Whether the peer is in the file already and gets another key.
    pub(super) is_known: bool,
    addresses: Addresses,
    endpoints: Vec<HostPort>,
    terms: Terms,
    link_port: u16,
    /// A key in place of the peer's, while that is not known.
    placeholder: PublicKey,
}

impl Plan {
    /// What `wanted` comes to at the edge of this configuration; `placeholder` is a key that no
    /// peer has.
    ///
    /// # Errors
    /// [`Exit::Conflict`] without a free address, [`Exit::Usage`] without a public name,
    /// [`Exit::Invalid`] when the configuration with the new peer would be invalid.
    pub(super) fn of(
        (file, text): (&Path, &str),
        policy: &Policy,
        wanted: Wanted,
        placeholder: PublicKey,
    ) -> Result<Self, ExitError> {
        let known = policy.peers.iter().find(|peer| peer.name == wanted.name);
        if let (Some(_), Some(address)) = (known, wanted.address) {
            let message =
                format!("--address {address}: [[peer]] {} is there and keeps its own addresses", wanted.name);
            return Err(ExitError::new(Exit::Usage, message));
        }
        let addresses = match known {
            Some(peer) => address::for_known(policy, peer),
            None => address::for_new(policy, wanted.address),
        };
        let addresses = addresses.map_err(|error| ExitError::new(exit_of(&error), error))?;
        let endpoints = endpoints(file, policy, &wanted)?;
        let terms = terms(known, &wanted, &addresses)?;
        let mut plan = Self {
            wanted,
            left_out: Vec::new(),
            is_known: known.is_some(),
            addresses,
            endpoints,
            terms,
            link_port: policy.link.port,
            placeholder,
        };
        if plan.wanted.may_publish.is_none() && !plan.is_known {
            plan.take_usual_ports(file, text);
        }
        plan.text_with(file, text, placeholder)?;
        Ok(plan)
    }

    /// The usual ports, but for those that the edge or another peer has.
    fn take_usual_ports(&mut self, file: &Path, text: &str) {
        let usual: Vec<PublicPorts> = USUAL.iter().filter_map(|ports| PublicPorts::parse(ports)).collect();
        let fits = |ports: &PublicPorts| {
            let mut alone = self.clone();
            alone.wanted.may_publish = Some(vec![*ports]);
            alone.text_with(file, text, self.placeholder).is_ok()
        };
        let (taken, left_out): (Vec<_>, Vec<_>) = usual.into_iter().partition(fits);
        self.terms.may_publish = taken.iter().map(ToString::to_string).collect();
        (self.wanted.may_publish, self.left_out) = (Some(taken), left_out);
    }

    /// Gives the peer these ports instead of the usual ones.
    ///
    /// # Errors
    /// [`Exit::Invalid`] when it cannot have them; it then keeps those that were planned.
    pub(super) fn set_ports(
        &mut self,
        file: &Path,
        text: &str,
        ports: Vec<PublicPorts>,
    ) -> Result<(), ExitError> {
        let mut next = self.clone();
        next.terms.may_publish = ports.iter().map(ToString::to_string).collect();
        (next.wanted.may_publish, next.left_out) = (Some(ports), Vec::new());
        next.text_with(file, text, self.placeholder)?;
        *self = next;
        Ok(())
    }

    /// The code of this pairing.
    pub(super) fn code(&self, one_time: PrivateKey, edge_key: PublicKey, edge: Name) -> Code {
        let Addresses { temporary, edge: edge_address, .. } = self.addresses;
        let endpoints = self.endpoints.clone();
        Code {
            one_time,
            edge_key,
            edge,
            endpoints,
            edge_address,
            address: temporary,
            link_port: self.link_port,
        }
    }

    /// The key that the edge is to have next, when the other machine gets it.
    pub(super) const fn next_key(&self) -> Option<PublicKey> {
        self.wanted.next_key
    }

    /// What the edge offers.
    pub(super) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The text of the configuration with the peer that has this key.
    ///
    /// # Errors
    /// [`Exit::Invalid`] with what would be wrong with it.
    pub(super) fn text_with(&self, file: &Path, text: &str, key: PublicKey) -> Result<String, ExitError> {
        let peer = NewPeer {
            name: self.wanted.name.clone(),
            key,
            addresses: self.addresses.peer.iter().map(|address| address.ip()).collect(),
            may_publish: self.wanted.may_publish.clone(),
        };
        let invalid = |message: String| ExitError::new(Exit::Invalid, message);
        let text = with_peer(text, &peer).map_err(|error| invalid(format!("{}: {error}", file.display())))?;
        match policy::gateway::parse(&Source { name: file, text: &text }) {
            Ok(_) => Ok(text),
            Err(errors) => {
                let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
                Err(invalid(format!(
                    "with peer {} the file would be invalid:\n{}",
                    peer.name,
                    lines.join("\n")
                )))
            }
        }
    }
}

fn exit_of(error: &AddressError) -> Exit {
    match error {
        AddressError::NoRoom { .. } => Exit::Conflict,
        AddressError::NotFree { .. } | AddressError::NoOwnAddress(_) => Exit::Usage,
    }
}

fn endpoints(file: &Path, policy: &Policy, wanted: &Wanted) -> Result<Vec<HostPort>, ExitError> {
    if !wanted.endpoints.is_empty() {
        return Ok(wanted.endpoints.clone());
    }
    let port = policy.interface.listen_port;
    let named = policy.wan.name.clone().map(|host| vec![HostPort { host, port }]);
    named.ok_or_else(|| {
        let message = format!(
            "the other machine must find this edge: write its public name or address into {} as [wan] name, such as \
             name = \"kyiv.example.com\", or give it with --endpoint kyiv.example.com:{port}",
            file.display()
        );
        ExitError::new(Exit::Usage, message)
    })
}

fn terms(known: Option<&Peer>, wanted: &Wanted, addresses: &Addresses) -> Result<Terms, ExitError> {
    let kept = known.map(|peer| peer.may_publish.clone()).unwrap_or_default();
    let ports = wanted.may_publish.clone().unwrap_or(kept);
    Ok(Terms {
        peer: wanted.name.clone(),
        version: machine::version()?,
        addresses: addresses.peer.clone(),
        may_publish: ports.iter().map(ToString::to_string).collect(),
        preshared_key: known.is_some_and(|peer| peer.preshared_key_file.is_some()),
        next_key: wanted.next_key.map(|key| Bytes(*key.as_bytes())),
    })
}

/// The name that the other machine gives this edge: the first part of its public name, where that
/// is one; else the machine's own.
///
/// # Errors
/// When it has none.
pub(super) fn name_of(policy: &Policy) -> Result<Name, ExitError> {
    let public = policy.wan.name.as_ref().and_then(|host| match host {
        Host::Name(name) => name.split('.').next().and_then(Name::new),
        Host::Address(_) => None,
    });
    public.map_or_else(|| machine::name_or("edge"), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "[interface]\naddress = [\"10.77.88.1/24\"]\nprivate_key_file = \"k\"\n\
        [wan]\nname = \"kyiv.example.com\"\n";

    #[test]
    fn a_first_origin_gets_the_web_and_the_code_says_where_the_edge_is() {
        let plan = plan(BARE, wanted("wroclaw")).ok().unwrap();
        assert_eq!(plan.terms().may_publish, ["80", "443", "443/udp"]);
        assert_eq!(plan.terms().addresses, ["10.77.88.2/24".parse().unwrap()]);
        assert!(plan.left_out.is_empty() && !plan.is_known);
        let policy = parsed(BARE);
        let code = plan.code(key(9), key(1).public(), name_of(&policy).ok().unwrap());
        assert_eq!(
            (code.edge.as_str(), code.endpoints[0].to_string().as_str()),
            ("kyiv", "kyiv.example.com:51820")
        );
        assert_eq!(code.address, "10.77.88.254/24".parse().unwrap());
    }

    #[test]
    fn ports_that_the_edge_or_another_peer_has_are_left_out() {
        let other = key(3).public();
        let text = format!(
            "{BARE}accept = [\"tcp/80\"]\n[[peer]]\nname = \"gdansk\"\npublic_key = \"{other}\"\n\
             allowed_ips = [\"10.77.88.2/32\"]\nmay_publish = [\"443/udp\"]\n"
        );
        let plan = plan(&text, wanted("wroclaw")).ok().unwrap();
        assert_eq!(plan.terms().may_publish, ["443"]);
        assert_eq!(plan.left_out.len(), 2);
    }

    #[test]
    fn ports_that_were_requested_and_are_taken_are_an_error_of_the_file() {
        let wanted =
            Wanted { may_publish: Some(vec![PublicPorts::parse("51820/udp").unwrap()]), ..wanted("wroclaw") };
        let error = plan(BARE, wanted).err().unwrap();
        assert_eq!(error.exit, Exit::Invalid);
        assert!(error.message.contains("gateway.toml:") && error.message.contains("WireGuard"), "{error}");
    }

    #[test]
    fn ports_that_are_refused_at_the_question_leave_those_that_were_planned() {
        let mut plan = plan(BARE, wanted("wroclaw")).ok().unwrap();
        let mut set = |text: &str| {
            let ports = vec![PublicPorts::parse(text).unwrap()];
            let set = plan.set_ports(Path::new("gateway.toml"), BARE, ports);
            (set.is_ok(), plan.terms().may_publish.clone(), plan.wanted.may_publish.clone())
        };
        let (is_set, terms, written) = set("51820/udp");
        assert!(
            !is_set && terms == ["80", "443", "443/udp"] && written.is_some_and(|ports| ports.len() == 3)
        );
        let (is_set, terms, written) = set("25");
        assert!(is_set && terms == ["25"] && written.is_some_and(|ports| ports.len() == 1));
    }

    #[test]
    fn an_edge_that_no_one_can_find_is_named_with_the_fix() {
        let text = BARE.split("[wan]").next().unwrap();
        let error = plan(text, wanted("wroclaw")).err().unwrap();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("[wan] name") && error.message.contains("--endpoint"), "{error}");
        let endpoints = vec![policy::text::host_port("192.0.2.2:51820").unwrap()];
        assert!(plan(text, Wanted { endpoints, ..wanted("wroclaw") }).is_ok());
    }

    #[test]
    fn a_peer_that_is_there_keeps_everything_but_its_key() {
        let old = key(3).public();
        let text = format!(
            "{BARE}[[peer]]\nname = \"wroclaw\"\npublic_key = \"{old}\"\npreshared_key_file = \"p\"\n\
             allowed_ips = [\"10.77.88.7/32\", \"192.168.88.0/24\"]\nmay_publish = [\"25\"]\n"
        );
        let plan = plan(&text, wanted("wroclaw")).ok().unwrap();
        let terms = plan.terms();
        assert!(plan.is_known && terms.preshared_key);
        assert_eq!(terms.addresses, ["10.77.88.7/24".parse().unwrap()]);
        assert_eq!(terms.may_publish, ["25"]);
        let new = key(4).public();
        let changed = plan.text_with(Path::new("gateway.toml"), &text, new).ok().unwrap();
        assert_eq!(changed, text.replace(&old.to_string(), &new.to_string()));
        let moved = Wanted { address: Some("10.77.88.9".parse().unwrap()), ..wanted("wroclaw") };
        assert_eq!(self::plan(&text, moved).err().unwrap().exit, Exit::Usage);
    }

    #[test]
    fn another_peers_key_is_refused() {
        let other = key(3).public();
        let text = format!(
            "{BARE}[[peer]]\nname = \"gdansk\"\npublic_key = \"{other}\"\nallowed_ips = [\"10.77.88.2/32\"]\n"
        );
        let plan = plan(&text, wanted("wroclaw")).ok().unwrap();
        assert_eq!(
            plan.text_with(Path::new("gateway.toml"), &text, other).err().unwrap().exit,
            Exit::Invalid
        );
    }

    fn plan(text: &str, wanted: Wanted) -> Result<Plan, ExitError> {
        Plan::of((Path::new("gateway.toml"), text), &parsed(text), wanted, key(9).public())
    }

    fn parsed(text: &str) -> Policy {
        policy::gateway::parse(&Source { name: Path::new("gateway.toml"), text }).unwrap()
    }

    fn wanted(name: &str) -> Wanted {
        Wanted {
            name: Name::new(name).unwrap(),
            may_publish: None,
            address: None,
            endpoints: Vec::new(),
            next_key: None,
        }
    }

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes([byte; 32])
    }
}
