//! Dynamic DNS: the edge's own names follow its public address.
//!
//! - Pure: `lookout` decides when an address is looked for and when it counts, `own_address` which
//!   of the machine's own is the public one, `keeper` what is to be done with each record, by the
//!   plan of `record`; `pause` and `failure` have the limits of retries and of what is reported.
//!   `update` makes and reads DNS messages, `tsig` reads keys.
//! - Shell: `address` finds the address, `server` and `exchange` speak to a name server,
//!   `cloudflare` to that provider; `authority` is one of the two; `records` carries out what the keeper
//!   decides, and `task` runs all of it.

pub mod authority;
pub mod cloudflare;
pub mod failure;
pub mod keeper;
pub mod lookout;
pub mod own_address;
pub mod pause;
pub mod record;
pub mod records;
pub mod server;
pub mod task;
pub mod tsig;
pub mod update;

mod address;
mod exchange;
