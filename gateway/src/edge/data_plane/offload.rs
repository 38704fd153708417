//! Offloads of the running device: what is in use, and the switch for each.

use policy::Switch;
use policy::gateway::Policy;
use tunnel::device::Offloads;
use tunnel::io::tun::UDP_SINCE;

use super::DataPlane;
use crate::control::report::{self, Offload, SCHEMA};
use daemon::exit::{Exit, ExitError};

/// The names, in the order they are shown.
const NAMES: [&str; 5] = ["tun_tcp", "tun_udp", "udp_gso", "udp_gro", "busy_poll"];

impl DataPlane {
    /// What is in use, and what the policy wants.
    pub(in crate::edge) fn offloads(&self, policy: &Policy) -> report::Offloads {
        let (mut now, mut wanted) = (self.device.offloads(), offloads(policy));
        let mut known = self.device.supported_offloads();
        let offload = |name: &str| {
            let is = |offloads: &mut Offloads| field(offloads, name).is_some_and(|on| *on);
            let kernel = is(&mut known);
            Offload {
                name: name.to_owned(),
                on: is(&mut now) && kernel,
                configured: is(&mut wanted),
                kernel: Some(kernel),
                needs: Some(needs(name).to_owned()),
            }
        };
        report::Offloads { schema: SCHEMA, offloads: NAMES.into_iter().map(offload).collect() }
    }

    /// Logs once which optional features this machine has.
    pub(in crate::edge) fn log_kernel_features(&self, policy: &Policy) {
        let offloads = self.offloads(policy).offloads;
        let names = |has: bool| {
            let some = offloads.iter().filter(|offload| offload.kernel == Some(has));
            let named = some.map(|offload| match &offload.needs {
                Some(needs) if !has => format!("{} (needs {needs})", offload.name),
                _ => offload.name.clone(),
            });
            let named: Vec<_> = named.collect();
            if named.is_empty() { "none".to_owned() } else { named.join(", ") }
        };
        tracing::info!("optional features of this machine: has {}; lacks {}", names(true), names(false));
    }

    /// Turns offloads on or off; the next apply brings back what the configuration wants.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a name that there is not, [`Exit::Failed`] when the kernel does not take
    /// it: nothing changed.
    pub(in crate::edge) fn set_offloads(
        &self,
        policy: &Policy,
        switches: &[(String, bool)],
    ) -> Result<report::Offloads, ExitError> {
        let mut next = self.device.offloads();
        for (name, on) in switches {
            let Some(field) = field(&mut next, name) else {
                let names = NAMES.join(", ");
                return Err(ExitError::new(
                    Exit::Usage,
                    format!("there is no offload {name}; there are {names}"),
                ));
            };
            *field = *on;
        }
        self.device
            .set_offloads(next)
            .map_err(|error| ExitError::new(Exit::Failed, format!("offloads: {error}")))?;
        tracing::info!(?next, "offloads were changed until the next apply");
        Ok(self.offloads(policy))
    }
}

/// The offloads that a policy wants.
pub(super) fn offloads(policy: &Policy) -> Offloads {
    let on = |switch: Switch| switch == Switch::Auto;
    let offload = &policy.offload;
    Offloads {
        tun_tcp: on(offload.tun_gso),
        tun_udp: on(offload.tun_gso) && on(offload.tun_gro),
        udp_gso: on(offload.udp_gso),
        udp_gro: on(offload.udp_gro),
        busy_poll: on(offload.busy_poll),
    }
}

/// What an offload needs of the machine.
fn needs(name: &str) -> &'static str {
    match name {
        "tun_udp" => UDP_SINCE,
        "udp_gso" => "Linux 4.18",
        "udp_gro" => "Linux 5.0",
        "busy_poll" => "two processors",
        _ => "Linux 3.8",
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
