//! Causeway's edge: the daemon gateway and its companion gatewayctl.
