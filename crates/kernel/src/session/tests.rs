//! The programs at work in the kernel: on real sockets in a network namespace of the test's own, and on
//! synthetic packets where no socket would send such a thing.
//!
//! Each case asserts the verdict and what was counted, and then its negation: a program that drops, or passes,
//! everything cannot pass here. All need root, and say so where it is missing.

mod answers;
mod claims;
mod command;
mod contacts;
mod decision;
mod differential;
mod forward;
mod heads;
mod heads_on_host;
mod host;
mod leases;
mod message;
mod packets;
mod places;
mod processes;
mod queries;
mod requests;
mod resume;
mod sends;
mod takeover;
mod tracer;
mod turns;
mod verifier;
mod wire;
