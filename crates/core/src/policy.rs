//! A policy: what a run may reach, as its author wrote it.
//!
//! [`parse()`] reads the YAML of DESIGN §6 and gives every diagnostic at once. Nothing that stands in a
//! policy is ever ignored: a key that this version does not act on is an error.

mod diagnostic;
mod limits;
mod parse;
mod target;
mod yaml;

use std::fmt;

use ipnet::IpNet;

use crate::name::Pattern;
use crate::report::Mode;
use crate::tables::{Protocol, RULE_DEFAULT, RuleId};

pub use diagnostic::{Diagnostic, Severity};
pub use limits::{Cpus, Limits, memory_text, time_text};
pub use parse::{API_VERSION, MAX_BYTES, Parsed, parse};

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Let through.
    Allow,
    /// Refuse.
    Deny,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Names.
    Name(Pattern),
    /// Addresses. An IPv4-mapped IPv6 prefix is kept as the IPv4 one that it stands for.
    Net(IpNet),
    /// Every address; only with a port.
    Any,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

/// One line of policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Allow or deny.
    pub effect: Effect,
    /// Of what.
    pub target: Target,
    /// On which ports; none for all of them, and for protocols without ports.
    pub ports: Option<PortRange>,
    /// With which protocol; none for all of them. Never [`Protocol::Other`].
    pub protocol: Option<Protocol>,
    /// Why, in its author's words.
    pub reason: Option<String>,
    /// What to do instead, in its author's words.
    pub fix: Option<String>,
    /// The rule as it was written, such as `deny .github.com`.
    pub text: String,
    /// The file that it stands in.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What the run deploys.
    pub service: Option<String>,
    /// Observe or enforce.
    pub mode: Mode,
    /// What holds where no rule does.
    pub default: Effect,
    /// The rules; `rules[id - 1]` is the one with that [`RuleId`]. Their order means nothing else.
    pub rules: Vec<Rule>,
    /// What the run may use.
    pub limits: Limits,
}

/// What holds without a policy: observe, allow, record.
impl Default for Policy {
    fn default() -> Self {
        Self {
            service: None,
            mode: Mode::Observe,
            default: Effect::Allow,
            rules: Vec::new(),
            limits: Limits::default(),
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
}
