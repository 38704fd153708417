//! The userspace WireGuard node both of Causeway's daemons share.
