//! The history of runs: one SQLite database on each host.
//!
//! A report goes in as it is and comes out as it went in, byte by byte. Beside it stand tables of what policies are
//! learned from and tested against, so that no question to the history reads reports.
//!
//! Nothing of a run waits for this. A run's report is on disk before it is taken in; what could not be taken in, because
//! the disk is full or somebody else writes, is taken in later. What cannot be read is set aside under another name and
//! never written over.
#![forbid(unsafe_code)]

mod attempts;
mod earlier;
mod error;
mod numbers;
mod open;
mod recall;
pub mod retention;
mod schema;
mod take_in;

pub use error::{Error, Kind};
pub use open::{FILE, LONGEST_LOG, Opened, SetAside, Store};
pub use recall::{Filter, Found, RunRow};
pub use take_in::Taken;
