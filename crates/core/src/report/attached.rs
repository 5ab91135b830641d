//! What a report says of a cgroup that was there before Blackstart.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// What Blackstart attached itself to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attached {
    /// By what it was meant.
    pub by: AttachedBy,
    /// What was typed: the unit, the container, the path, the process id.
    pub target: String,
    /// The cgroup, below the top of the tree.
    pub cgroup: String,
    /// Why the watch ended; none if that was not seen.
    pub until: Option<Until>,
    /// How often the cgroup was made anew while the watch went on: a unit that restarts in a loop has one report.
    #[serde(default)]
    pub restarts: u64,
    /// Internet sockets that were open by then: connections, and datagram sockets with a peer.
    pub connections: Vec<Connection>,
}

/// By what a cgroup was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttachedBy {
    /// A unit of systemd.
    Unit,
    /// A container's name or id.
    Container,
    /// The cgroup itself.
    Cgroup,
    /// A process in it.
    Pid,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Somebody asked for it.
    Asked,
    /// The time that it was given was over.
    Time,
    /// The cgroup was removed.
    Gone,
    /// The agent that guarded it was replaced by another, which guards it in a run of its own.
    Replaced,
}

/// A connection that was older than the guard. What goes through one of TCP is neither counted nor refused; the
/// datagrams of one of UDP are, each by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Process id of one that holds it, when known (initial pid namespace).
    pub pid: Option<u32>,
    /// Executable of that process.
    pub exe: Option<String>,
    /// The other end opened it.
    pub incoming: bool,
    /// What the policy says of its peer; none for one that the other end opened, which no policy is about.
    pub verdict: Option<Verdict>,
    /// The rule as text.
    pub rule: Option<String>,
    /// It was ended, as `--cut` asked for.
    pub cut: bool,
}
