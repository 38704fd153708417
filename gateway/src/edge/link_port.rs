//! The port of the link: open to peers while the daemon owns its sockets.

use std::net::SocketAddr;

use super::Edge;
use crate::kernel::Failure;

impl Edge {
    /// Opens the port of the link at these addresses, where the daemon listens, and closes it at all others.
    ///
    /// A socket that is about to be closed is left out first. After an apply that gives the link another address or port, it
    /// is closed until the daemon owns a socket there and calls this again; it is closed when the daemon starts, too.
    ///
    /// # Errors
    /// What the kernel refused; the next look at the kernel tries it again.
    pub async fn open_link(&self, sockets: Vec<SocketAddr>) -> Result<(), Failure> {
        let _turn = self.applying.lock().await;
        self.in_force.borrow_mut().set_link(sockets);
        self.follow_machine().await
    }
}
