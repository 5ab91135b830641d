//! One run: prepare the host, start the command, watch, clean up, report.
//!
//! This crate acts, and leaves deciding to `blackstart-core` and its own pure parts (`plan`), and
//! printing to its caller: it never prints, never exits the process and parses no flags.
#![forbid(unsafe_code)]

mod agent;
mod aliases;
mod answer;
mod cgroup;
mod connections;
mod control;
mod files;
mod finished;
mod follow;
mod forward;
mod found;
mod hidden;
mod inherited;
mod late;
mod leavers;
mod listeners;
mod locked;
mod lookup;
mod meanwhile;
mod orphan;
mod pins;
mod plan;
mod process;
mod refusal;
mod resolv;
mod run;
mod scripts;
mod state;
mod story;
mod stray;
mod supervise;
mod terminal;
mod trusted;
mod usual;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blackstart_core::catalog::Catalog;
use blackstart_core::drill::Drill;
use blackstart_core::lock::Lock;
use blackstart_core::policy::Policy;
use blackstart_core::record::Verdict;
use blackstart_core::redact::Redaction;
use blackstart_core::report::{Attached, Gap, Mode, PolicySource, RulePlace, Told};
use serde::{Deserialize, Serialize};

pub use agent::asking::{Agent, Asked, Started};
pub use agent::reply::Judging;
pub use agent::units::{Rules, Wanted as UnitRequest};
pub use agent::{Event, Post, Resolve, Tell, Wanted, Why, serve};
pub use blackstart_kernel::Feature;
pub use blackstart_kernel::spawn::inherit_nothing;
pub use blackstart_kernel::support;
pub use blackstart_kernel::{give_back_memory, keep_memory_together};
pub use cgroup::Meant;
pub use control::{Origin, Running, running};
pub use finished::{FILES_KEPT, Finished, finished, forget};
pub use meanwhile::{last_checkpoint, meanwhile};
pub use orphan::{Failed, Living, Swept, sweep};
pub use plan::Need;
pub use refusal::{Cause, Refusal};
pub use run::attach::{Attaching, attach};
pub use run::run;
pub use state::SPARE;
pub use trusted::is_trusted;

/// What is to be run, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The run's id, where somebody has to know it before; see [`new_id`].
    pub id: Option<String>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The policy; without one everything passes and is recorded.
    pub policy: Option<GivenPolicy>,
    /// What is taken for a secret in command lines.
    pub redaction: Redaction,
    /// What the run deploys; where none, the policy's `service`.
    pub service: Option<String>,
    /// Goes before the policy's own mode.
    pub mode: Option<Mode>,
    /// What becomes of processes that outlive the command; where none, the policy's default decides.
    pub leftover: Option<AtEnd>,
    /// Kinds of gaps that do not stop an enforcing run; see [`Need::kind`].
    pub accept_gaps: Vec<String>,
    /// Take from the command what it could undo its guard with; where none, the policy's default decides.
    pub contain: Option<bool>,
    /// Put unix sockets that are denied out of the command's reach, in mounts of its own.
    pub hide_sockets: bool,
    /// Run beside an orphan of the same service.
    pub concurrent: bool,
    /// Run the command whatever of ours fails, let everything pass and record what can be; why.
    pub break_glass: Option<String>,
    /// The outage that is played for the run; the policy has its denials already.
    pub drill: Option<Drill>,
    /// The egress lock that the run is compared with.
    pub lock: Option<LockOrder>,
    /// The services, to say which circles the run closes.
    pub catalog: Option<Arc<Catalog>>,
    /// Where the policy was read from.
    pub origin: Origin,
    /// Where state is kept.
    pub state_dir: PathBuf,
}

/// An id for a run to come.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Request {
    /// One without a command, for what is no run yet.
    pub(crate) fn bare(state: &Path) -> Self {
        Self {
            id: None,
            command: Vec::new(),
            env: Vec::new(),
            policy: None,
            redaction: Redaction::default(),
            service: None,
            mode: None,
            leftover: None,
            accept_gaps: Vec::new(),
            contain: None,
            hide_sockets: false,
            concurrent: false,
            break_glass: None,
            drill: None,
            lock: None,
            catalog: None,
            origin: Origin::default(),
            state_dir: state.to_owned(),
        }
    }
}

/// What is to be done with the lock of a deployment.
#[derive(Debug, Clone)]
pub struct LockOrder {
    /// The lock as it was written, to tell the difference; none if there is none yet.
    pub known: Option<Lock>,
    /// The directory of its file, absolute.
    pub beside: PathBuf,
}

/// A policy, and where it came from.
#[derive(Debug, Clone)]
pub struct GivenPolicy {
    /// The policy, as everything made it that was given: the state keeps it, since whoever adopts this run will
    /// need it, and its files may have changed by then.
    pub policy: Policy,
    /// Where it came from; without files, if none is behind it.
    pub source: PolicySource,
}

/// What becomes of processes that outlive the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtEnd {
    /// They go on, no longer guarded, where the caller is.
    Release,
    /// They are ended.
    Kill,
    /// They go on, still guarded: an orphan that later commands sweep once it is empty.
    Keep,
    /// The run lasts until they have ended.
    Wait,
}

/// Something to tell while the run is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// A new kind of refusal.
    Refused(Refused),
    /// Somebody else's cgroup is guarded from now on.
    Attached {
        /// Which, and what was open there before.
        to: Attached,
        /// How many processes are in it.
        processes: usize,
    },
    /// It is under guard from now on, and keeps its checkpoints in this directory.
    Under(PathBuf),
    /// Something that this run has to go without.
    Gap(Gap),
    /// Something of ours failed; the run goes on.
    Warning(String),
    /// An earlier run, whose supervisor had ended, is over now: its report.
    Adopted(PathBuf),
}

/// A refusal; told once for each executable, destination and rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The process.
    pub pid: u32,
    /// What it executed, if the kernel saw it.
    pub exe: Option<String>,
    /// Its arguments when it did, redacted.
    pub argv: Vec<String>,
    /// A name (a lookup), or a name or address with a port.
    pub destination: String,
    /// [`Verdict::Deny`] or [`Verdict::WouldDeny`].
    pub verdict: Verdict,
    /// The rule as text.
    pub rule: String,
    /// Where it is written, if it stands in a policy.
    pub place: Option<RulePlace>,
    /// Why it stands, as its author wrote.
    pub reason: Option<String>,
    /// What to do instead, as its author wrote.
    pub fix: Option<String>,
}

/// A run that has taken place.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What happened.
    pub report: Told,
    /// The child's own exit code, or 128+n; 120 if it succeeded and a rule says that a refusal fails the run.
    pub exit_code: i32,
    /// The signal that ended the child: a caller that ends by the same one looks to its own parent as the
    /// child would have.
    pub signal: Option<i32>,
    /// The lock that this run makes, if one was asked for.
    pub lock: Option<Lock>,
    /// Where the report is kept; none if it could not be.
    pub record: Option<PathBuf>,
    /// Nothing of the run goes on under guard, so that the report will stay as it is.
    pub finished: bool,
    /// What the run was judged by, if that changed while it was on: the rules of all policies.
    pub reloaded: Option<Policy>,
}

/// For a test that makes cgroups, or loads programs: without root it fails, and is not skipped.
#[cfg(test)]
#[track_caller]
fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: run it as root"
    );
}
