//! Measuring Blackstart against its bars.
//!
//! Wall-clock figures come from pairs: a guarded and a bare client that take orders in turn, so that
//! whatever the machine does meanwhile meets both. Counts, and what the kernel says of the programs, come
//! from one run.

mod bar;
mod client;
mod costs;
mod kernel;
mod latency;
mod load;
pub mod machine;
mod pairs;
mod policy;
mod scene;
mod swap;
mod tools;

pub use bar::{Bar, Bound, Results};
pub use scene::{Scale, Scene};

/// Measures one part of the suite.
pub type Measure = fn(&Scene, &mut Results);

/// The parts of the suite, in the order in which they are measured.
pub const PARTS: &[(&str, Measure)] = &[
    ("programs", costs::programs),
    ("lookups", latency::lookups),
    ("connects", latency::connects),
    ("throughput", latency::throughput),
    ("start", latency::start),
    ("tools", tools::denied),
    ("processes", load::processes),
    ("attempts", load::attempts),
    ("fresh", load::fresh),
    ("memory", load::memory),
    ("policy", policy::language),
    ("reload", swap::under_load),
];
