//! Whole-system scenarios: real daemons, real services, real namespaces.
//!
//! [`Site`] is the worked example of the documents in a lab: an edge with its gateway, an origin
//! with its forwarder, and their files. [`Caddy`], [`Nginx`], [`NfsServer`] and [`WireGuardGo`] are
//! the real parts next to them; [`Pair`] is `causeway-wg` alone, at both ends of a cable.
//!
//! One scenario alone, with everything that its daemons logged when it fails: `cargo build
//! --profile lab --workspace --bins && cargo nextest run --cargo-profile lab -p scenarios NAME`.
//! `CAUSEWAY_SOAK=1` chooses the full counts, `CAUSEWAY_BINARIES` a folder of other builds.
//!
//! `CAUSEWAY_OFFLOAD=off` (or `falling`) runs every scenario of the worked example without
//! offloads, or with sends that the kernel refuses to segment.
//!
//! Root of a user namespace is enough for all scenarios but those that become another user, for
//! which real root is needed. Without it these skip themselves with a message, and `.ci/run` fails
//! when one was skipped.
#![cfg(target_os = "linux")]

mod acme;
mod boot_clock;
mod checkup;
mod crowd;
pub mod forge;
mod hostile;
pub mod installed;
mod keys;
mod nfs;
mod nft;
mod offload;
mod old_kernel;
mod oracle;
mod paced;
pub mod pairing;
mod plain;
mod probe;
mod router;
mod seen;
mod shifted_clock;
mod site;
pub mod steps;
pub mod terminal;
mod transfer;
mod web;
mod wireguard;
mod zone;

pub use acme::Authority;
pub use boot_clock::BootClock;
pub use checkup::{Checkup, End, SITES, Served, examined, leads_to};
pub use crowd::{Crowd, EchoService, raise_descriptors};
pub use hostile::{Attacker, Closed, Silence, Visitor, initiation, initiations, memory, page};
pub use keys::{KeyPair, preshared_key, write_secret};
pub use nfs::{NfsServer, read as read_nfs};
pub use nft::{OtherNft, own_table, table};
pub use offload::{Carried, Offload};
pub use old_kernel::BrokenReads;
pub use oracle::Oracle;
pub use paced::{PacedFlow, PacedLoad, Way};
pub use plain::{Pair, Plain, own_address};
pub use probe::{Probe, growth, packet_counters};
pub use router::Router;
pub use seen::{ask_tcp, ask_udp, forwarded_for, serve_seen_tcp, serve_seen_udp};
pub use shifted_clock::{ahead_by, shifted_clock};
pub use site::{Config, Site};
pub use transfer::{Measured, download, serve_bulk, sha256, upload};
pub use web::{Caddy, ModernClient, Nginx, expired_certificate};
pub use wireguard::{PlainPeer, WireGuardGo};
pub use zone::Zone;
