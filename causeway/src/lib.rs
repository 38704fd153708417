//! The command `causeway`: one for people, on both machines. It asks the daemon that runs there.

mod agent;
mod backup;
pub mod cli;
mod doctor;
mod history;
mod join;
mod lines;
mod machine;
mod origin;
#[cfg(target_os = "linux")]
mod pair;
mod publish;
#[cfg(target_os = "linux")]
mod setup;
mod start;
mod status;
