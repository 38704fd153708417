//! Sections that both configurations have: their types, and how they are read.

mod control;
mod link;
mod list;
mod log;
mod metrics;
mod notify;
mod offload;
mod page;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;

pub(crate) use control::ControlKeys;
pub use link::Link;
pub use list::{List, parse_list};
pub(crate) use list::{allow_list, far_allow_list, list};
pub use log::{Log, LogFormat, LogLevel};
pub use metrics::Metrics;
pub use notify::{Mail, MailTls, Notify, Receiver};
pub use offload::Offload;
pub(crate) use page::same_socket;
pub use page::{Page, PageListen};

use crate::Position;
use crate::fields::At;
use crate::reader::Table;

/// Whose configuration is read: a few keys of shared sections belong to one daemon only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// It has a TUN device, and a group that may read its control socket.
    Gateway,
    /// It has neither.
    Forwarder,
}

/// The shared sections of one file; `None` for one with an error.
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    /// Where the addresses of `metrics` are written.
    pub(crate) metrics_at: Vec<At<SocketAddr>>,
    pub(crate) notify: Option<Vec<Notify>>,
    pub(crate) page: Page,
    /// Where the addresses of `page` are written.
    pub(crate) page_at: Vec<At<PageListen>>,
    pub(crate) control: Option<ControlKeys>,
    pub(crate) link: Option<Link>,
    /// Where the port of `link` is written, if it is.
    pub(crate) link_at: Option<Position>,
    /// `Some(None)` where the file does not have it.
    pub(crate) state_directory: Option<Option<PathBuf>>,
    pub(crate) log: Option<Log>,
    pub(crate) offload: Offload,
}

impl Shared {
    /// Reads all of them, so that every error is found.
    pub(crate) fn read(root: &Table<'_>, daemon: Daemon) -> Self {
        let (metrics, metrics_at) = metrics::metrics(root);
        let (page, page_at) = page::page(root, daemon, &metrics.listen);
        let (link, link_at) = link::link(root);
        Self {
            metrics,
            metrics_at,
            notify: notify::notify(root),
            page,
            page_at,
            control: control::control(root, daemon == Daemon::Gateway),
            link,
            link_at,
            state_directory: state::state_directory(root),
            log: log::log(root),
            offload: offload::offload(root, daemon == Daemon::Gateway),
        }
    }

    /// The addresses of the daemon's own pages, with the section that has each.
    pub(crate) fn pages(&self) -> Vec<(&'static str, SocketAddr)> {
        let metrics = self.metrics.listen.iter().map(|listen| ("metrics", *listen));
        metrics.chain(self.page.addresses(&[]).into_iter().map(|listen| ("page", listen))).collect()
    }
}
