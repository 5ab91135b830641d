//! Telling others of a run: log files, the journal, metrics, and alerts over HTTP.
//!
//! The only crate with an HTTP client and TLS. What is told is decided in `blackstart_core::notify`; here it is brought
//! out. Nothing here waits for a network while a run ends: alerts go into a spool below the state directory, and are sent
//! from there by another process ([`flush`]), which may fail, hang or be killed without anyone being held up. Files are
//! written by one of their own too ([`write()`]), since they may lie on a server.
#![forbid(unsafe_code)]

mod agent;
mod local;
mod names;
mod place;
mod queue;
mod send;
mod spool;
mod tell;
mod typed;
mod write;

pub use agent::AgentSums;
pub use place::text_of;
pub use send::{Flushed, Patience, Waiting, flush};
pub use spool::due;
pub use tell::{Done, tell};
pub use typed::{Typed, keep, take};
pub use write::{Heard, Orders, hear, waits, write};

use std::time::{SystemTime, UNIX_EPOCH};

use blackstart_core::history::Micros;

/// Now, on the wall clock.
fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    })
}
