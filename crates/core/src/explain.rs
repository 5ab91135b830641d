//! Why an attempt is judged as it is: the verdict, the rule behind it, and what that rule goes before.
//!
//! The verdict is [`decide`]'s and [`decide_lookup`]'s, found on the tables that a run is judged by. The rules
//! that match are then sought one by one in the policy, which no run does: it costs as much as the policy is
//! long, and gives each of them a reason why it does not decide.

mod weigh;

use std::fmt;
use std::net::IpAddr;
use std::ops::BitOr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::decide::{Attempt, Lease, decide, decide_lookup, decide_socket};
use crate::name::Name;
use crate::path::{PathPattern, usual};
use crate::policy::{Case, Destination, Effect as Says, Policy, Rank, Reaction, Rule, Target};
use crate::record::Verdict;
use crate::report::{Mode, rule_text};
use crate::tables::{
    Effect, Paths, Protocol, RULE_DEFAULT, RULE_RESOLVER_SOCKET, RuleId, Ruling, Tables,
};
use weigh::{Candidate, Weighing};

/// The sockets by which names are resolved out of sight: no rule is asked for them.
pub const RESOLVER_SOCKETS: [&str; 3] = [
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
];

/// Is it one of these, in any spelling?
pub(crate) fn is_resolver_socket(path: &str) -> bool {
    let path = usual(path.as_bytes());
    RESOLVER_SOCKETS
        .iter()
        .any(|socket| socket.as_bytes() == &*path)
}

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

/// Explain what becomes of an attempt. `tables` are those that `policy` compiles to.
pub fn explain(policy: &Policy, tables: &Tables, question: &Question) -> Explanation {
    let asking = Asking {
        policy,
        tables,
        question,
        selectors: selectors(tables, question),
    };
    let (lookup, connect) = match &question.to {
        Destination::Unix(path) => (None, Some(asking.socket(path))),
        Destination::Address(address) => (
            None,
            Some(asking.connect(Some(*address), None, Effect::None)),
        ),
        Destination::Name(name) => {
            let (effect, lookup) = asking.lookup(name);
            let connects = question.port.is_some() || question.address.is_some();
            let connect = connects.then(|| asking.connect(question.address, Some(name), effect));
            (Some(lookup), connect)
        }
    };
    let decided_by = decided_by(lookup.as_ref(), connect.as_ref());
    let deciding = match decided_by {
        Step::Lookup => &lookup,
        Step::Connect => &connect,
    };
    let verdict = deciding
        .as_ref()
        .map_or(Verdict::Allow, |judged| judged.verdict);
    let remarks = asking.remarks(deciding.as_ref());
    Explanation {
        destination: question.to_string(),
        verdict,
        decided_by,
        missed: asking.missed(connect.is_some()),
        lookup,
        connect,
        remarks,
    }
}

/// Which selectors hold: of what a process descends from only those that are about all that such a one starts.
fn selectors(tables: &Tables, question: &Question) -> u64 {
    let of = |program: &String| tables.selectors_of(program.as_bytes());
    let own = question.process.as_ref().map_or(0, of);
    let inherited = question.ancestors.iter().map(of).fold(0, BitOr::bitor);
    own | inherited & tables.tree_selectors()
}

/// A lookup that is refused leads nowhere. Where both pass, what is refused only for the record is told first.
fn decided_by(lookup: Option<&Judged>, connect: Option<&Judged>) -> Step {
    match (lookup, connect) {
        (None, _) => Step::Connect,
        (Some(_), None) => Step::Lookup,
        (Some(lookup), Some(connect)) => match (lookup.verdict, connect.verdict) {
            (Verdict::Deny, _) => Step::Lookup,
            (Verdict::WouldDeny, Verdict::Allow | Verdict::Waived) => Step::Lookup,
            _ => Step::Connect,
        },
    }
}

/// A question with what it is asked of.
struct Asking<'a> {
    policy: &'a Policy,
    tables: &'a Tables,
    question: &'a Question,
    /// Which of the tables' selectors hold for the process.
    selectors: u64,
}

impl<'a> Asking<'a> {
    fn lookup(&self, name: &Name) -> (Effect, Judged) {
        let ruling = decide_lookup(self.tables, name, self.selectors);
        let weighing = Weighing::of_lookup(self.candidates(|rule| match &rule.target {
            Target::Name(pattern) if pattern.matches(name) => {
                Some((0, Through::Name(name.to_string())))
            }
            _ => None,
        }));
        let lost = weighing.lookup(ruling);
        let through = match self.policy.rule(ruling.rule).map(|rule| &rule.target) {
            Some(Target::Name(_)) => Some(Through::Name(name.to_string())),
            Some(_) => Some(Through::Any),
            None => None,
        };
        (
            ruling.effect,
            self.judged(verdict_of(ruling), ruling, false, through, lost),
        )
    }

    /// `looked_up` is what the lookup of the name met.
    fn connect(&self, address: Option<IpAddr>, name: Option<&Name>, looked_up: Effect) -> Judged {
        // What the search list lets through gives no lease that permits.
        let name = name.filter(|_| looked_up != Effect::Search);
        let leases: Vec<Lease> = name
            .map(|name| Lease {
                class: self.tables.class_of_name(name),
                deny_class: 0,
            })
            .into_iter()
            .collect();
        let decision = decide(
            self.tables,
            &Attempt {
                address_class: match address {
                    Some(address) => self.tables.class_of_address(address),
                    None => self.class_of_any_address(),
                },
                local: address.is_some_and(|address| address.to_canonical().is_loopback()),
                resolver_dns: false,
                protocol: self.question.protocol,
                port: self.port(),
                selectors: self.selectors,
                leases: &leases,
            },
        );
        let addresses = self.applying(|rule| prefix(&rule.target, address));
        let names = self.applying(|rule| match (&rule.target, name) {
            (Target::Name(pattern), Some(name)) if pattern.matches(name) => {
                Some((0, Through::Name(name.to_string())))
            }
            _ => None,
        });
        let weighing = Weighing::of_connect(addresses, names);
        let through = weighing.through(decision.rule);
        let ruling = Ruling {
            rule: decision.rule,
            failure: decision.failure,
            ..Ruling::NONE
        };
        let lost = weighing.connect(decision.rule);
        self.judged(decision.verdict, ruling, decision.ambiguous, through, lost)
    }

    fn socket(&self, path: &str) -> Judged {
        let resolver = is_resolver_socket(path);
        let ruling = if resolver {
            Ruling {
                effect: Effect::Deny,
                rule: RULE_RESOLVER_SOCKET,
                enforce: true,
                ..Ruling::NONE
            }
        } else {
            decide_socket(self.tables, path.as_bytes(), self.selectors)
        };
        let weighing = Weighing::of_connect(
            self.applying(|rule| match &rule.target {
                Target::Unix(pattern) if matches(pattern, path) => {
                    Some((0, Through::Path(path.to_owned())))
                }
                _ => None,
            }),
            Vec::new(),
        );
        let lost = weighing.connect(ruling.rule);
        let through = weighing.through(ruling.rule);
        self.judged(verdict_of(ruling), ruling, false, through, lost)
    }

    fn port(&self) -> u16 {
        self.question.port.unwrap_or(0)
    }

    /// Where no address is known, only what is said of every address counts.
    fn class_of_any_address(&self) -> u32 {
        let unspecified = IpNet::from(IpAddr::from([0, 0, 0, 0]));
        match (
            self.tables.prefixes.first(),
            IpNet::new(unspecified.addr(), 0),
        ) {
            (Some((net, class)), Ok(any)) if *net == any => *class,
            _ => 0,
        }
    }

    fn holds(&self, rule: &Rule) -> bool {
        rule.process.as_ref().is_none_or(|selector| {
            let at = self
                .tables
                .selectors
                .iter()
                .position(|known| known == selector);
            at.is_some_and(|at| self.selectors >> at & 1 == 1)
        })
    }

    fn fits(&self, rule: &Rule) -> Result<(), Miss> {
        let protocol = self.question.protocol;
        if let Some(only) = rule.protocol
            && only != protocol
        {
            return Err(Miss::Protocol(only));
        }
        if let Some(ports) = rule.ports
            && (protocol == Protocol::Other || !(ports.first..=ports.last).contains(&self.port()))
        {
            return Err(Miss::Ports(ports.first, ports.last));
        }
        Ok(())
    }

    /// The rules about a target whose process is this one.
    fn candidates(&self, about: impl Fn(&Rule) -> Option<(u8, Through)>) -> Vec<Candidate<'a>> {
        let rules = self.policy.rules.iter().zip(1..);
        rules
            .filter(|(rule, _)| self.holds(rule))
            .filter_map(|(rule, id)| {
                let (prefix, through) = about(rule)?;
                Some(Candidate::new(id, rule, prefix, through))
            })
            .collect()
    }

    /// Those of them that are for this port and protocol as well.
    fn applying(&self, about: impl Fn(&Rule) -> Option<(u8, Through)>) -> Vec<Candidate<'a>> {
        self.candidates(|rule| about(rule).filter(|_| self.fits(rule).is_ok()))
    }

    fn judged(
        &self,
        verdict: Verdict,
        ruling: Ruling,
        ambiguous: bool,
        through: Option<Through>,
        lost: Vec<weigh::Lost>,
    ) -> Judged {
        let refused = matches!(verdict, Verdict::Deny | Verdict::WouldDeny);
        let fails = self
            .policy
            .rule(ruling.rule)
            .is_some_and(|rule| rule.reaction == Reaction::Fail);
        Judged {
            verdict,
            rule: self.told(ruling.rule),
            through,
            on_match: refused.then(|| ruling.failure.words()),
            fails_run: verdict == Verdict::Deny && fails,
            ambiguous,
            lost: lost
                .into_iter()
                .map(|lost| Lost {
                    rule: self.told(lost.id),
                    to: lost.to.map(|id| self.told(id)),
                    why: lost.why,
                })
                .collect(),
        }
    }

    fn told(&self, id: RuleId) -> Told {
        Told::new(self.policy, id)
    }

    /// Rules about this destination that are for something else. `connects` is whether ports matter.
    fn missed(&self, connects: bool) -> Vec<Missed> {
        let rules = self.policy.rules.iter().zip(1..);
        let other = rules.filter_map(|(rule, id)| {
            // What is said of every address is of interest only where nothing but the process is another.
            let everywhere = rule.target == Target::Any && connects;
            if !everywhere && !self.is_about(&rule.target) {
                return None;
            }
            let fits = if connects { self.fits(rule) } else { Ok(()) };
            let why = match (fits, &rule.process) {
                (Err(miss), _) => Some(miss).filter(|_| !everywhere),
                (Ok(()), Some(selector)) if !self.holds(rule) => {
                    Some(Miss::Process(selector.to_string()))
                }
                _ => None,
            };
            Some(Missed {
                rule: self.told(id),
                why: why?,
            })
        });
        let expired = self
            .policy
            .expired
            .iter()
            .filter(|waiver| self.is_about(&waiver.target));
        let expired = expired.map(|waiver| Missed {
            rule: Told::of(RULE_DEFAULT, waiver),
            why: Miss::Expired(waiver.expires.as_deref().unwrap_or_default().to_owned()),
        });
        other.chain(expired).collect()
    }

    fn is_about(&self, target: &Target) -> bool {
        let address = match &self.question.to {
            Destination::Name(name) => {
                if let Target::Name(pattern) = target {
                    return pattern.matches(name);
                }
                self.question.address
            }
            Destination::Address(address) => Some(*address),
            Destination::Unix(path) => {
                return matches!(target, Target::Unix(pattern) if matches(pattern, path));
            }
        };
        matches!(target, Target::Net(_)) && prefix(target, address).is_some()
    }

    fn remarks(&self, deciding: Option<&Judged>) -> Vec<String> {
        let mut remarks = Vec::new();
        let by_default = deciding.is_some_and(|judged| judged.rule.id == RULE_DEFAULT);
        let on_network = !matches!(self.question.to, Destination::Unix(_));
        let nets = self
            .policy
            .rules
            .iter()
            .any(|rule| matches!(rule.target, Target::Net(_)));
        if let (Destination::Name(_), Some(_), None) =
            (&self.question.to, self.question.port, self.question.address)
            && nets
        {
            remarks.push("the address that the name leads to is not known, so rules about addresses were left out".to_owned());
        }
        if by_default && !on_network {
            remarks.push(
                "the default is not for unix sockets: what no `unix:` rule is about passes"
                    .to_owned(),
            );
        }
        if by_default && on_network && self.policy.default == Says::Deny {
            remarks.push(if self.question.port == Some(53) {
                "a run's own resolvers are allowed on port 53, unless a rule denies them".to_owned()
            } else {
                "loopback and the host's own addresses are allowed, unless a rule denies them"
                    .to_owned()
            });
        }
        remarks
    }
}

/// Does one pattern match a socket, by itself?
fn matches(pattern: &PathPattern, path: &str) -> bool {
    Paths::new(&[pattern.socket_regex()]).is_ok_and(|paths| {
        let state = paths.walk(&usual(path.as_bytes())) as usize;
        paths
            .matching
            .get(state)
            .is_some_and(|found| !found.is_empty())
    })
}

/// How much of an address a target fixes.
fn prefix(target: &Target, address: Option<IpAddr>) -> Option<(u8, Through)> {
    match (target, address) {
        (Target::Any, _) => Some((0, Through::Any)),
        (Target::Net(net), Some(address)) => net
            .contains(&address.to_canonical())
            .then(|| (net.prefix_len(), Through::Addresses(*net))),
        (Target::Net(net), None) => {
            let any = net.prefix_len() == 0 && net.addr().is_ipv4();
            any.then_some((0, Through::Addresses(*net)))
        }
        (Target::Name(_) | Target::Unix(_), _) => None,
    }
}

pub(crate) fn verdict_of(ruling: Ruling) -> Verdict {
    match ruling.effect {
        Effect::Deny if ruling.enforce => Verdict::Deny,
        Effect::Deny => Verdict::WouldDeny,
        Effect::Allow | Effect::None | Effect::Search if ruling.rank == Rank::Waiver => {
            Verdict::Waived
        }
        Effect::Allow | Effect::None | Effect::Search => Verdict::Allow,
    }
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

    fn of(id: RuleId, rule: &Rule) -> Self {
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
