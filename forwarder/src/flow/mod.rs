//! Flows: their keys, their table, their limits, and the replies to segments of none.

pub mod admission;
pub mod greylist;
pub mod key;
pub mod ports;
pub mod quota;
pub mod segment;
pub mod table;

pub use admission::{Admission, Shed};
pub use greylist::Greylist;
pub use key::{ClientPrefix, EdgeId, FlowKey};
pub use quota::Quota;
pub use table::{FlowTable, SlotId};
