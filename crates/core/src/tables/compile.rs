//! From a policy to the tables.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::automaton::Trie;
use super::choices::Choices;
use super::paths::Paths;
use super::rulings::{Classes, Default, Numbered, ProfileId};
use super::{
    ClassId, LeaseEnd, RULE_LINK_LOCAL, RULE_REVERSE, RULE_SEARCH, RuleId, Ruling, SelectorId,
    Tables,
};
use crate::name::{Name, Pattern};
use crate::path::{PathPattern, Selector};
use crate::policy::{Effect, LeaseLife, Policy, Target};
use crate::report::Mode;

/// Bound on the states of the name automaton. Without a `*` inside patterns there are never more than the
/// patterns have labels; such a `*` may add no more than 65,536.
pub const MAX_STATES: usize = 1 << 20;
/// Bound on the stretches of ports in all classes together.
pub const MAX_PORT_RULINGS: usize = 1 << 20;
/// Different processes that the rules of a policy may speak of.
pub const MAX_SELECTORS: usize = 64;

/// What the host adds to a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The search list of the run's resolv.conf. It matters under `default: deny` only.
    pub search: Vec<Name>,
}

/// Why a policy that reads well cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileError {
    /// What there is too much of.
    pub limit: Limit,
    /// A rule with which it was too much; that of several which it takes is the last, where that is known.
    pub rule: Option<RuleId>,
}

/// A bound on what a policy may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The patterns with a `*` inside overlap in too many ways.
    TooManyStates,
    /// Too many different combinations of ports.
    TooManyPortRulings,
    /// More different processes than a row of bits has room for.
    TooManySelectors,
    /// Too many different combinations of processes.
    TooManyChoices,
    /// The path patterns overlap in too many ways.
    TooManyPaths,
}

impl Limit {
    /// Exceeded, with this rule.
    pub(super) fn by(self, rule: Option<RuleId>) -> CompileError {
        CompileError { limit: self, rule }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limit.fmt(f)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyStates => write!(
                f,
                "the name patterns overlap in more ways than the kernel's table may hold (at most {MAX_STATES} states); use fewer patterns with a `*` inside"
            ),
            Self::TooManyPortRulings => write!(
                f,
                "the rules divide the ports of their targets into more ranges than the kernel's table can hold ({MAX_PORT_RULINGS}); use fewer rules with ports for wide targets"
            ),
            Self::TooManySelectors => write!(
                f,
                "the rules speak of more than {MAX_SELECTORS} different processes; let several rules speak of the same, or of an `ancestor:` that these have in common"
            ),
            Self::TooManyChoices => f.write_str(
                "the processes of the rules combine in more ways than the kernel's table can hold; use fewer rules with a `process` about the same targets",
            ),
            Self::TooManyPaths => f.write_str(
                "the path patterns overlap in more ways than the kernel's table can hold; use fewer of them with `**` or with a `*` in the middle",
            ),
        }
    }
}

impl std::error::Error for CompileError {}

/// Compile a policy. The same policy and facts always give the same tables.
pub fn compile(policy: &Policy, facts: &Facts) -> Result<Tables, CompileError> {
    let default = Default {
        deny: policy.default == Effect::Deny,
        enforce: policy.mode == Mode::Enforce,
    };
    let (rules, selectors) = numbered(policy)?;

    let any: Vec<_> = rules
        .iter()
        .filter(|numbered| numbered.rule.target == Target::Any)
        .copied()
        .collect();
    let texts: Vec<&str> = selectors.iter().map(|it| it.program.regex()).collect();
    let programs = Paths::new(&texts).map_err(|limit| {
        let mut rules = rules.iter().rev();
        limit.by(rules.find(|it| it.selector.is_some()).map(|it| it.id))
    })?;
    let choices = Choices::new(&selectors, &programs);
    let mut classes = Classes::new(default, choices, &any, rules.len());

    let searches: Vec<(Pattern, RuleId)> = if default.deny {
        let search = facts.search.iter().map(|name| (name.clone(), RULE_SEARCH));
        let all = search.chain(reverse().map(|name| (name, RULE_REVERSE)));
        all.filter_map(|(name, rule)| Some((Pattern::below(&name)?, rule)))
            .collect()
    } else {
        Vec::new()
    };
    let mut trie = Trie::new(&rules);
    for (search, rule) in &searches {
        trie.insert_search(search, *rule);
    }
    let states = trie.into_states(&mut classes)?;
    let prefixes = prefixes(&rules, default.deny, &mut classes)?;
    let (sockets, socket_classes) = sockets(&rules, &mut classes)?;
    classes.fit(&[])?;
    Ok(Tables {
        default_deny: default.deny,
        enforce: default.enforce,
        lease: match policy.lease {
            LeaseLife::Run => LeaseEnd::Run,
            LeaseLife::Ttl => LeaseEnd::Ttl { at_least: 0 },
        },
        inspect: policy.inspected().to_vec(),
        hidden_deny: policy.hidden == Effect::Deny,
        search: facts.search.clone(),
        states,
        classes: classes.classes.into_values(),
        choices: classes.choices.rows.into_values(),
        prefixes,
        selectors,
        programs,
        sockets,
        socket_classes,
    })
}

/// The rules with their numbers, and the selectors with theirs: in the order of the rules, each once.
fn numbered(policy: &Policy) -> Result<(Vec<Numbered<'_>>, Vec<Selector>), CompileError> {
    let mut ids: HashMap<&Selector, SelectorId> = HashMap::new();
    let mut selectors = Vec::new();
    let mut rules = Vec::with_capacity(policy.rules.len());
    for (rule, id) in policy.rules.iter().zip(1..) {
        let selector = match &rule.process {
            None => None,
            Some(selector) => Some(match ids.get(selector) {
                Some(&id) => id,
                None if selectors.len() == MAX_SELECTORS => {
                    return Err(Limit::TooManySelectors.by(Some(id)));
                }
                None => {
                    let id = selectors.len() as SelectorId;
                    selectors.push(selector.clone());
                    ids.insert(selector, id);
                    id
                }
            }),
        };
        rules.push(Numbered { id, rule, selector });
    }
    Ok((rules, selectors))
}

/// Below these the names of addresses are looked up (RFC 1035, 3.5; RFC 3596, 2.5).
const REVERSE: [&str; 2] = ["in-addr.arpa", "ip6.arpa"];

fn reverse() -> impl Iterator<Item = Name> {
    REVERSE.iter().filter_map(|text| text.parse().ok())
}

/// Is it the name of an address?
pub fn is_reverse(name: &Name) -> bool {
    let below = |it| Pattern::below(&it).is_some_and(|below| below.matches(name));
    reverse().any(below)
}

/// Of one link, and of the machine that the run is on (RFC 3927, RFC 4291; the last one is Amazon's metadata service): an
/// allow-list of names does not mean these, whatever an answer says.
fn link_local() -> [IpNet; 3] {
    let of = |address: Ipv6Addr, length| IpNet::new_assert(address.into(), length);
    [
        IpNet::new_assert(Ipv4Addr::new(169, 254, 0, 0).into(), 16),
        of(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        of(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    ]
}

fn prefixes(
    rules: &[Numbered<'_>],
    default_deny: bool,
    classes: &mut Classes,
) -> Result<Vec<(IpNet, ClassId)>, CompileError> {
    let mut by_prefix: Vec<(IpNet, usize)> = Vec::new();
    for (index, numbered) in rules.iter().enumerate() {
        let covered = numbered.rule.target.prefixes().into_iter();
        by_prefix.extend(covered.map(|prefix| (prefix, index)));
    }
    let guarded = if default_deny { &link_local()[..] } else { &[] };
    by_prefix.extend(guarded.iter().map(|&prefix| (prefix, rules.len())));
    by_prefix.sort_unstable();
    // In this order a prefix comes after all that contain it, and what it lies in is a stack.
    let mut around: Vec<(IpNet, ProfileId)> = Vec::new();
    let mut prefixes = Vec::new();
    let mut of_prefix = Vec::new();
    for same in by_prefix.chunk_by(|(a, _), (b, _)| a == b) {
        let prefix = same[0].0;
        of_prefix.clear();
        of_prefix.extend(same.iter().filter_map(|&(_, index)| rules.get(index)));
        while around
            .last()
            .is_some_and(|(outer, _)| !outer.contains(&prefix))
        {
            around.pop();
        }
        let inherited = around.last().map_or(0, |&(_, profile)| profile);
        let mut profile = classes.overlay(inherited, &of_prefix);
        if same.iter().any(|&(_, index)| index == rules.len()) {
            let unnamed = Ruling {
                effect: super::Effect::Search,
                rule: RULE_LINK_LOCAL,
                ..Ruling::NONE
            };
            profile = classes.underlay(profile, unnamed);
        }
        classes.fit(&of_prefix)?;
        around.push((prefix, profile));
        prefixes.push((prefix, classes.of_prefix(profile)));
    }
    Ok(prefixes)
}

/// The automaton over the sockets' paths, and the class of each of its states.
fn sockets(
    rules: &[Numbered<'_>],
    classes: &mut Classes,
) -> Result<(Paths, Vec<ClassId>), CompileError> {
    let mut by_path: BTreeMap<&PathPattern, Vec<Numbered<'_>>> = BTreeMap::new();
    for numbered in rules {
        if let Target::Unix(path) = &numbered.rule.target {
            by_path.entry(path).or_default().push(*numbered);
        }
    }
    let (patterns, rules): (Vec<&PathPattern>, Vec<_>) = by_path.into_iter().unzip();
    let texts: Vec<String> = patterns.iter().map(|it| it.socket_regex()).collect();
    let paths = Paths::new(&texts).map_err(|limit| {
        let of_paths = rules.iter().flatten();
        limit.by(of_paths.map(|it| it.id).max())
    })?;
    let mut of_state = Vec::with_capacity(paths.matching.len());
    for matching in &paths.matching {
        let rules: Vec<_> = matching
            .iter()
            .flat_map(|&index| rules[index as usize].iter().copied())
            .collect();
        let profile = classes.overlay(0, &rules);
        of_state.push(classes.of_prefix(profile));
        classes.fit(&rules)?;
    }
    Ok((paths, of_state))
}
