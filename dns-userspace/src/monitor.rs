//! Live records of intercepted queries for the readers that are connected; never logged.

mod frame;
mod hub;
mod record;
mod stream;

pub use crate::model::Transport;
pub use frame::Exchange;
pub use hub::{Hub, Subscription};
pub use record::{LeftOut, Line, Record, Verdict};
pub use stream::{DEFAULT_RATE, Filter, lines};
