//! Causeway's edge: the daemon gateway and its companion gatewayctl.

pub mod config;
pub mod control;
pub mod exit;
pub mod kernel;
pub mod keygen;
pub mod privilege;
pub mod state;
