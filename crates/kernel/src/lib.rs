//! The kernel side of a run: the BPF programs, their loader, and the few system calls that have no safe
//! wrapper elsewhere.
//!
//! The only crate with `unsafe`, the only one that needs clang to build, and the only one that knows a
//! BPF map by name. What it hands out are the plain types of `blackstart-core`.

mod abi;
mod complaint;
mod error;
mod event;
mod fill;
mod memory;
pub mod peer;
mod probe;
mod read;
pub mod session;
mod skipped;
pub mod spawn;
pub mod support;
mod tracer;

pub use error::{Error, ErrorKind};
pub use event::{AnswerWanted, Event};
pub use memory::{give_back_memory, keep_memory_together};
pub use session::forward::{Asker, Listening, Lookup, Unread, Unwritten};
pub use session::found::{FoundProcess, FoundSocket, Known, detach_links};
pub use session::{Feature, Heart, LeftOut, Orphan, Session, Settings};
pub use tracer::Tracer;
