//! A policy compiled into the tables that a verdict is looked up in.
//!
//! The kernel holds exactly these tables (hashed where they hold text), and [`crate::decide`] reads
//! the same ones, so a verdict cannot mean two things.
//!
//! Names are matched by an automaton over labels from the right: the cost of a lookup is one probe for
//! each label that some rule still mentions, whatever the number of rules. Where the automaton ends, it
//! names a *class*: the set of rules which match that name. What a class rules for a protocol and a
//! port was worked out at compile time.

mod automaton;
mod choices;
mod compile;
mod kept;
mod paths;
mod rulings;
mod uses;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::path::{Selector, usual};
use crate::policy::{Failure, Rank};

pub use compile::{
    CompileError, Facts, Limit, MAX_PORT_RULINGS, MAX_SELECTORS, MAX_STATES, compile, is_reverse,
};
pub use paths::Paths;
pub(crate) use rulings::{Aspect, Priority};
pub use uses::Uses;

/// Index into [`Tables::states`]. State 0 is the root of the name space.
pub type StateId = u32;
/// Index into [`Tables::classes`]. Class 0 is "no rule mentions this".
pub type ClassId = u32;
/// Index into [`Tables::choices`].
pub type ChoiceId = u32;
/// Index into [`Tables::selectors`], and the bit by which a process says that it is one of these.
pub type SelectorId = u8;
/// A rule's number: 0 is the policy's `default`, 1.. are the rules in the order of
/// [`Policy::rules`](crate::policy::Policy::rules) (`rules[id - 1]`), and ids from [`BUILTIN`] up are Blackstart's own.
pub type RuleId = u32;

/// The rule id of the policy's `default:` line.
pub const RULE_DEFAULT: RuleId = 0;
/// Ids at or above this one are built in.
pub const BUILTIN: RuleId = 0xffff_ff00;
/// Loopback and the host's own addresses, allowed under `default: deny` unless a rule denies them.
pub const RULE_LOCAL: RuleId = 0xffff_ff01;
/// The run's own resolvers on port 53, allowed under `default: deny` unless a rule denies them.
pub const RULE_RESOLVER: RuleId = 0xffff_ff02;
/// A DNS message that cannot be judged.
pub const RULE_MALFORMED: RuleId = 0xffff_ff03;
/// A name below the host's search list, let through under `default: deny` without a lease.
pub const RULE_SEARCH: RuleId = 0xffff_ff04;
/// The daemons that would resolve names where Blackstart cannot see it (nscd, systemd-resolved).
pub const RULE_RESOLVER_SOCKET: RuleId = 0xffff_ff05;
/// A kind of socket that nothing could judge once it is made, refused where the default denies.
pub const RULE_SOCKET_KIND: RuleId = 0xffff_ff06;

/// A lookup of an address's name (below `in-addr.arpa` and `ip6.arpa`), let through under `default: deny` without a lease.
pub const RULE_REVERSE: RuleId = 0xffff_ff07;
/// A name that is allowed and leads to a link-local address: only a rule about the address lets through.
pub const RULE_LINK_LOCAL: RuleId = 0xffff_ff08;

/// A connection whose TLS hello hides another one, where the policy says `hidden: deny`.
pub const RULE_HIDDEN: RuleId = 0xffff_ff09;

/// What a class rules for one (protocol, port).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// No rule applies; the policy's default decides.
    None,
    /// A rule allows.
    Allow,
    /// A rule denies.
    Deny,
    /// Of a lookup: passes, but its answer gives no lease that permits (search list, reverse lookups). Of an address: no
    /// name that leads to it permits (link-local ones); else as if no rule applied.
    Search,
}

/// What a rule rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ruling {
    /// The effect.
    pub effect: Effect,
    /// The rule; [`RULE_DEFAULT`] where the effect is [`Effect::None`].
    pub rule: RuleId,
    /// The rule's rank: what a name's rule and an address's say of one attempt is weighed by it.
    pub rank: Rank,
    /// For a deny: refuse, or only record?
    pub enforce: bool,
    /// For a deny that is enforced: how the attempt ends.
    pub failure: Failure,
}

/// What holds, depending on the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// This, for every process.
    Is(Ruling),
    /// As this choice says.
    Choice(ChoiceId),
}

/// One question about the process, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Does this selector hold for it?
    pub selector: SelectorId,
    /// If so.
    pub yes: Outcome,
    /// If not.
    pub no: Outcome,
}

/// The transport protocols that a rule can tell apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// IPPROTO_TCP (and MPTCP).
    Tcp,
    /// IPPROTO_UDP (and UDP-Lite).
    Udp,
    /// Everything else; it has no port and matches only rules without one.
    Other,
}

/// A stretch of ports with one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRuling {
    /// The protocol; ranges are spelled out for each.
    pub protocol: Protocol,
    /// First port, inclusive.
    pub first: u16,
    /// Last port, inclusive.
    pub last: u16,
    /// What holds there.
    pub outcome: Outcome,
}

/// The set of rules that match one name (or one prefix, or one socket), reduced to its rulings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    /// What a DNS lookup of such a name meets. Default already applied: never [`Effect::None`].
    /// A name that is allowed on any port may be looked up.
    pub lookup: Outcome,
    /// What holds where `by_port` is empty.
    pub outcome: Outcome,
    /// If not empty: a partition of the port space of each protocol; covers everything.
    pub by_port: Vec<PortRuling>,
    /// How strongly a rule denies something of this class, and 0 where none does: see [`Tables::denying_link`].
    pub denial: u8,
}

/// One state of the name automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameState {
    /// The class of the name that ends here.
    pub end: ClassId,
    /// The class of names that go on below with a label which has no edge (and no `star`).
    pub below: ClassId,
    /// Where any label without an edge of its own leads; 0 for nowhere.
    pub star: StateId,
    /// Label (lower case bytes) → next state.
    pub edges: BTreeMap<Box<[u8]>, StateId>,
}

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// With the run.
    Run,
    /// With the time that its answer gave it, but not before so many seconds.
    Ttl {
        /// Seconds.
        at_least: u32,
    },
}

/// A policy, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// `default: deny`?
    pub default_deny: bool,
    /// `mode: enforce`? It holds for the default and for what cannot be judged; a rule has its own.
    pub enforce: bool,
    /// How long leases last: who holds them knows, here it is only told.
    pub lease: LeaseEnd,
    /// The ports at which names that connections give are judged: those that the policy names, or else the usual ones,
    /// where a name can decide something. Sorted; no more than [`MAX_INSPECTED`](crate::policy::MAX_INSPECTED).
    pub inspect: Vec<u16>,
    /// Are connections to such a port refused that hide a name? ([`RULE_HIDDEN`])
    pub hidden_deny: bool,
    /// The search list of the run's resolv.conf: who writes a name short gives it so, too.
    pub search: Vec<Name>,
    /// The name automaton; `states[0]` is the root.
    pub states: Vec<NameState>,
    /// The classes; `classes[0]` is that of no rule.
    pub classes: Vec<Class>,
    /// Questions about processes.
    pub choices: Vec<Choice>,
    /// Longest prefix wins; a longer prefix's class already contains what it inherits from shorter ones.
    /// Sorted, each prefix once and without bits beyond its length; IPv4-mapped ones stand as IPv4.
    pub prefixes: Vec<(IpNet, ClassId)>,
    /// The processes that rules speak of.
    pub selectors: Vec<Selector>,
    /// Which selectors a program matches: `programs.matching` are indices into `selectors`.
    pub programs: Paths,
    /// The paths of unix sockets that rules speak of.
    pub sockets: Paths,
    /// The class of a unix socket by the state of `sockets` in which its path ends.
    pub socket_classes: Vec<ClassId>,
}

impl Ruling {
    /// No rule applies.
    pub const NONE: Self = Self {
        effect: Effect::None,
        rule: RULE_DEFAULT,
        rank: Rank::Plain,
        enforce: false,
        failure: Failure::REFUSE,
    };
}

impl Protocol {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Other];

    /// From an IP protocol number. MPTCP has none of its own on the wire; its socket protocol is 262.
    pub fn from_number(number: u16) -> Self {
        match number {
            6 | 262 => Self::Tcp,
            17 | 136 => Self::Udp,
            _ => Self::Other,
        }
    }
}

impl Class {
    /// What holds for a protocol and a port.
    pub fn outcome(&self, protocol: Protocol, port: u16) -> Outcome {
        if self.by_port.is_empty() {
            return self.outcome;
        }
        let at = self
            .by_port
            .partition_point(|p| (p.protocol, p.last) < (protocol, port));
        self.by_port
            .get(at)
            .map_or(Outcome::Is(Ruling::NONE), |p| p.outcome)
    }
}

impl Tables {
    /// For whoever has no end of a run to hold its leases by: what would last as long as the run lasts as long as its
    /// answer said, or ten minutes, whichever is longer. What the policy wants to be strict stays so.
    pub fn end_leases(&mut self) {
        if self.lease == LeaseEnd::Run {
            self.lease = LeaseEnd::Ttl { at_least: 600 };
        }
    }

    /// The class of a name.
    pub fn class_of_name(&self, name: &Name) -> ClassId {
        let mut state = &self.states[0];
        for label in name.labels_from_root() {
            let next = match state.edges.get(label) {
                Some(&next) => next,
                None if state.star != 0 => state.star,
                None => return state.below,
            };
            state = &self.states[next as usize];
        }
        state.end
    }

    /// Of the names that a chain of CNAMEs leads through, the class of the one that is denied most strongly, and of
    /// several the first; 0 if no rule denies any. By the highest rank of what denies it anywhere, then whether that
    /// is enforced, then whether it is denied everywhere: on each port, to each process.
    pub fn denying_link(&self, chain: impl IntoIterator<Item = ClassId>) -> ClassId {
        let denial = |class: ClassId| self.classes[class as usize].denial;
        chain.into_iter().fold(0, |strongest, class| {
            if denial(class) > denial(strongest) {
                class
            } else {
                strongest
            }
        })
    }

    /// The class of an address: that of the longest prefix it lies in.
    pub fn class_of_address(&self, address: IpAddr) -> ClassId {
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        for length in (0..=most).rev() {
            let Ok(net) = IpNet::new(address, length) else {
                continue;
            };
            if let Ok(at) = self
                .prefixes
                .binary_search_by(|(prefix, _)| prefix.cmp(&net.trunc()))
            {
                return self.prefixes[at].1;
            }
        }
        0
    }

    /// The class of a unix socket; abstract names begin with `@`.
    pub fn class_of_socket(&self, path: &[u8]) -> ClassId {
        let state = self.sockets.walk(&usual(path)) as usize;
        self.socket_classes.get(state).copied().unwrap_or(0)
    }

    /// What holds for a unix socket, whoever reaches for it; none if that depends on the process.
    pub fn ruling_of_socket(&self, path: &[u8]) -> Option<Ruling> {
        let class = self.classes.get(self.class_of_socket(path) as usize);
        match class.map(|class| class.outcome(Protocol::Other, 0)) {
            Some(Outcome::Is(ruling)) => Some(ruling),
            Some(Outcome::Choice(_)) => None,
            None => Some(Ruling::NONE),
        }
    }

    /// The selectors of [`Self::selectors`] that hold for a process which executes `program`, as bits. For
    /// those with `tree`, whoever it descends from counts as well.
    pub fn selectors_of(&self, program: &[u8]) -> u64 {
        let state = self.programs.walk(program) as usize;
        self.programs
            .matching
            .get(state)
            .map_or(0, |found| found.iter().fold(0, |bits, &id| bits | 1 << id))
    }

    /// The bits of selectors that hold for what such a process starts, too.
    pub fn tree_selectors(&self) -> u64 {
        let ids = (0..).zip(&self.selectors);
        ids.filter(|(_, selector)| selector.tree)
            .fold(0, |bits, (id, _)| bits | 1 << id)
    }

    /// What holds for a process of which these selectors hold.
    pub fn choose(&self, outcome: Outcome, selectors: u64) -> Ruling {
        let mut outcome = outcome;
        loop {
            match outcome {
                Outcome::Is(ruling) => return ruling,
                Outcome::Choice(id) => {
                    let choice = &self.choices[id as usize];
                    outcome = if selectors >> choice.selector & 1 == 1 {
                        choice.yes
                    } else {
                        choice.no
                    };
                }
            }
        }
    }

    /// What a class rules for a protocol, a port and a process.
    pub fn ruling(&self, class: ClassId, protocol: Protocol, port: u16, selectors: u64) -> Ruling {
        self.classes
            .get(class as usize)
            .map_or(Ruling::NONE, |class| {
                self.choose(class.outcome(protocol, port), selectors)
            })
    }
}
