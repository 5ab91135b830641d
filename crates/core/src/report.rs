//! The report: one document per run, and the pure function that makes it from the record.
//!
//! The types here are the document. A supervisor does not hold them: from the rows ([`Ledger`]) it makes an
//! [`Account`], which makes the long lists entry by entry while they are written.
//!
//! Field order is the document's order. Times are RFC 3339 UTC with microseconds. Lists are sorted, so
//! that the same record gives the same document.

mod account;
mod assemble;
mod attached;
mod coverage;
mod delegates;
mod drill;
mod encrypted;
pub mod exit_code;
mod findings;
mod followed;
mod image;
mod ledger;
mod limits;
pub(crate) mod probe;
mod whole;

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Rule;
use crate::tables::RULE_RESOLVER;

pub use crate::policy::Reaction;
pub use crate::record::{Attribution, Verdict};
pub use account::{Account, Parts, Told};
pub use assemble::{Leftover, Reload, RunFacts, assemble, rule_text};
pub use attached::{Attached, AttachedBy, Connection, Until};
pub(crate) use coverage::may_hide;
pub use coverage::{STANDING_GAPS, StandingGap};
pub use delegates::{DELEGATE, SOCKET_ALIAS};
pub use drill::{Drill, DrillFacts, DrillOutcome, Usual};
pub use encrypted::ENCRYPTED_DNS;
pub(crate) use findings::{printable, stable_id};
pub use followed::{
    FOLLOW_GAP, Followed, FollowedFacts, FollowedUntil, followed_exe, is_followed_exe, strangers,
};
pub(crate) use image::absolute;
pub use image::{image_name, image_script};
pub use ledger::Ledger;
pub use limits::{Applied, HighestFrom, Limit, LimitFacts, Overtime, RunLimits};
pub use probe::told_by_another;
pub use whole::{ATTEMPTS_LOST, PARTLY_GUARDED, UNGUARDED, UNSUPERVISED};

/// Version of this document's shape; a reader refuses a higher one.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The run.
    pub run: Run,
    /// Its processes.
    pub subjects: Vec<Subject>,
    /// The names that were looked up.
    pub names: Vec<Name>,
    /// The destinations that were reached for.
    pub flows: Vec<Flow>,
    /// Daemons outside the run that were contacted.
    pub delegates: Vec<Delegate>,
    /// Problems.
    pub findings: Vec<Finding>,
    /// What was seen and what was not.
    pub coverage: Coverage,
}

/// A time: RFC 3339, UTC, microseconds.
pub type Time = String;

/// Observe or enforce.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything passes; what would be refused is recorded.
    Observe,
    /// Denied attempts are refused.
    Enforce,
}

/// Was the run guarded?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarded {
    /// All programs were attached from the first instruction to the end, and nobody left for good.
    Yes,
    /// Some part was missing; see the gaps.
    Partly,
    /// Nothing was seen.
    No,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// UUIDv7.
    pub id: String,
    /// What the run deploys, if anyone said.
    pub service: Option<String>,
    /// Who owns it.
    pub owner: Option<String>,
    /// The command line, redacted.
    pub command: Vec<String>,
    /// Host name.
    pub host: String,
    /// Mode.
    pub mode: Mode,
    /// The policy, if there was one.
    pub policy: Option<PolicySource>,
    /// When the child started.
    pub started: Time,
    /// When the run ended.
    pub ended: Option<Time>,
    /// Exit code of `blackstart run`; none if the run's end was not seen.
    pub exit_code: Option<i32>,
    /// What it was allowed to use.
    pub limits: RunLimits,
    /// Policies that took over while the run was on; `policy` is the last one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reloads: Vec<Reloaded>,
    /// Why everything was let pass, if the run was started with `--break-glass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<String>,
    /// The outage that was played for this run, and what it made of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
    /// What it was attached to, where there was no command: a cgroup that was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Attached>,
    /// Units of systemd that started while it was on, and were observed, as `follow:` in the policy asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub followed: Vec<Followed>,
    /// Use of resources.
    pub usage: Usage,
    /// The kernel.
    pub kernel: Kernel,
    /// Was it guarded?
    pub guarded: Guarded,
    /// The host's own addresses, loopback left out.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its name servers: those of resolv.conf as the run saw it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<IpAddr>,
    /// The search list there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Scripts below the command's own directory that the run executed, if their texts were looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<Script>,
}

impl Run {
    /// Is a flow a look at one of the run's own name servers? These are the host's choice and not the
    /// deployment's. In a report that does not have them, whatever nobody named at port 53 is taken for one.
    pub(crate) fn asks_resolver(&self, flow: &Flow) -> bool {
        let address = flow.address.to_canonical();
        let mut resolvers = self.resolvers.iter().map(IpAddr::to_canonical);
        let known = self.resolvers.is_empty() || resolvers.any(|resolver| resolver == address);
        flow.rule == rule_text(None, RULE_RESOLVER)
            || known && flow.port == 53 && flow.name.is_none()
    }
}

/// A script of the deployment's own, and which of the run's destinations its text names. The text itself is
/// not kept: nobody knows what else stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Script {
    /// Its path, absolute where that is known.
    pub path: String,
    /// The subjects that ran it.
    pub subjects: Vec<u64>,
    /// Names and addresses, sorted.
    pub names: Vec<String>,
}

/// Where the policy came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicySource {
    /// SHA-256 of the files' bytes in order, in hex.
    pub digest: String,
    /// The files.
    pub files: Vec<String>,
}

/// A policy that took over while the run was on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// When.
    pub at: Time,
    /// The policy.
    pub policy: PolicySource,
}

/// What the run used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// User and system time of all its processes, if the kernel told.
    pub cpu_seconds: Option<f64>,
    /// Peak memory of the cgroup in bytes, if the kernel told.
    pub peak_memory: Option<u64>,
    /// Seconds from the command's start to the run's end.
    pub wall_seconds: Option<f64>,
    /// Seconds for which its processes could have run and had to wait for the limit of processor time, added up
    /// over processors, if the kernel told.
    pub throttled_seconds: Option<f64>,
    /// Processes that the kernel killed for want of memory, if it told.
    pub oom_kills: Option<u64>,
    /// The most processes and threads at the same time, if anyone counted.
    pub highest_pids: Option<u64>,
    /// Who counted.
    pub highest_pids_from: Option<HighestFrom>,
    /// How often a process or thread could not be started because of a limit on their number, if the kernel told.
    pub forks_refused: Option<u64>,
}

/// The kernel below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Names of the features that were in use, sorted.
    pub features: Vec<String>,
}

/// A process image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Number within the report, from 1.
    pub id: u64,
    /// Process id (initial pid namespace).
    pub pid: u32,
    /// The image it came from; none for the first.
    pub parent: Option<u64>,
    /// What was exec'ed.
    pub exe: String,
    /// Arguments, redacted; cut after 1 KiB.
    pub argv: Vec<String>,
    /// True if the arguments were cut.
    pub argv_truncated: bool,
    /// Start.
    pub started: Time,
    /// End.
    pub ended: Option<Time>,
    /// Exit code, or 128+n for signal n.
    pub exit: Option<i32>,
    /// It was there before Blackstart attached: what stands here is what /proc told then, and not what was seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
}

/// A name looked up by a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Name {
    /// The name.
    pub name: String,
    /// DNS type (`A`, `AAAA`, or `TYPE123`).
    #[serde(rename = "type")]
    pub qtype: String,
    /// Who asked.
    pub subject: Option<u64>,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule as text: the policy's own line, `default`, or a built-in rule's name.
    pub rule: String,
    /// How often.
    pub queries: u64,
    /// First time.
    pub first_seen: Time,
    /// Last time.
    pub last_seen: Time,
    /// Addresses that it was answered with.
    pub addresses: Vec<IpAddr>,
    /// CNAME targets on the way.
    pub chain: Vec<String>,
}

/// What the network said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A handshake was completed at least once.
    Connected,
    /// Refused, by us or by the other side.
    Refused,
    /// No answer.
    TimedOut,
    /// Not known (datagrams).
    Unknown,
}

/// A destination reached for by a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Who.
    pub subject: Option<u64>,
    /// Under which name: the one that was looked up, or that the connection itself gave (TLS, HTTP).
    pub name: Option<String>,
    /// Address; `::` for a name that a proxy was asked for.
    pub address: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// `tcp`, `udp`, or the protocol number.
    pub protocol: String,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule as text.
    pub rule: String,
    /// How often.
    pub attempts: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes sent, IP headers included. A `udp` flow with none is a route probe: a resolver library that sorts
    /// addresses, which sends nothing.
    pub bytes_sent: u64,
    /// First time.
    pub first_seen: Time,
    /// Last time.
    pub last_seen: Time,
    /// How sure.
    pub attribution: Attribution,
}

/// A daemon outside the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delegate {
    /// Who.
    pub subject: Option<u64>,
    /// Socket path (abstract names begin with `@`), or address.
    pub path: String,
    /// Process id of the listener, when known.
    pub listener_pid: Option<u32>,
    /// Executable of the listener, when known.
    pub listener_exe: Option<String>,
    /// Where the path leads to a socket that a rule denies by another name (a link, a bind mount): the name under which its
    /// server bound it. `verdict` and `rule` are then what is said of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
    /// Verdict.
    pub verdict: Verdict,
    /// The rule as text.
    pub rule: String,
    /// How often.
    pub attempts: u64,
}

impl Delegate {
    /// The path, and where it led if that is another one.
    pub fn place(&self) -> std::borrow::Cow<'_, str> {
        match &self.reached {
            Some(name) => format!("{} -> {name}", self.path).into(),
            None => (&*self.path).into(),
        }
    }

    /// Is it a unix socket? Those behind an address are among the flows as well.
    pub fn is_unix(&self) -> bool {
        self.path.parse::<std::net::SocketAddr>().is_err()
    }
}

/// How bad.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth mending.
    Warning,
    /// Broke something, or will.
    Error,
}

/// A deduplicated problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Stable over runs and hosts: from kind, rule and destination.
    pub id: String,
    /// `denied_dependency`, `would_deny`, `unguarded`, `left_cgroup`, `leftover`, `waiver_expired`, ….
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// Whom to ask, when the catalog names them.
    pub owner: Option<String>,
    /// Command line of the process behind it, redacted.
    pub command: Option<Vec<String>>,
    /// Subjects concerned, the process first, then its ancestors.
    pub subjects: Vec<u64>,
    /// The rule as text.
    pub rule: Option<String>,
    /// Why the rule stands, as its author wrote.
    pub reason: Option<String>,
    /// What to do.
    pub fix: Option<String>,
    /// What the refusal of it does to the run's exit code, of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaction: Option<Reaction>,
    /// Where the rule is written: several may have the same text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RulePlace>,
    /// The circle that a deployment closes, of a `loop`.
    #[serde(rename = "loop", default, skip_serializing_if = "Option::is_none")]
    pub circle: Option<Circle>,
}

impl Finding {
    /// One that names no process and no rule. `about` is what tells it from others of its kind, over runs and hosts.
    pub fn new(kind: &str, severity: Severity, title: &str, about: &[&str]) -> Self {
        Self {
            id: stable_id(&[&[kind][..], about].concat()),
            kind: kind.to_owned(),
            severity,
            title: printable(title),
            owner: None,
            command: None,
            subjects: Vec::new(),
            rule: None,
            reason: None,
            fix: None,
            reaction: None,
            place: None,
            circle: None,
        }
    }
}

/// Where a rule is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RulePlace {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1 on.
    pub line: usize,
}

impl RulePlace {
    /// That of a rule.
    pub fn of(rule: &Rule) -> Self {
        Self {
            file: rule.file.to_string(),
            line: rule.line,
        }
    }

    /// Is it this rule's?
    pub fn is_of(&self, rule: &Rule) -> bool {
        *self.file == *rule.file && self.line == rule.line
    }
}

impl fmt::Display for RulePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A circle: what is deployed needs, step by step, itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Circle {
    /// `direct`, `hidden` or `transient`.
    pub kind: String,
    /// Step by step, from what is deployed back to it.
    pub steps: Vec<Step>,
    /// No circle is shorter.
    pub shortest: bool,
    /// The services that cannot start without each other, these among them.
    pub component: Vec<String>,
}

/// A need on a circle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Who needs.
    pub from: String,
    /// What is needed.
    pub to: String,
    /// For what: `deploy` or `run`.
    pub phase: String,
    /// How that is known, in words.
    pub evidence: Vec<String>,
}

/// What was seen and what was not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Every attempt that a hook judged.
    pub attempts: u64,
    /// Attempts with a row of their own or in an overflow row.
    pub recorded: u64,
    /// The rest: `attempts - recorded`.
    pub lost: u64,
    /// Attempts with a known subject and, where not by literal address, a name.
    pub attributed: u64,
    /// Seconds without a supervisor.
    pub unsupervised_seconds: f64,
    /// What could not be seen. Those that stand, because this version has no eye for them, are in every report
    /// of a run that was guarded.
    pub gaps: Vec<Gap>,
}

/// Something that could not be seen or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// Kind; one that would stop an enforcing run is accepted under this name by `--accept-gap`.
    pub kind: String,
    /// In words: what, why.
    pub detail: String,
    /// How often; 0 where it is not countable.
    pub count: u64,
}

/// The document's JSON Schema, made from the types.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}
