//! A policy: what a run may reach.
//!
//! [`parse()`] reads one file into a [`Document`], with every diagnostic at once; nothing that stands in a
//! policy is ever ignored. [`resolve()`] makes the one [`Policy`] that a run is judged by out of the
//! documents of all layers, the catalog and the day: from then on a rule has a rank and a place, and neither
//! a service nor a date has to be looked up again.

mod day;
mod document;
mod failure;
mod follow;
mod limits;
mod parse;
mod raise;
mod resolve;
mod schema;
pub(crate) mod target;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Pattern;
use crate::path::{PathPattern, Selector};
use crate::report::Mode;
use crate::tables::{Protocol, RULE_DEFAULT, RuleId};

pub use crate::document::{Diagnostic, Severity};
pub use day::Day;
pub use document::{Case, Destination, Document, Note, Place, ServiceRule, Waiver, Written};
pub use follow::{BadUnit, UnitPattern};
pub use limits::{Cpus, Limits, MEMORY_UNITS, memory_text, read_time, time_text};
pub use parse::{API_VERSION, MAX_BYTES, Parsed, parse, read};
pub use raise::{At, Raise, Rung, raise};
pub use resolve::{Effective, Given, Layer, alone, resolve};
pub use schema::schema;

/// Allow or deny.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Let through.
    #[default]
    Allow,
    /// Refuse.
    Deny,
}

impl Effect {
    /// As it is written in a policy.
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Names.
    Name(Pattern),
    /// Addresses. An IPv4-mapped IPv6 prefix is kept as the IPv4 one that it stands for.
    Net(IpNet),
    /// Every address; only with a port.
    Any,
    /// Unix sockets. The policy's default does not apply to them.
    Unix(PathPattern),
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

impl PortRange {
    /// Every port that something can be sent to: all but 0.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };
}

/// What goes before what, DESIGN §6; within a rank, how closely a rule describes the attempt decides.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// A rule.
    #[default]
    Plain,
    /// A waiver in force.
    Waiver,
    /// A guardrail with `final: true`: no waiver and no other rule goes before it.
    Final,
}

/// How a refused attempt ends, for the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// At once, with this errno; a lookup with a final "no such name".
    Refuse(u8),
    /// Not at all: what is sent is lost, and the process waits.
    Blackhole,
}

impl Failure {
    /// ECONNREFUSED, as if nobody listened.
    pub const REFUSE: Self = Self::Refuse(111);
    /// ECONNRESET, as if the other side had hung up.
    pub const RESET: Self = Self::Refuse(104);
}

impl Default for Failure {
    fn default() -> Self {
        Self::REFUSE
    }
}

/// What an enforced refusal does to the run's exit code.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// Nothing.
    #[default]
    Warn,
    /// A run whose command succeeded exits with 120 all the same.
    Fail,
}

/// How long an address stands for the name that it was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseLife {
    /// As long as the run: what keeps addresses for itself, as most programs do, goes on.
    #[default]
    Run,
    /// As long as the answer says, and no less than five seconds.
    Ttl,
}

/// Ports at which what a connection sends first says whom it is for, if a policy does not say which: those of HTTP, of
/// TLS, and the usual ones of proxies.
const INSPECTED: [u16; 4] = [80, 443, 3128, 8080];
/// The last of them.
const PROXIES: [u16; 2] = [3128, 8080];
/// As many ports as may be named.
pub const MAX_INSPECTED: usize = 32;

/// Why a rule stands that nobody wrote: the catalog says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Derivation {
    /// The service that provides what the rule is about.
    pub service: String,
    /// From that service, need by need, to the one that is protected; only the service itself where
    /// that is protected, or named by the rule.
    pub path: Vec<String>,
    /// Its outage is played for this run: no file says that it is to be out of reach.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drill: bool,
}

/// One line of policy, as it is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Allow or deny.
    pub effect: Effect,
    /// Its rank.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rank: Rank,
    /// Its layer: of two rules that describe an attempt as closely, that of the higher one holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layer: u16,
    /// What it is about.
    pub target: Target,
    /// On which ports; none for all of them, and for protocols without ports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: Option<PortRange>,
    /// With which protocol; none for all of them. Never [`Protocol::Other`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Option<Protocol>,
    /// For which processes; none for all of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub process: Option<Selector>,
    /// For a deny: is it enforced, or only recorded?
    pub mode: Mode,
    /// For a deny: how an attempt ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure: Failure,
    /// For a deny: what it does to the exit code.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reaction: Reaction,
    /// Why, in its author's words.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Option<Box<str>>,
    /// What to do instead, in its author's words.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fix: Option<Box<str>>,
    /// Who answers for it: a waiver's owner, or that of the service that it comes from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Box<str>>,
    /// For a waiver: its last day, as it was written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires: Option<Box<str>>,
    /// Where the catalog made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub derived: Option<Box<Derivation>>,
    /// The rule as it was written, such as `deny .github.com`.
    pub text: Arc<str>,
    /// The file that it stands in.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// What most rules do not say is not written down for them.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rule {
    /// A rule about everything at its target, enforced, with nothing said besides.
    pub fn new(effect: Effect, target: Target) -> Self {
        Self {
            effect,
            rank: Rank::Plain,
            layer: 0,
            target,
            ports: None,
            protocol: None,
            process: None,
            mode: Mode::Enforce,
            failure: Failure::REFUSE,
            reaction: Reaction::Warn,
            reason: None,
            fix: None,
            owner: None,
            expires: None,
            derived: None,
            text: "".into(),
            file: "".into(),
            line: 1,
            column: 1,
        }
    }
}

/// A policy, ready to be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What the run deploys.
    pub service: Option<String>,
    /// Observe or enforce: for the default, for what cannot be judged, and for rules that do not say.
    pub mode: Mode,
    /// What holds where no rule does.
    pub default: Effect,
    /// How long leases last: the strictest word of all layers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease: LeaseLife,
    /// The ports under `inspect:` in any layer, sorted; none if nobody said ([`Self::inspected`]).
    #[serde(default, skip_serializing_if = "is_default")]
    pub inspect: Option<Vec<u16>>,
    /// What becomes of connections that hide a name (encrypted hellos of TLS), at the ports that are inspected.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hidden: Effect,
    /// The rules; `rules[id - 1]` is the one with that [`RuleId`]. Their order means nothing else.
    pub rules: Vec<Rule>,
    /// Waivers whose last day is over. They have no effect; whoever reads the report is to know of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<Rule>,
    /// What the run may use: the tightest of all layers.
    #[serde(default)]
    pub limits: Limits,
    /// The services whose outage it rehearses, sorted: those under `protect:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<String>,
    /// The services of systemd that are observed from their start until they are active, if they start while the run is
    /// on: those under `follow:` in any layer, sorted, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow: Vec<UnitPattern>,
}

impl Policy {
    /// Ports at which what a connection sends first is read: those that somebody named, or the usual ones where it can
    /// decide something. An address that is denied may be what a proxy is asked for.
    pub fn inspected(&self) -> &[u16] {
        let denies = |is_meant: fn(&Target) -> bool| {
            self.rules.iter().any(|rule| {
                rule.effect == Effect::Deny
                    && rule.protocol != Some(Protocol::Udp)
                    && is_meant(&rule.target)
            })
        };
        match &self.inspect {
            Some(ports) => ports,
            None if self.default == Effect::Deny || self.hidden == Effect::Deny => &INSPECTED,
            None if denies(|it| matches!(it, Target::Name(_) | Target::Any)) => &INSPECTED,
            None if denies(|it| matches!(it, Target::Net(_))) => &PROXIES,
            None => &[],
        }
    }
}

/// What holds without a policy: observe, allow, record.
impl Default for Policy {
    fn default() -> Self {
        Self {
            service: None,
            mode: Mode::Observe,
            default: Effect::Allow,
            lease: LeaseLife::Run,
            inspect: None,
            hidden: Effect::Allow,
            rules: Vec::new(),
            expired: Vec::new(),
            limits: Limits::default(),
            protect: Vec::new(),
            follow: Vec::new(),
        }
    }
}

impl Policy {
    /// The rule with this id; none for the default and for built-in ones.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        if id == RULE_DEFAULT {
            return None;
        }
        self.rules.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    /// Would anything be refused? A policy whose `mode` is observe may have rules that are enforced.
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce
            || self
                .rules
                .iter()
                .any(|rule| rule.effect == Effect::Deny && rule.mode == Mode::Enforce)
    }
}
