//! Causeway's edge: the daemon gateway and its companion gatewayctl.

pub mod kernel;
pub mod privilege;
