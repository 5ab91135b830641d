//! From overlapping rules to a partition of the port space: which rule rules where.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::{
    Class, ClassId, Effect, PortRuling, Protocol, RULE_DEFAULT, RULE_SEARCH, RuleId, Ruling,
};
use crate::name::Specificity;
use crate::policy::{self, Rule};

/// What rules where, for every protocol and port. Nearly every target has one ruling for all of them, and
/// there may be hundreds of thousands of targets: that case costs no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Profile {
    /// The same everywhere.
    Uniform(Ruling),
    /// The same shape as [`Class::by_port`]; never the same everywhere.
    Parts(Vec<PortRuling>),
}

impl Profile {
    fn parts(&self) -> Cow<'_, [PortRuling]> {
        match self {
            Self::Uniform(ruling) => Protocol::ALL
                .map(|protocol| PortRuling {
                    protocol,
                    first: 0,
                    last: u16::MAX,
                    ruling: *ruling,
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
}

/// Index of a profile in [`Classes`]; 0 is the one in which no rule applies anywhere.
pub(super) type ProfileId = u32;

/// How closely a rule describes an attempt; the greater one wins. DESIGN §6: name (or prefix length, where
/// all compared rules have the same one), port, protocol; a tie goes to deny. Of two rules that are the same
/// in all this, the first in the file is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority {
    /// 0 for what is inherited from a wider target: any rule of this target beats it.
    own: bool,
    name: Option<Specificity>,
    /// 0 without a port; the narrower the range, the greater.
    port: u32,
    protocol: bool,
    deny: bool,
    earlier: std::cmp::Reverse<RuleId>,
}

impl Priority {
    pub(super) fn of(rule: &Rule, id: RuleId) -> Self {
        Self {
            own: true,
            name: match &rule.target {
                policy::Target::Name(pattern) => Some(pattern.specificity()),
                policy::Target::Net(_) | policy::Target::Any => None,
            },
            port: rule
                .ports
                .map_or(0, |range| 65_536 - u32::from(range.last - range.first)),
            protocol: rule.protocol.is_some(),
            deny: rule.effect == policy::Effect::Deny,
            earlier: std::cmp::Reverse(id),
        }
    }

    fn inherited() -> Self {
        Self {
            own: false,
            name: None,
            port: 0,
            protocol: false,
            deny: false,
            earlier: std::cmp::Reverse(0),
        }
    }
}

/// Where no rule applies.
pub(super) const NOTHING: Profile = Profile::Uniform(Ruling::NONE);

/// Lay the rules of one target over what it inherits. Costs n log n in the rules and the inherited stretches.
pub(super) fn overlay(inherited: &Profile, rules: &[(RuleId, &Rule)]) -> Profile {
    let ruling = |rule: &Rule, id| {
        let effect = match rule.effect {
            policy::Effect::Allow => Effect::Allow,
            policy::Effect::Deny => Effect::Deny,
        };
        Ruling { effect, rule: id }
    };
    if rules
        .iter()
        .all(|(_, rule)| rule.ports.is_none() && rule.protocol.is_none())
    {
        let first = rules
            .iter()
            .max_by_key(|&&(id, rule)| Priority::of(rule, id));
        return first.map_or(inherited.clone(), |&(id, rule)| {
            Profile::Uniform(ruling(rule, id))
        });
    }
    let inherited = inherited.parts();
    let mut parts = Vec::new();
    for protocol in Protocol::ALL {
        let mut stretches: Vec<(u16, u16, Priority, Ruling)> = inherited
            .iter()
            .filter(|p| p.protocol == protocol && p.ruling.effect != Effect::None)
            .map(|p| (p.first, p.last, Priority::inherited(), p.ruling))
            .collect();
        for &(id, rule) in rules {
            let (first, last) = match (rule.protocol, rule.ports) {
                (Some(only), _) if only != protocol => continue,
                // What has no port matches only rules without one.
                (_, Some(_)) if protocol == Protocol::Other => continue,
                (_, None) => (0, u16::MAX),
                (_, Some(ports)) => (ports.first, ports.last),
            };
            stretches.push((first, last, Priority::of(rule, id), ruling(rule, id)));
        }
        sweep(protocol, &stretches, &mut parts);
    }
    match parts.first() {
        Some(first) if parts.iter().all(|p| p.ruling == first.ruling) => {
            Profile::Uniform(first.ruling)
        }
        _ => Profile::Parts(parts),
    }
}

/// Walk the ports once; at each place where a stretch begins or ends, the greatest open one rules.
fn sweep(
    protocol: Protocol,
    stretches: &[(u16, u16, Priority, Ruling)],
    parts: &mut Vec<PortRuling>,
) {
    let start = parts.len();
    // (port, opens, index), ports up to 65536 for ends.
    let mut edges: Vec<(u32, bool, usize)> = Vec::with_capacity(stretches.len() * 2);
    for (index, &(first, last, ..)) in stretches.iter().enumerate() {
        edges.push((first.into(), true, index));
        edges.push((u32::from(last) + 1, false, index));
    }
    edges.sort_unstable();
    let mut open: BTreeSet<(Priority, usize)> = BTreeSet::new();
    let mut port = 0;
    let mut edges = edges.into_iter().peekable();
    while port <= u32::from(u16::MAX) {
        while let Some((_, opens, index)) = edges.next_if(|&(at, ..)| at <= port) {
            let key = (stretches[index].2, index);
            if opens {
                open.insert(key);
            } else {
                open.remove(&key);
            }
        }
        let next = edges.peek().map_or(65_536, |&(at, ..)| at);
        let ruling = open
            .last()
            .map_or(Ruling::NONE, |&(_, index)| stretches[index].3);
        // Both bounds lie within 0..=65535 here.
        let (first, last) = (port as u16, (next - 1) as u16);
        match parts[start..].last_mut() {
            Some(previous) if previous.ruling == ruling => previous.last = last,
            _ => parts.push(PortRuling {
                protocol,
                first,
                last,
                ruling,
            }),
        }
        port = next;
    }
}

/// Profiles and classes, each kept once.
pub(super) struct Classes {
    default_deny: bool,
    /// What the rules for any address say: a name may be looked up if they allow it to be reached.
    any: Profile,
    profiles: Vec<Profile>,
    profile_ids: HashMap<Profile, ProfileId>,
    pub(super) classes: Vec<Class>,
    class_ids: HashMap<Class, ClassId>,
    /// Stretches in all profiles: what bounds the memory.
    pub(super) stretches: usize,
}

impl Classes {
    pub(super) fn new(default_deny: bool, any: Profile) -> Self {
        let mut classes = Self {
            default_deny,
            any,
            profiles: Vec::new(),
            profile_ids: HashMap::new(),
            classes: Vec::new(),
            class_ids: HashMap::new(),
            stretches: 0,
        };
        let none = classes.profile(NOTHING);
        classes.of_prefix(none);
        classes
    }

    pub(super) fn profile(&mut self, profile: Profile) -> ProfileId {
        if let Some(&id) = self.profile_ids.get(&profile) {
            return id;
        }
        let id = self.profiles.len() as ProfileId;
        self.stretches += profile.stretches();
        self.profiles.push(profile.clone());
        self.profile_ids.insert(profile, id);
        id
    }

    /// Lay rules over a profile.
    pub(super) fn overlay(&mut self, inherited: ProfileId, rules: &[(RuleId, &Rule)]) -> ProfileId {
        if rules.is_empty() {
            return inherited;
        }
        let profile = overlay(&self.profiles[inherited as usize], rules);
        self.profile(profile)
    }

    /// The class of addresses with this profile.
    pub(super) fn of_prefix(&mut self, profile: ProfileId) -> ClassId {
        let lookup = lookup(
            &self.profiles[profile as usize],
            &NOTHING,
            self.default_deny,
            false,
        );
        self.class(profile, lookup)
    }

    /// The class of names with this profile.
    pub(super) fn of_name(&mut self, profile: ProfileId, below_search: bool) -> ClassId {
        let lookup = lookup(
            &self.profiles[profile as usize],
            &self.any,
            self.default_deny,
            below_search,
        );
        self.class(profile, lookup)
    }

    fn class(&mut self, profile: ProfileId, lookup: Ruling) -> ClassId {
        let class = match &self.profiles[profile as usize] {
            &Profile::Uniform(ruling) => {
                let may_deny = ruling.effect == Effect::Deny;
                Class {
                    lookup,
                    ruling,
                    by_port: Vec::new(),
                    may_deny,
                }
            }
            Profile::Parts(parts) => {
                let may_deny = parts.iter().any(|p| p.ruling.effect == Effect::Deny);
                Class {
                    lookup,
                    ruling: Ruling::NONE,
                    by_port: parts.clone(),
                    may_deny,
                }
            }
        };
        if let Some(&id) = self.class_ids.get(&class) {
            return id;
        }
        let id = self.classes.len() as ClassId;
        self.classes.push(class.clone());
        self.class_ids.insert(class, id);
        id
    }
}

/// What a lookup of a name with this profile meets: it passes if the name could be reached on any port over
/// TCP or UDP.
///
/// The rule that is named is the one that decides on the most ports, the first of those that decide on as
/// many. A name that is denied only in part by rules and for the rest by `default: deny` is denied by the default.
fn lookup(profile: &Profile, any: &Profile, default_deny: bool, below_search: bool) -> Ruling {
    if let Profile::Uniform(ruling) = profile
        && ruling.effect != Effect::None
    {
        return *ruling;
    }
    let (profile, any) = (&*profile.parts(), &*any.parts());
    let transport = |p: &&PortRuling| p.protocol != Protocol::Other;
    let widest = |stretches: &[PortRuling], effect: Effect| -> Option<Ruling> {
        let mut ports: HashMap<RuleId, u64> = HashMap::new();
        for p in stretches
            .iter()
            .filter(transport)
            .filter(|p| p.ruling.effect == effect)
        {
            *ports.entry(p.ruling.rule).or_default() += u64::from(p.last - p.first) + 1;
        }
        let (rule, _) = ports
            .into_iter()
            .max_by_key(|&(rule, ports)| (ports, std::cmp::Reverse(rule)))?;
        Some(Ruling { effect, rule })
    };
    let undecided = profile
        .iter()
        .filter(transport)
        .any(|p| p.ruling.effect == Effect::None);
    let default = |effect| Ruling {
        effect,
        rule: RULE_DEFAULT,
    };
    if let Some(allow) = widest(profile, Effect::Allow) {
        return allow;
    }
    if !undecided {
        return widest(profile, Effect::Deny).unwrap_or(default(Effect::Deny));
    }
    if !default_deny {
        return default(Effect::Allow);
    }
    // Undecided ports fall to the rules for any address, if these allow one of them.
    if let Some(allow) = widest(any, Effect::Allow)
        && profile
            .iter()
            .filter(transport)
            .filter(|p| p.ruling.effect == Effect::None)
            .any(|open| {
                any.iter().any(|a| {
                    a.protocol == open.protocol
                        && a.ruling.effect == Effect::Allow
                        && a.first <= open.last
                        && open.first <= a.last
                })
            })
    {
        return allow;
    }
    if below_search {
        return Ruling {
            effect: Effect::Search,
            rule: RULE_SEARCH,
        };
    }
    default(Effect::Deny)
}
