//! What Blackstart decides and says, as values: names, policy, the compiled tables, the decision, the
//! record of a run and the report made from it.
//!
//! This crate is pure: no I/O, no clock, no threads, no `unsafe`. Everything here can be tested
//! without a kernel, and the kernel's tables are compiled here so that both sides share one meaning.
#![forbid(unsafe_code)]

pub mod agent;
pub mod catalog;
pub mod decide;
pub mod document;
pub mod drill;
pub mod explain;
pub mod graph;
pub mod history;
pub mod import;
pub mod lock;
pub mod name;
pub mod notify;
pub mod path;
pub mod policy;
pub mod record;
pub mod redact;
pub mod report;
pub mod tables;
