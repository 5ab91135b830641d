//! What the agent says to a caller. It is root's word, and is read without suspicion.

use blackstart_core::agent::MAX_PACKET;
use blackstart_core::policy::Policy;
use blackstart_core::report::{Mode, PolicySource, RunLimits};
use serde::{Deserialize, Serialize};

use crate::Notice;
use crate::cgroup::Whereabouts;

/// One packet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Everything is there; the command's process is to come. A file with [`Judging`] comes along.
    Ready {
        /// The run's id.
        run: String,
        /// The process has to give up gaining privileges before it comes.
        confine: bool,
    },
    /// The process is guarded: let it become the command.
    Go {
        cgroup: Option<Whereabouts>,
        limits: RunLimits,
    },
    /// Something to tell meanwhile.
    Notice(Notice),
    /// Nothing is guarded.
    Refused {
        what: String,
        why: String,
        remedy: String,
    },
    /// The run is over; a file with the report comes along.
    Report {
        /// The command's, or 120; none where whoever made the report did not know it.
        exit_code: Option<i32>,
    },
}

/// What a run is judged by, all considered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Judging {
    /// Guardrails and the caller's own policy together.
    pub policy: Option<Policy>,
    /// Where it came from.
    pub source: PolicySource,
    /// What the run deploys.
    pub service: Option<String>,
    /// Observe or enforce.
    pub mode: Option<Mode>,
    /// What the authors of policies ought to look at, as text.
    pub remarks: Vec<String>,
}

impl Reply {
    /// As a packet; none if it says too much.
    pub(crate) fn packet(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self)
            .ok()
            .filter(|octets| octets.len() <= MAX_PACKET)
    }

    /// What a packet says.
    pub(crate) fn read(octets: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(octets).map_err(|error| {
            format!(
                "the agent's answer cannot be read: {error}; use the same release on both sides"
            )
        })
    }
}
