//! TCP flows: a cell on the side of the tunnel, a kernel socket on the other.
//!
//! [`TcpFlows`] owns the flows; the handlers borrow it for one call. A segment or
//! a timer goes to [`TcpHandler`], a flow whose upstream has not answered to
//! [`Dialler`](dialler::Dialler), a local connection to its [`Listener`].

mod admission;
mod dial;
mod dialler;
mod flow;
mod flows;
mod handler;
mod local;
mod open;
mod reach;
mod table;

pub(super) use flows::TcpFlows;
pub(super) use handler::TcpHandler;
pub(super) use local::Local;
pub use reach::Listener;
