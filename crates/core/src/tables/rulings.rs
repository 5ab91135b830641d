//! From overlapping rules to a partition of the port space: which rule rules where, and for which processes.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::choices::{Choices, Fold};
use super::kept::Kept;
use super::{
    Class, ClassId, CompileError, Effect, Limit, MAX_PORT_RULINGS, Outcome, PortRuling, Protocol,
    RuleId, Ruling, SelectorId,
};
use crate::name::Specificity;
use crate::policy::{self, Rank, Rule};
use crate::report::Mode;

/// What rules where, for every protocol and port. Nearly every target has one outcome for all of them, and
/// there may be hundreds of thousands of targets: that case costs no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Profile {
    /// The same everywhere.
    Uniform(Outcome),
    /// The same shape as [`Class::by_port`]; never the same everywhere.
    Parts(Vec<PortRuling>),
}

impl Profile {
    fn parts(&self) -> Cow<'_, [PortRuling]> {
        match self {
            Self::Uniform(outcome) => Protocol::ALL
                .map(|protocol| PortRuling {
                    protocol,
                    first: 0,
                    last: u16::MAX,
                    outcome: *outcome,
                })
                .to_vec()
                .into(),
            Self::Parts(parts) => parts.into(),
        }
    }

    /// How many stretches it has to keep.
    fn stretches(&self) -> usize {
        match self {
            Self::Uniform(_) => 0,
            Self::Parts(parts) => parts.len(),
        }
    }

    fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        let (one, parts): (_, &[PortRuling]) = match self {
            Self::Uniform(outcome) => (Some(*outcome), &[]),
            Self::Parts(parts) => (None, parts),
        };
        one.into_iter().chain(parts.iter().map(|part| part.outcome))
    }
}

/// Index of a profile in [`Classes`]; 0 is the one in which no rule applies anywhere.
pub(super) type ProfileId = u32;

/// A rule with its number, and that of its selector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbered<'r> {
    pub(super) id: RuleId,
    pub(super) rule: &'r Rule,
    pub(super) selector: Option<SelectorId>,
}

/// What goes before what among the rules of one target; the greater one wins. DESIGN §6: rank; then name (or
/// prefix length, where all compared rules have the same one), port, protocol, process; then the later
/// layer, then deny. Of two rules that are the same in all this, the first in the file is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Priority {
    rank: Rank,
    name: Option<Specificity>,
    /// Of a path pattern.
    literal: usize,
    /// 0 without a port; the narrower the range, the greater.
    port: u32,
    protocol: bool,
    /// None without a process; then a process before what it starts, a path before a name, and the longer text.
    process: Option<(bool, bool, usize)>,
    layer: u16,
    deny: bool,
    earlier: std::cmp::Reverse<RuleId>,
}

/// What it is in which one rule goes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aspect {
    Rank,
    Name,
    Path,
    Port,
    Protocol,
    Process,
    Layer,
    Deny,
    Order,
}

impl Priority {
    pub(crate) fn of(id: RuleId, rule: &Rule) -> Self {
        let (name, literal) = match &rule.target {
            policy::Target::Name(pattern) => (Some(pattern.specificity()), 0),
            policy::Target::Unix(path) => (None, path.literal_octets()),
            policy::Target::Net(_) | policy::Target::Any => (None, 0),
        };
        Self {
            rank: rule.rank,
            name,
            literal,
            port: rule
                .ports
                .map_or(0, |range| 65_536 - u32::from(range.last - range.first)),
            protocol: rule.protocol.is_some(),
            process: rule.process.as_ref().map(|selector| {
                (
                    !selector.tree,
                    selector.program.is_absolute(),
                    selector.program.literal_octets(),
                )
            }),
            layer: rule.layer,
            deny: rule.effect == policy::Effect::Deny,
            earlier: std::cmp::Reverse(id),
        }
    }

    /// The first aspect in which the two differ, in the order of the comparison.
    pub(crate) fn differs(&self, other: &Self) -> Aspect {
        let aspects = [
            (self.rank != other.rank, Aspect::Rank),
            (self.name != other.name, Aspect::Name),
            (self.literal != other.literal, Aspect::Path),
            (self.port != other.port, Aspect::Port),
            (self.protocol != other.protocol, Aspect::Protocol),
            (self.process != other.process, Aspect::Process),
            (self.layer != other.layer, Aspect::Layer),
            (self.deny != other.deny, Aspect::Deny),
        ];
        let first = aspects.into_iter().find(|(differ, _)| *differ);
        first.map_or(Aspect::Order, |(_, aspect)| aspect)
    }
}

/// What a rule rules where it wins.
fn ruling(numbered: Numbered<'_>) -> Ruling {
    let Numbered { id, rule, .. } = numbered;
    match rule.effect {
        policy::Effect::Allow => Ruling {
            effect: Effect::Allow,
            rule: id,
            rank: rule.rank,
            ..Ruling::NONE
        },
        policy::Effect::Deny => Ruling {
            effect: Effect::Deny,
            rule: id,
            rank: rule.rank,
            enforce: rule.mode == Mode::Enforce,
            failure: rule.failure,
        },
    }
}

/// Where no rule applies.
pub(super) const NOTHING: Profile = Profile::Uniform(Outcome::Is(Ruling::NONE));

/// Lay the rules of one target over what it inherits. Costs n log n in the rules and the inherited stretches.
fn overlay(choices: &mut Choices, inherited: &Profile, rules: &[Numbered<'_>]) -> Profile {
    // Nearly always one rule about everything.
    if let ([only], &Profile::Uniform(under)) = (rules, inherited)
        && only.rule.ports.is_none()
        && only.rule.protocol.is_none()
    {
        return Profile::Uniform(choices.lay(under, ruling(*only), only.selector));
    }
    let mut sorted: Vec<(Priority, Numbered<'_>)> = rules
        .iter()
        .map(|&rule| (Priority::of(rule.id, rule.rule), rule))
        .collect();
    sorted.sort_unstable_by_key(|(priority, _)| *priority);
    if rules
        .iter()
        .all(|numbered| numbered.rule.ports.is_none() && numbered.rule.protocol.is_none())
        && let &Profile::Uniform(under) = inherited
    {
        let outcome = lay_all(choices, under, sorted.iter().map(|(_, rule)| *rule).rev());
        return Profile::Uniform(outcome);
    }
    let inherited = inherited.parts();
    let mut parts = Vec::new();
    for protocol in Protocol::ALL {
        let mut stretches: Vec<(u16, u16, usize)> = Vec::with_capacity(sorted.len());
        for (index, (_, Numbered { rule, .. })) in sorted.iter().enumerate() {
            let (first, last) = match (rule.protocol, rule.ports) {
                (Some(only), _) if only != protocol => continue,
                // What has no port matches only rules without one.
                (_, Some(_)) if protocol == Protocol::Other => continue,
                (_, None) => (0, u16::MAX),
                (_, Some(ports)) => (ports.first, ports.last),
            };
            stretches.push((first, last, index));
        }
        let under = inherited.iter().filter(|part| part.protocol == protocol);
        sweep(choices, under, &stretches, &sorted, &mut parts);
    }
    match parts.first() {
        Some(first) if parts.iter().all(|part| part.outcome == first.outcome) => {
            Profile::Uniform(first.outcome)
        }
        _ => Profile::Parts(parts),
    }
}

/// Lay rules, given greatest first, over an outcome. What lies below one that is about every process does
/// not show: no rule below it has a higher rank.
fn lay_all<'r>(
    choices: &mut Choices,
    under: Outcome,
    greatest_first: impl Iterator<Item = Numbered<'r>>,
) -> Outcome {
    let mut showing = Vec::new();
    for numbered in greatest_first {
        showing.push(numbered);
        if numbered.selector.is_none() {
            break;
        }
    }
    showing.into_iter().rev().fold(under, |outcome, numbered| {
        choices.lay(outcome, ruling(numbered), numbered.selector)
    })
}

/// Walk the ports of one protocol once; between two places where a stretch begins or ends, the open ones lie
/// over what is inherited there. `stretches` are ports with an index into `rules`, which ascend.
fn sweep<'p>(
    choices: &mut Choices,
    inherited: impl Iterator<Item = &'p PortRuling>,
    stretches: &[(u16, u16, usize)],
    rules: &[(Priority, Numbered<'_>)],
    parts: &mut Vec<PortRuling>,
) {
    let start = parts.len();
    // (port, opens, index), ports up to 65536 for ends.
    let mut edges: Vec<(u32, bool, usize)> = Vec::with_capacity(stretches.len() * 2);
    for &(first, last, index) in stretches {
        edges.push((first.into(), true, index));
        edges.push((u32::from(last) + 1, false, index));
    }
    edges.sort_unstable();
    let mut edges = edges.into_iter().peekable();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut port = 0;
    for part in inherited {
        while port <= u32::from(part.last) {
            while let Some((_, opens, index)) = edges.next_if(|&(at, ..)| at <= port) {
                if opens {
                    open.insert(index);
                } else {
                    open.remove(&index);
                }
            }
            let next = edges
                .peek()
                .map_or(65_536, |&(at, ..)| at)
                .min(u32::from(part.last) + 1);
            let greatest_first = open.iter().rev().map(|&index| rules[index].1);
            let outcome = lay_all(choices, part.outcome, greatest_first);
            // Both bounds lie within 0..=65535 here.
            let (first, last) = (port as u16, (next - 1) as u16);
            match parts[start..].last_mut() {
                Some(previous) if previous.outcome == outcome => previous.last = last,
                _ => parts.push(PortRuling {
                    protocol: part.protocol,
                    first,
                    last,
                    outcome,
                }),
            }
            port = next;
        }
    }
}

/// What holds where no rule does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Default {
    pub(super) deny: bool,
    pub(super) enforce: bool,
}

impl Default {
    fn ruling(self) -> Ruling {
        let effect = if self.deny {
            Effect::Deny
        } else {
            Effect::Allow
        };
        Ruling {
            effect,
            enforce: self.deny && self.enforce,
            ..Ruling::NONE
        }
    }
}

/// Profiles and classes, each kept once.
pub(super) struct Classes {
    default: Default,
    /// What the rules for any address say: a name may be looked up if they allow it to be reached.
    any: Profile,
    pub(super) choices: Choices,
    profiles: Kept<Profile>,
    pub(super) classes: Kept<Class>,
    /// Classes of names, by profile and the built-in rule by which they may be looked up.
    of_names: HashMap<(ProfileId, Option<RuleId>), ClassId>,
    /// Stretches in all profiles: what bounds the memory.
    stretches: usize,
}

impl Classes {
    /// `rules` is how many there are: nearly every one makes a profile and a class of its own.
    pub(super) fn new(
        default: Default,
        mut choices: Choices,
        any: &[Numbered<'_>],
        rules: usize,
    ) -> Self {
        let any = overlay(&mut choices, &NOTHING, any);
        let mut classes = Self {
            default,
            any,
            choices,
            profiles: Kept::with_capacity(rules + 1),
            classes: Kept::with_capacity(rules + 1),
            of_names: HashMap::new(),
            stretches: 0,
        };
        let none = classes.profile(NOTHING);
        classes.of_prefix(none);
        classes
    }

    /// Have all found room so far? To be asked again and again, so that what has not is noticed before it takes long.
    /// `rules` are those that were laid last.
    pub(super) fn fit(&self, rules: &[Numbered<'_>]) -> Result<(), CompileError> {
        let by = |limit: Limit| limit.by(rules.iter().map(|it| it.id).max());
        if self.choices.too_many {
            Err(by(Limit::TooManyChoices))
        } else if self.stretches > MAX_PORT_RULINGS {
            Err(by(Limit::TooManyPortRulings))
        } else {
            Ok(())
        }
    }

    pub(super) fn profile(&mut self, profile: Profile) -> ProfileId {
        let stretches = profile.stretches();
        let (id, fresh) = self.profiles.keep(profile);
        if fresh {
            self.stretches += stretches;
        }
        id
    }

    /// Lay rules over a profile.
    pub(super) fn overlay(&mut self, inherited: ProfileId, rules: &[Numbered<'_>]) -> ProfileId {
        if rules.is_empty() {
            return inherited;
        }
        let profile = overlay(&mut self.choices, &self.profiles[inherited], rules);
        self.profile(profile)
    }

    /// The class of addresses, or of sockets, with this profile.
    pub(super) fn of_prefix(&mut self, profile: ProfileId) -> ClassId {
        let lookup = self.lookup(profile, &NOTHING, None);
        self.class(profile, lookup)
    }

    /// The class of names with this profile.
    pub(super) fn of_name(&mut self, profile: ProfileId, search: Option<RuleId>) -> ClassId {
        if let Some(&id) = self.of_names.get(&(profile, search)) {
            return id;
        }
        let any = self.any.clone();
        let lookup = self.lookup(profile, &any, search);
        let id = self.class(profile, lookup);
        self.of_names.insert((profile, search), id);
        id
    }

    /// The profile with this ruling wherever no rule applies.
    pub(super) fn underlay(&mut self, profile: ProfileId, under: Ruling) -> ProfileId {
        let laid = match self.profiles[profile].clone() {
            Profile::Uniform(outcome) => Profile::Uniform(self.choices.fill(outcome, under)),
            Profile::Parts(mut parts) => {
                for part in &mut parts {
                    part.outcome = self.choices.fill(part.outcome, under);
                }
                Profile::Parts(parts)
            }
        };
        self.profile(laid)
    }

    fn class(&mut self, profile: ProfileId, lookup: Outcome) -> ClassId {
        let profile = &self.profiles[profile];
        let denial = denial(&self.choices, profile);
        let (outcome, by_port) = match profile {
            &Profile::Uniform(outcome) => (outcome, Vec::new()),
            Profile::Parts(parts) => (Outcome::Is(Ruling::NONE), parts.clone()),
        };
        let (id, _) = self.classes.keep(Class {
            lookup,
            outcome,
            by_port,
            denial,
        });
        id
    }

    /// What a lookup of a name with this profile meets: it passes if the name could be reached on any port
    /// over TCP or UDP.
    fn lookup(&mut self, profile: ProfileId, any: &Profile, search: Option<RuleId>) -> Outcome {
        if let &Profile::Uniform(Outcome::Is(ruling)) = &self.profiles[profile]
            && ruling.effect != Effect::None
        {
            return Outcome::Is(ruling);
        }
        let default = self.default;
        let profile = self.profiles[profile].parts().into_owned();
        // Only under an allow-list does it matter what is said of any address.
        let any = if default.deny {
            any.parts().into_owned()
        } else {
            Vec::new()
        };
        let lookup = Lookup::new(&self.choices, &profile, &any, default, search);
        self.choices
            .combine(&lookup, &lookup.outcomes, So::default())
    }
}

/// [`Class::denial`].
fn denial(choices: &Choices, profile: &Profile) -> u8 {
    let strength = |ruling: Ruling| match ruling.effect {
        Effect::Deny => 2 + 4 * ruling.rank as u8 + 2 * u8::from(ruling.enforce),
        Effect::None | Effect::Allow | Effect::Search => 0,
    };
    if let &Profile::Uniform(Outcome::Is(ruling)) = profile {
        let strength = strength(ruling);
        return strength | u8::from(strength != 0);
    }
    let strengths: Vec<u8> = choices
        .rulings(profile.outcomes())
        .into_iter()
        .map(strength)
        .collect();
    let strongest = strengths.iter().max().copied().unwrap_or(0);
    strongest | u8::from(!strengths.contains(&0))
}

/// What a lookup meets, out of what holds on each port. A name may be looked up if it can be reached on some port.
///
/// The rule that is named is the one that decides on the most ports, the first of those that decide on as
/// many. A name that is denied only in part by rules and for the rest by `default: deny` is denied by the
/// default. What is denied on some port for the record only can be reached there, so its lookup passes.
struct Lookup {
    default: Default,
    search: Option<RuleId>,
    /// Of the name, and behind each of the name's those of any address for the same ports, under an allow-list.
    outcomes: Vec<Outcome>,
    of_any: Vec<bool>,
    /// The rulings of the name, and of any address, by how many ports each may decide on: the widest is 0.
    width: [HashMap<Ruling, usize>; 2],
    /// From each place on, the widest that allows the name.
    widest_to_come: Vec<Option<usize>>,
}

/// What a name's rules say on the ports so far; the widest ruling of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct So {
    allowed: Option<Ruling>,
    recorded: Option<Ruling>,
    denied: Option<Ruling>,
    /// No rule of the name is about some port.
    undecided: bool,
    /// That is so of the last stretch.
    open: bool,
    /// On one of those ports any address may be reached.
    any: Option<Ruling>,
}

impl Lookup {
    fn new(
        choices: &Choices,
        profile: &[PortRuling],
        any: &[PortRuling],
        default: Default,
        search: Option<RuleId>,
    ) -> Self {
        let ported = |part: &&PortRuling| part.protocol != Protocol::Other;
        let possible = |part: &PortRuling| choices.rulings([part.outcome]);
        let width = [profile, any].map(|parts| {
            let mut ports: HashMap<Ruling, u64> = HashMap::new();
            for part in parts.iter().filter(ported) {
                for ruling in possible(part) {
                    *ports.entry(ruling).or_default() += u64::from(part.last - part.first) + 1;
                }
            }
            let mut ordered: Vec<(Ruling, u64)> = ports.into_iter().collect();
            ordered
                .sort_unstable_by_key(|&(ruling, ports)| (std::cmp::Reverse(ports), ruling.rule));
            ordered
                .into_iter()
                .map(|(ruling, _)| ruling)
                .zip(0..)
                .collect()
        });
        let mut lookup = Self {
            default,
            search,
            outcomes: Vec::new(),
            of_any: Vec::new(),
            width,
            widest_to_come: Vec::new(),
        };
        // What may allow most goes first: whatever comes later need not be looked at.
        let mut stretches: Vec<(Option<usize>, &PortRuling)> = profile
            .iter()
            .filter(ported)
            .map(|part| (lookup.widest_allow(possible(part)), part))
            .collect();
        stretches.sort_by_key(|(widest, _)| widest.unwrap_or(usize::MAX));
        for (widest, part) in stretches {
            let first =
                any.partition_point(|it| (it.protocol, it.last) < (part.protocol, part.first));
            let same = any[first..]
                .iter()
                .take_while(|it| it.protocol == part.protocol && it.first <= part.last);
            for (part, of_any) in
                std::iter::once((part, false)).chain(same.zip(std::iter::repeat(true)))
            {
                lookup.outcomes.push(part.outcome);
                lookup.of_any.push(of_any);
                // They ascend, so that the next one is the widest to come.
                lookup
                    .widest_to_come
                    .push(if of_any { None } else { widest });
            }
        }
        let mut next = None;
        for widest in lookup.widest_to_come.iter_mut().rev() {
            next = widest.or(next);
            *widest = next;
        }
        lookup
    }

    fn widest_allow(&self, rulings: impl IntoIterator<Item = Ruling>) -> Option<usize> {
        let allows = rulings.into_iter().filter(|r| r.effect == Effect::Allow);
        allows.map(|ruling| self.width[0][&ruling]).min()
    }

    /// The wider of two, of the name or of any address.
    fn wider(&self, of_any: bool, one: Option<Ruling>, other: Ruling) -> Option<Ruling> {
        let width = &self.width[usize::from(of_any)];
        one.into_iter()
            .chain([other])
            .min_by_key(|ruling| width[ruling])
    }
}

impl Fold for Lookup {
    type So = So;

    fn add(&self, mut so: So, at: usize, ruling: Ruling) -> So {
        if self.of_any[at] {
            if so.open && ruling.effect == Effect::Allow {
                so.any = self.wider(true, so.any, ruling);
            }
            return so;
        }
        so.open = false;
        match ruling.effect {
            Effect::Allow => so.allowed = self.wider(false, so.allowed, ruling),
            Effect::Deny if ruling.enforce => so.denied = self.wider(false, so.denied, ruling),
            Effect::Deny => so.recorded = self.wider(false, so.recorded, ruling),
            Effect::None | Effect::Search => {
                so.undecided = true;
                so.open = self.default.deny;
            }
        }
        // What can no longer matter is forgotten: fewer states to tell apart.
        if so.allowed.is_some() {
            return So {
                allowed: so.allowed,
                ..So::default()
            };
        }
        if so.undecided {
            so.denied = None;
        }
        if so.undecided && !self.default.deny {
            so.recorded = None;
        }
        so
    }

    fn settled(&self, so: So, next: usize) -> Option<Ruling> {
        let to_come = self.widest_to_come.get(next).copied().flatten();
        if let Some(allowed) = so.allowed {
            let wider_to_come = to_come.is_some_and(|widest| widest < self.width[0][&allowed]);
            return (!wider_to_come).then_some(allowed);
        }
        if so.undecided && !self.default.deny && to_come.is_none() {
            return Some(self.default.ruling());
        }
        if next < self.outcomes.len() {
            return None;
        }
        let default = self.default.ruling();
        Some(if !so.undecided {
            so.recorded.or(so.denied).unwrap_or(default)
        } else if let Some(ruled) = so.any.or(so.recorded) {
            ruled
        } else if let Some(rule) = self.search {
            Ruling {
                effect: Effect::Search,
                rule,
                ..Ruling::NONE
            }
        } else {
            default
        })
    }
}
