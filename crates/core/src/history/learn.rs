//! A policy from what runs did.
//!
//! It is an allow-list: what no run did is refused. A rule is about the name that a run asked for, on the port that it
//! reached; an address stands in a rule only where no name led to it. What some policy denied, or a waiver or a broken
//! glass let pass, is left out and told.
//!
//! A name stands for itself. Only where runs keep bringing names that no earlier run had, all below one name and on one
//! port, a rule is about everything below it: at least [`NAMES`] names, new ones in at least [`NEW_IN`] runs after the
//! first, and in at least half of these. Nothing at or above a public suffix is made a rule.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::{Ancestry, LineageId, Micros, Past, Reached};
use crate::name::{Breadth, Name, Pattern};
use crate::policy::target::written;
use crate::policy::{PortRange, Target};
use crate::record::{Attribution, Verdict};
use crate::report::{printable, rule_text};
use crate::tables::{Protocol, RULE_DEFAULT, is_reverse};

/// From so many names on a rule may be about all of them.
pub const NAMES: usize = 5;
/// If so many runs after the first brought new ones.
pub const NEW_IN: u64 = 3;

/// The port of a rule that is there for a lookup only: the one on which nobody answers (RFC 863), since a policy has no
/// word for a lookup.
const DISCARD: u16 = 9;
/// How many executables, and how many addresses of a name, are kept.
const EXECUTABLES: usize = 64;
const ADDRESSES: usize = 64;
/// How many incomplete runs are kept by name.
const LACKING: usize = 100;

/// How it is known that something is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// In how many runs it was seen.
    pub runs: u64,
    /// How often, in all of them.
    pub attempts: u64,
    /// First time.
    pub first: Micros,
    /// Last time.
    pub last: Micros,
    /// What reached for it; at most 64 are kept.
    pub executables: BTreeSet<String>,
    /// The name is one of several of its address, and the likeliest.
    pub ambiguous: bool,
    /// The last run that was counted.
    number: u64,
}

impl Evidence {
    fn add(&mut self, number: u64, count: u64, first: Micros, last: Micros, exe: Option<&str>) {
        if self.runs == 0 {
            (self.first, self.last) = (first, last);
        }
        if self.number != number {
            self.number = number;
            self.runs += 1;
        }
        self.attempts += count;
        self.first = self.first.min(first);
        self.last = self.last.max(last);
        if let Some(exe) = exe
            && !self.executables.contains(exe)
            && self.executables.len() < EXECUTABLES
        {
            self.executables.insert(exe.to_owned());
        }
    }

    /// Both together. Their runs may be the same ones, so that they are counted apart.
    fn merge(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.executables.extend(other.executables.iter().cloned());
        self.ambiguous |= other.ambiguous;
    }
}

/// What is reached for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Whither {
    Name(Arc<str>),
    Address(IpAddr),
}

/// Where a rule would let through.
type Wanted = (Whither, u16, Protocol);

#[derive(Debug, Default)]
struct Seen {
    evidence: Evidence,
    /// Of a name.
    addresses: BTreeSet<IpAddr>,
    /// The way was asked for with a datagram to the same port.
    probed: bool,
}

/// Names right below one name.
#[derive(Debug, Default)]
struct Family {
    evidence: Evidence,
    names: BTreeSet<Arc<str>>,
    first_run: u64,
    last_new: u64,
    /// In how many runs after the first there was one that none before had.
    new_in: u64,
}

/// Takes in runs, the earliest first.
#[derive(Debug, Default)]
pub struct Learner {
    runs: u64,
    hosts: BTreeSet<Arc<str>>,
    first: Micros,
    last: Micros,
    lacking: Vec<Lacking>,
    lacking_runs: u64,
    wanted: HashMap<Wanted, Seen>,
    families: HashMap<(Arc<str>, u16, Protocol), Family>,
    lookups: HashMap<Arc<str>, Evidence>,
    left_out: BTreeMap<LeftOut, Evidence>,
}

/// A run of which not everything is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Its id.
    pub run: String,
    /// Why; see [`super::lacks`].
    pub lacks: Arc<[String]>,
}

/// Something that runs reached for and that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// What.
    pub destination: String,
    /// What became of it.
    pub verdict: Verdict,
    /// By which rule.
    pub rule: String,
}

/// A rule, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedRule {
    /// Its target as a policy writes it.
    pub allow: String,
    /// With which protocol; none for all.
    pub protocol: Option<Protocol>,
    /// How it is known.
    pub evidence: Evidence,
    /// Why it is what it is, where that is not plain.
    pub remarks: Vec<String>,
}

/// What was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// From how many runs.
    pub runs: u64,
    /// On how many hosts.
    pub hosts: usize,
    /// When the first of them began.
    pub first: Micros,
    /// When the last of them began.
    pub last: Micros,
    /// How many of them may not tell everything.
    pub lacking_runs: u64,
    /// The first of these.
    pub lacking: Vec<Lacking>,
    /// The rules.
    pub rules: Vec<LearnedRule>,
    /// What is left out though it was reached for.
    pub left_out: Vec<(LeftOut, Evidence)>,
    /// What no rule can be made for, and why.
    pub unwritten: Vec<String>,
}

impl Learner {
    /// Take in a run. `ancestry` is always the same, or one that has grown.
    pub fn add(&mut self, past: &Past, ancestry: &Ancestry) {
        self.runs += 1;
        if self.runs == 1 {
            (self.first, self.last) = (past.started, past.started);
        }
        self.first = self.first.min(past.started);
        self.last = self.last.max(past.started);
        self.hosts.insert(past.host.clone());
        if !past.lacks.is_empty() {
            self.lacking_runs += 1;
            if self.lacking.len() < LACKING {
                self.lacking.push(Lacking {
                    run: past.id.clone(),
                    lacks: past.lacks.clone(),
                });
            }
        }
        let exe = |by: LineageId| ancestry.exe(by).map(|exe| &**exe);
        let searches: Vec<Pattern> = past
            .around
            .search
            .iter()
            .filter_map(|text| Pattern::below(&Name::parse(text).ok()?))
            .collect();
        let judged = |by: LineageId| !ancestry.is_followed(by);
        for asked in past.lookups.iter().filter(|asked| judged(asked.by)) {
            let times = (asked.queries, asked.first, asked.last);
            if !passed(asked.verdict, &asked.rule) {
                let destination = asked.name.to_string();
                self.leave_out(
                    past,
                    destination,
                    asked.verdict,
                    &asked.rule,
                    times,
                    exe(asked.by),
                );
                continue;
            }
            // What resolvers try on their walk along the search list passes under every policy, and so does the lookup of
            // an address's name.
            let name = Name::parse(&asked.name).ok();
            let walked = asked.answer.addresses.is_empty()
                && name
                    .as_ref()
                    .is_some_and(|name| searches.iter().any(|below| below.matches(name)));
            if !walked && !name.is_some_and(|name| is_reverse(&name)) {
                let evidence = self.lookups.entry(asked.name.clone()).or_default();
                evidence.add(self.runs, times.0, times.1, times.2, exe(asked.by));
            }
        }
        let counted = past.counted();
        for (flow, counted) in past.flows.iter().zip(counted) {
            let elsewhere = past.around.is_local(flow.address) || past.around.is_resolver(flow);
            if elsewhere || !judged(flow.by) {
                continue;
            }
            let times = (flow.attempts, flow.first, flow.last);
            let key = wanted(flow);
            if !counted {
                // Not to be refused either, if the rule has room for it.
                let (whither, port, _) = key;
                if let Some(seen) = self.wanted.get_mut(&(whither, port, Protocol::Tcp)) {
                    seen.probed = true;
                }
                continue;
            }
            if !passed(flow.verdict, &flow.rule) {
                self.leave_out(
                    past,
                    flow.destination(),
                    flow.verdict,
                    &flow.rule,
                    times,
                    exe(flow.by),
                );
                continue;
            }
            self.reach(flow, key, exe(flow.by));
        }
    }

    /// How many runs were taken in.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    fn reach(&mut self, flow: &Reached, key: Wanted, exe: Option<&str>) {
        let number = self.runs;
        let (whither, port, protocol) = key.clone();
        let seen = self.wanted.entry(key).or_default();
        let is_new = seen.evidence.runs == 0;
        seen.evidence
            .add(number, flow.attempts, flow.first, flow.last, exe);
        seen.evidence.ambiguous |= flow.attribution == Attribution::Ambiguous;
        let Whither::Name(name) = whither else { return };
        if seen.addresses.len() < ADDRESSES {
            seen.addresses.insert(flow.address);
        }
        let Some((_, parent)) = name.split_once('.') else {
            return;
        };
        let family = self
            .families
            .entry((parent.into(), port, protocol))
            .or_default();
        family
            .evidence
            .add(number, flow.attempts, flow.first, flow.last, exe);
        if family.names.is_empty() {
            family.first_run = number;
        }
        if is_new {
            if number != family.first_run && family.last_new != number {
                family.last_new = number;
                family.new_in += 1;
            }
            family.names.insert(name);
        }
    }

    /// What an outage that was played refused says nothing of what is allowed.
    fn leave_out(
        &mut self,
        past: &Past,
        destination: String,
        verdict: Verdict,
        rule: &str,
        (count, first, last): (u64, Micros, Micros),
        exe: Option<&str>,
    ) {
        if past.drill {
            return;
        }
        let key = LeftOut {
            destination,
            verdict,
            rule: rule.to_owned(),
        };
        let evidence = self.left_out.entry(key).or_default();
        evidence.add(self.runs, count, first, last, exe);
    }

    /// What follows from all of them.
    pub fn learned(self) -> Learned {
        // What a rule denied is not allowed for another run that no rule was held against.
        let denied: BTreeSet<&str> = self
            .left_out
            .keys()
            .filter(|left| left.rule != rule_text(None, RULE_DEFAULT))
            .map(|left| left.destination.as_str())
            .collect();
        let denied_name = |name: &str| denied.contains(name);
        let general = general(&self.families);
        let mut drafts: BTreeMap<(Whither, u16), Draft> = BTreeMap::new();
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut unwritten = Vec::new();
        for ((whither, port, protocol), seen) in &self.wanted {
            if let Whither::Name(name) = whither {
                let flow = written_destination(whither, *port, *protocol);
                if denied_name(name) || denied.contains(flow.as_str()) {
                    continue;
                }
                reached.insert(name);
                if let Some((_, parent)) = name.split_once('.')
                    && general.contains_key(&(parent, *port, *protocol))
                {
                    continue;
                }
                if let Err(why) = nameable(name) {
                    for address in &seen.addresses {
                        let draft = drafts
                            .entry((Whither::Address(*address), *port))
                            .or_default();
                        draft.take(*protocol, seen);
                        draft
                            .remarks
                            .insert(format!("no rule can be about {}: {why}", printable(name)));
                    }
                    unwritten.push(format!("the lookup of {}: {why}", printable(name)));
                    continue;
                }
            } else if denied.contains(written_destination(whither, *port, *protocol).as_str()) {
                continue;
            }
            drafts
                .entry((whither.clone(), *port))
                .or_default()
                .take(*protocol, seen);
        }
        let mut rules: Vec<LearnedRule> = drafts
            .into_iter()
            .filter_map(|((whither, port), draft)| draft.rule(&whither, port))
            .collect();
        for ((parent, port, protocol), family) in &general {
            rules.push(of_family(parent, *port, *protocol, family));
        }
        for (name, evidence) in &self.lookups {
            if reached.contains(&**name) || denied_name(name) {
                continue;
            }
            match nameable(name) {
                Ok(target) => rules.push(LearnedRule {
                    allow: written(
                        &target,
                        Some(PortRange {
                            first: DISCARD,
                            last: DISCARD,
                        }),
                    ),
                    protocol: Some(Protocol::Udp),
                    evidence: evidence.clone(),
                    remarks: vec![format!(
                        "looked up only: on port {DISCARD} there is nothing to reach"
                    )],
                }),
                Err(why) => unwritten.push(format!("the lookup of {}: {why}", printable(name))),
            }
        }
        rules.sort_by(|a, b| (&a.allow, a.protocol).cmp(&(&b.allow, b.protocol)));
        unwritten.sort();
        unwritten.dedup();
        Learned {
            runs: self.runs,
            hosts: self.hosts.len(),
            first: self.first,
            last: self.last,
            lacking_runs: self.lacking_runs,
            lacking: self.lacking,
            rules,
            left_out: self.left_out.into_iter().collect(),
            unwritten,
        }
    }
}

/// A rule in the making: what is to be let through on one port.
#[derive(Debug, Default)]
struct Draft {
    protocols: BTreeSet<Protocol>,
    evidence: Option<Evidence>,
    probed: bool,
    remarks: BTreeSet<String>,
}

impl Draft {
    fn take(&mut self, protocol: Protocol, seen: &Seen) {
        self.protocols.insert(protocol);
        self.probed |= seen.probed;
        match &mut self.evidence {
            // The same runs, most of the time: the larger number is the honest one.
            Some(evidence) => {
                evidence.runs = evidence.runs.max(seen.evidence.runs);
                evidence.merge(&seen.evidence);
            }
            none => *none = Some(seen.evidence.clone()),
        }
    }

    fn rule(self, whither: &Whither, port: u16) -> Option<LearnedRule> {
        let target = match whither {
            Whither::Name(name) => nameable(name).ok()?,
            Whither::Address(address) => Target::Net(address.to_canonical().into()),
        };
        let evidence = self.evidence?;
        let mut remarks: Vec<String> = self.remarks.into_iter().collect();
        if let Whither::Address(_) = whither
            && remarks.is_empty()
        {
            remarks.push("reached without a name".to_owned());
        }
        if evidence.ambiguous {
            remarks.push("the address has several names, and this is the likeliest".to_owned());
        }
        let protocols: Vec<Protocol> = self.protocols.into_iter().collect();
        let (ports, protocol) = match protocols[..] {
            // Resolver libraries ask for the way with a datagram to the same port.
            [Protocol::Tcp] if !self.probed => (range(port), Some(Protocol::Tcp)),
            [Protocol::Udp] => (range(port), Some(Protocol::Udp)),
            _ if self_has_no_port(&protocols) || port == 0 => (None, None),
            _ => (range(port), None),
        };
        if ports.is_none() {
            remarks.push("it has no ports, so that the rule is for all".to_owned());
        }
        Some(LearnedRule {
            allow: written(&target, ports),
            protocol,
            evidence,
            remarks,
        })
    }
}

fn self_has_no_port(protocols: &[Protocol]) -> bool {
    protocols.contains(&Protocol::Other)
}

/// Port 0 is none that a rule could be about.
fn range(port: u16) -> Option<PortRange> {
    (port != 0).then_some(PortRange {
        first: port,
        last: port,
    })
}

/// Did it pass, with no policy against it? What a default alone would have refused, and did not, is what is to be
/// learned.
fn passed(verdict: Verdict, rule: &str) -> bool {
    match verdict {
        Verdict::Allow => true,
        Verdict::WouldDeny => rule == "default",
        Verdict::Deny | Verdict::Waived | Verdict::BreakGlass => false,
    }
}

fn wanted(flow: &Reached) -> Wanted {
    let whither = match &flow.name {
        Some(name) => Whither::Name(name.clone()),
        None => Whither::Address(flow.address),
    };
    (whither, flow.port, flow.as_protocol())
}

/// As [`Reached::destination`] writes it, for the protocols that have names.
fn written_destination(whither: &Whither, port: u16, protocol: Protocol) -> String {
    let host = match whither {
        Whither::Name(name) => name.to_string(),
        Whither::Address(address @ IpAddr::V6(_)) if port != 0 => format!("[{address}]"),
        Whither::Address(address) => address.to_string(),
    };
    let port = match port {
        0 => String::new(),
        port => format!(":{port}"),
    };
    match protocol {
        Protocol::Udp => format!("{host}{port}/udp"),
        Protocol::Tcp | Protocol::Other => format!("{host}{port}"),
    }
}

/// A name as a rule's target; the error says why it cannot be one.
fn nameable(name: &str) -> Result<Target, String> {
    let pattern = Pattern::parse(name).map_err(|error| error.to_string())?;
    match pattern.breadth() {
        Breadth::OneOwner => Ok(Target::Name(pattern)),
        Breadth::Strangers { suffix } => Err(format!("{suffix} is a public suffix")),
    }
}

type Families<'a> = BTreeMap<(&'a str, u16, Protocol), &'a Family>;

/// Where runs bring ever new names.
fn general(families: &HashMap<(Arc<str>, u16, Protocol), Family>) -> Families<'_> {
    let changing = |family: &Family| {
        let later = family.evidence.runs.saturating_sub(1);
        family.names.len() >= NAMES && family.new_in >= NEW_IN && family.new_in * 2 >= later
    };
    families
        .iter()
        .filter(|((parent, ..), family)| changing(family) && nameable(&below(parent)).is_ok())
        .map(|((parent, port, protocol), family)| ((&**parent, *port, *protocol), family))
        .collect()
}

fn below(parent: &str) -> String {
    format!("*.{parent}")
}

fn of_family(parent: &str, port: u16, protocol: Protocol, family: &Family) -> LearnedRule {
    let host = below(parent);
    let later = family.evidence.runs.saturating_sub(1);
    LearnedRule {
        allow: match range(port) {
            Some(_) => format!("{host}:{port}"),
            None => host,
        },
        protocol: Some(protocol).filter(|it| *it == Protocol::Udp),
        evidence: family.evidence.clone(),
        remarks: vec![format!(
            "{} names below it, and {} of the {later} runs after the first brought new ones",
            family.names.len(),
            family.new_in
        )],
    }
}
