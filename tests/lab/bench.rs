//! Measuring Blackstart against its bars.
//!
//! Wall-clock figures come from pairs: a guarded and a bare client that take orders in turn, so that
//! whatever the machine does meanwhile meets both. Counts, and what the kernel says of the programs, come
//! from one run.

mod agent;
mod bar;
mod beside;
mod client;
mod costs;
mod endurance;
mod kernel;
mod latency;
mod load;
pub mod machine;
mod pairs;
mod policy;
mod scene;
mod storm;
mod swap;
mod tools;

pub use bar::{Bar, Bound, Results};
pub use kernel::verified_instructions;
pub use scene::{Scale, Scene};

/// Measures one part of the suite.
pub type Measure = fn(&Scene, &mut Results);

/// What is measured together, and kept in one file.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// In the file's name.
    pub name: &'static str,
    /// In the order in which they are measured.
    pub parts: &'static [(&'static str, Measure)],
}

/// All suites; the first is measured where none is named.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "bars",
        parts: &[
            ("programs", costs::programs),
            ("lookups", latency::lookups),
            ("connects", latency::connects),
            ("throughput", latency::throughput),
            ("inspected", latency::inspected),
            ("start", latency::start),
            ("tools", tools::denied),
            ("processes", load::processes),
            ("attempts", load::attempts),
            ("fresh", load::fresh),
            ("memory", load::memory),
            ("policy", policy::language),
            ("reload", swap::under_load),
        ],
    },
    // Many guards at once, and the death of who holds them.
    Suite {
        name: "agent",
        parts: &[
            ("start", agent::start),
            ("idle", agent::idle),
            ("killed", agent::killed),
        ],
    },
    // Minutes each, and counts only, but for what the host's own traffic feels.
    Suite {
        name: "endurance",
        parts: &[
            ("beside", beside::unguarded),
            ("killed", storm::killed),
            ("million", endurance::million),
            ("thousand", endurance::thousand),
        ],
    },
];
