//! What two processes of one forwarder exchange while the newer takes over: the pure part.
//!
//! The newer process owns the tunnel, the listeners and every new flow. The elder keeps its flows
//! until they end, for `[limits] drain` at most. A WireGuard session cannot be shared, so that inner
//! packets of the elder's flows cross between the two, each as one datagram of a Unix socket that
//! keeps their borders (`SOCK_SEQPACKET`):
//!
//! 1. The elder admits no more flows, and sends the keys of those that it has ([`Message::Flows`]),
//!    then [`Message::Ready`].
//! 2. The newer begins its handshakes. From then on a packet of one of these flows goes to the elder
//!    ([`Message::Packet`]), and what the elder sends goes into the tunnel.
//! 3. The elder reports each flow that ends ([`Message::Ended`]), and ends after the last.
//!
//! [`message`] is the form on the socket, [`elder`] what the newer process knows of the elder.

pub mod elder;
pub mod message;

pub use elder::{Elder, Keeper};
pub use message::{BadMessage, Message};
