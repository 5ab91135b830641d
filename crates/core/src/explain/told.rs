//! A question and its answer, in words.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::policy::{Case, Destination, Policy, Rank, Rule};
use crate::record::Verdict;
use crate::report::{Mode, rule_text};
use crate::tables::{Protocol, RULE_DEFAULT, RuleId};

/// What is asked: who would reach for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is reached for.
    pub to: Destination,
    /// On which port; none for the lookup of a name only, and for what has no port.
    pub port: Option<u16>,
    /// The address that the name leads to.
    pub address: Option<IpAddr>,
    /// What the process executes.
    pub process: Option<String>,
    /// What those execute that it descends from.
    pub ancestors: Vec<String>,
    /// With which protocol.
    pub protocol: Protocol,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// What was asked for, as it was understood.
    pub destination: String,
    /// The verdict on the whole: a lookup that is refused leads nowhere.
    pub verdict: Verdict,
    /// Which of the following it is the verdict of.
    pub decided_by: Step,
    /// What becomes of the lookup of a name.
    pub lookup: Option<Judged>,
    /// What becomes of the connection, or of the contact with a socket.
    pub connect: Option<Judged>,
    /// Rules about the same destination that did not apply.
    pub missed: Vec<Missed>,
    /// What ought to be known besides.
    pub remarks: Vec<String>,
}

/// A step on the way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A name's lookup.
    Lookup,
    /// A connection, a datagram, or a contact with a unix socket.
    Connect,
}

/// A verdict with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: Told,
    /// Through what that rule is about this destination; nothing for the default and for built-in rules.
    pub through: Option<Through>,
    /// For a refusal: how the attempt ends, in the words of `on_match`.
    pub on_match: Option<String>,
    /// It makes a run fail whose command succeeded.
    pub fails_run: bool,
    /// It passes though a name of the address is denied.
    pub ambiguous: bool,
    /// The rules that apply as well, those first that come closest.
    pub lost: Vec<Lost>,
}

/// A rule as it is told of.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Told {
    /// Its number, which holds within one policy only.
    #[serde(skip)]
    pub id: RuleId,
    /// As a report names it.
    pub text: String,
    /// What else is known of it; nothing of the default and of built-in rules.
    #[serde(flatten)]
    pub rule: Option<Detail>,
}

/// What is known of a rule that stands in a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Detail {
    /// Where it stands.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Its layer, from 0: the host's guardrails, then the run's own policy.
    pub layer: u16,
    /// Its rank.
    pub rank: Rank,
    /// Why it stands.
    pub reason: Option<String>,
    /// What to do instead.
    pub fix: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// A waiver's last day.
    pub expires: Option<String>,
    /// The service that it was derived from.
    pub service: Option<String>,
    /// From that service, need by need, to the one that is protected.
    pub path: Vec<String>,
}

/// How a rule comes to be about a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// By its name, under which an answer gave the address to the run.
    Name(String),
    /// By the addresses around it.
    Addresses(#[schemars(with = "String")] IpNet),
    /// Every address is meant.
    Any,
    /// By its path.
    Path(String),
}

/// A rule that applies and does not decide.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Lost {
    /// The rule.
    pub rule: Told,
    /// The rule that goes before it, if it is one.
    pub to: Option<Told>,
    /// Why.
    pub why: Why,
}

/// Why one rule goes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The other is a final guardrail.
    Final,
    /// The other is a waiver in force.
    Waiver,
    /// The other describes the name more closely.
    Name,
    /// The other's prefix is longer.
    Prefix,
    /// The other describes the path more closely.
    Path,
    /// The other is about fewer ports.
    Port,
    /// The other names the protocol.
    Protocol,
    /// The other describes the process more closely.
    Process,
    /// The other's layer comes later.
    Layer,
    /// As close, and the other denies.
    Deny,
    /// The same said twice; the other stands first.
    Order,
    /// A deny of the address stands whatever name led to it.
    AddressDenied,
    /// Every name of the address is denied.
    NamesDenied,
    /// Both say the same, and what is said of the address is told.
    AddressFirst,
    /// The address is link-local, where a name permits nothing: only a rule about the address or a waiver does.
    LinkLocal,
    /// It is only recorded, and the other is enforced.
    Recorded,
    /// For a lookup: the name may be reached on some port.
    Reachable,
    /// For a lookup: it decides on some ports only.
    SomePorts,
}

/// A rule about the same destination that does not apply.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Missed {
    /// The rule.
    pub rule: Told,
    /// Why it does not apply.
    pub why: Miss,
}

/// Why a rule does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// It is for other ports, from the first to the last.
    Ports(u16, u16),
    /// It is for another protocol.
    Protocol(Protocol),
    /// It is for other processes.
    Process(String),
    /// It is a waiver whose last day is over.
    Expired(String),
}

impl Told {
    /// A rule by its number.
    pub fn new(policy: &Policy, id: RuleId) -> Self {
        match policy.rule(id) {
            Some(rule) => Self::of(id, rule),
            None => Self {
                id,
                text: match id {
                    RULE_DEFAULT => format!("default: {}", policy.default),
                    id => rule_text(Some(policy), id),
                },
                rule: None,
            },
        }
    }

    pub(super) fn of(id: RuleId, rule: &Rule) -> Self {
        Self {
            id,
            text: rule.text.to_string(),
            rule: Some(Detail::of(rule)),
        }
    }
}

impl Detail {
    /// What is told of a rule.
    pub fn of(rule: &Rule) -> Self {
        let derived = rule.derived.as_deref();
        Self {
            file: rule.file.to_string(),
            line: rule.line,
            column: rule.column,
            layer: rule.layer,
            rank: rule.rank,
            reason: rule.reason.as_deref().map(str::to_owned),
            fix: rule.fix.as_deref().map(str::to_owned),
            owner: rule.owner.as_deref().map(str::to_owned),
            expires: rule.expires.as_deref().map(str::to_owned),
            service: derived.map(|derived| derived.service.clone()),
            path: derived
                .map(|derived| derived.path.clone())
                .unwrap_or_default(),
        }
    }
}

impl From<&Case> for Question {
    fn from(case: &Case) -> Self {
        Self {
            to: case.to.clone(),
            port: case.port,
            address: case.address,
            process: case.process.clone(),
            ancestors: case.ancestor.iter().cloned().collect(),
            protocol: case.protocol.unwrap_or(Protocol::Tcp),
        }
    }
}

impl Explanation {
    /// The verdict of the step that decides, with its reasons.
    pub fn deciding(&self) -> Option<&Judged> {
        match self.decided_by {
            Step::Lookup => self.lookup.as_ref(),
            Step::Connect => self.connect.as_ref(),
        }
    }

    /// Is it what a test expects? If not, what is otherwise.
    ///
    /// Where the whole policy only observes, `deny` is met by what would be refused: a test is written once, and
    /// holds on each step of the way from observe to enforce.
    pub fn meets(&self, case: &Case, policy: &Policy) -> Result<(), String> {
        let observed = policy.mode == Mode::Observe && case.expect == Verdict::Deny;
        if self.verdict != case.expect && !(observed && self.verdict == Verdict::WouldDeny) {
            return Err(format!(
                "expected {}, and it is {}",
                word(case.expect),
                word(self.verdict)
            ));
        }
        let found = self
            .deciding()
            .map_or(RULE_DEFAULT, |judged| judged.rule.id);
        let found = rule_text(Some(policy), found);
        match &case.rule {
            Some(rule) if *rule != found => {
                Err(format!("expected the rule `{rule}`, and it is `{found}`"))
            }
            _ => Ok(()),
        }
    }
}

/// A verdict as policies and reports write it.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::WouldDeny => "would_deny",
        Verdict::Waived => "waived",
        Verdict::BreakGlass => "break_glass",
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.to, self.port) {
            (Destination::Name(name), None) => write!(f, "{name}")?,
            (Destination::Name(name), Some(port)) => write!(f, "{name}:{port}")?,
            (Destination::Address(address), None) => write!(f, "{address}")?,
            (Destination::Address(IpAddr::V6(address)), Some(port)) => {
                write!(f, "[{address}]:{port}")?;
            }
            (Destination::Address(address), Some(port)) => write!(f, "{address}:{port}")?,
            (Destination::Unix(path), _) => write!(f, "unix:{path}")?,
        }
        if self.port.is_some() && self.protocol == Protocol::Udp {
            f.write_str(" over udp")?;
        }
        if let Some(address) = self.address {
            write!(f, " at {address}")?;
        }
        if let Some(process) = &self.process {
            write!(f, " by {process}")?;
        }
        for (at, ancestor) in self.ancestors.iter().enumerate() {
            let word = if at == 0 { "below" } else { "and" };
            write!(f, " {word} {ancestor}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "the name {name}"),
            Self::Addresses(net) => write!(f, "the addresses {net}"),
            Self::Any => f.write_str("every address"),
            Self::Path(path) => write!(f, "the path {path}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Final => "a final guardrail goes before it",
            Self::Waiver => "a waiver in force goes before it",
            Self::Name => "the other describes the name more closely",
            Self::Prefix => "the other's addresses are fewer",
            Self::Path => "the other describes the path more closely",
            Self::Port => "the other is about fewer ports",
            Self::Protocol => "the other names the protocol",
            Self::Process => "the other describes the process more closely",
            Self::Layer => "as close, and the other's layer comes later",
            Self::Deny => "as close, and a deny goes before an allow",
            Self::Order => "the other says the same, and stands first",
            Self::AddressDenied => "a deny of the address stands, whatever name led to it",
            Self::NamesDenied => "the name by which the address was found is denied",
            Self::AddressFirst => "the other says the same of the address",
            Self::LinkLocal => {
                "no name permits a link-local address, only a rule about the address does"
            }
            Self::Recorded => "it is only recorded, and the other is enforced",
            Self::Reachable => "a name may be looked up if it can be reached on some port",
            Self::SomePorts => "it decides on some ports only",
        })
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(first, last) if first == last => write!(f, "it is for port {first} only"),
            Self::Ports(first, last) => write!(f, "it is for the ports {first}-{last} only"),
            Self::Protocol(Protocol::Tcp) => f.write_str("it is for tcp only"),
            Self::Protocol(Protocol::Udp) => f.write_str("it is for udp only"),
            Self::Protocol(Protocol::Other) => f.write_str("it is for other protocols only"),
            Self::Process(process) => write!(f, "it is for the process {process} only"),
            Self::Expired(day) => write!(f, "it expired on {day}"),
        }
    }
}
