//! Offloads of the running device: what is in use, and the switch for each.

use tunnel::device::Offloads;

use super::Edge;
use super::start::offloads;
use crate::control::report::{self, Offload, SCHEMA};
use crate::exit::{Exit, Stop};

/// The names, in the order they are shown.
const NAMES: [&str; 5] = ["tun_tcp", "tun_udp", "udp_gso", "udp_gro", "busy_poll"];

impl Edge {
    /// What is in use, and what the configuration wants.
    #[must_use]
    pub fn offloads(&self) -> report::Offloads {
        let (mut now, mut wanted) = (self.device.offloads(), offloads(&self.current.borrow().policy));
        let offload = |name: &str| Offload {
            name: name.to_owned(),
            on: field(&mut now, name).is_some_and(|on| *on),
            configured: field(&mut wanted, name).is_some_and(|on| *on),
        };
        report::Offloads { schema: SCHEMA, offloads: NAMES.into_iter().map(offload).collect() }
    }

    /// Turns offloads on or off; the next apply brings back what the configuration wants.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a name that there is not, [`Exit::Failed`] when the kernel does not take it: nothing changed.
    pub fn set_offloads(&self, switches: &[(String, bool)]) -> Result<report::Offloads, Stop> {
        let mut next = self.device.offloads();
        for (name, on) in switches {
            let Some(field) = field(&mut next, name) else {
                let names = NAMES.join(", ");
                return Err(Stop::new(Exit::Usage, format!("there is no offload {name}; there are {names}")));
            };
            *field = *on;
        }
        self.device
            .set_offloads(next)
            .map_err(|error| Stop::new(Exit::Failed, format!("offloads: {error}")))?;
        tracing::info!(?next, "offloads were changed until the next apply");
        Ok(self.offloads())
    }
}

fn field<'o>(offloads: &'o mut Offloads, name: &str) -> Option<&'o mut bool> {
    match name {
        "tun_tcp" => Some(&mut offloads.tun_tcp),
        "tun_udp" => Some(&mut offloads.tun_udp),
        "udp_gso" => Some(&mut offloads.udp_gso),
        "udp_gro" => Some(&mut offloads.udp_gro),
        "busy_poll" => Some(&mut offloads.busy_poll),
        _ => None,
    }
}
