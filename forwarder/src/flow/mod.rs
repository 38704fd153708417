//! Flows: their keys, their table, and their limits.

pub mod admission;
pub mod greylist;
pub mod key;
pub mod ports;
pub mod quota;
pub mod table;

pub use admission::{Admission, Shed};
pub use greylist::Greylist;
pub use key::{ClientPrefix, EdgeId, EdgeIds, FlowKey};
pub use quota::Quota;
pub use table::{FlowTable, SlotId};
