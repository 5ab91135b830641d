//! From a policy to the tables.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use super::automaton::Trie;
use super::rulings::{self, Classes, ProfileId};
use super::{RuleId, Tables};
use crate::name::{Name, Pattern};
use crate::policy::{Effect, Policy, Rule, Target};

/// Bound on the states of the name automaton. Without a `*` inside patterns there are never more than the
/// patterns have labels; such a `*` may add no more than 65,536.
pub const MAX_STATES: usize = 1 << 20;
/// Bound on the stretches of ports in all classes together.
pub const MAX_PORT_RULINGS: usize = 1 << 20;

/// What the host adds to a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The search list of the run's resolv.conf. It matters under `default: deny` only.
    pub search: Vec<Name>,
}

/// Why a policy that reads well cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompileError {
    /// The patterns with a `*` inside overlap in too many ways.
    TooManyStates,
    /// Too many different combinations of ports.
    TooManyPortRulings,
}

impl fmt::Display for CompileError {
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
        }
    }
}

impl std::error::Error for CompileError {}

/// Compile a policy. The same policy and facts always give the same tables.
pub fn compile(policy: &Policy, facts: &Facts) -> Result<Tables, CompileError> {
    let default_deny = policy.default == Effect::Deny;
    let rules = || {
        policy
            .rules
            .iter()
            .zip(1..)
            .map(|(rule, id): (&Rule, RuleId)| (id, rule))
    };

    let any: Vec<_> = rules()
        .filter(|(_, rule)| rule.target == Target::Any)
        .collect();
    let mut classes = Classes::new(default_deny, rulings::overlay(&rulings::NOTHING, &any));

    let searches: Vec<Pattern> = if default_deny {
        facts.search.iter().filter_map(Pattern::below).collect()
    } else {
        Vec::new()
    };
    let mut trie = Trie::new();
    for (id, rule) in rules() {
        if let Target::Name(pattern) = &rule.target {
            trie.insert(pattern, id, rule);
        }
    }
    for search in &searches {
        trie.insert_search(search);
    }
    let states = trie.into_states(&mut classes)?;

    let mut by_prefix: BTreeMap<IpNet, Vec<(RuleId, &Rule)>> = BTreeMap::new();
    for (id, rule) in rules() {
        for prefix in rule.target.prefixes() {
            by_prefix.entry(prefix).or_default().push((id, rule));
        }
    }
    // In this order a prefix comes after all that contain it, and what it lies in is a stack.
    let mut around: Vec<(IpNet, ProfileId)> = Vec::new();
    let mut prefixes = Vec::with_capacity(by_prefix.len());
    for (prefix, rules) in by_prefix {
        while around
            .last()
            .is_some_and(|(outer, _)| !outer.contains(&prefix))
        {
            around.pop();
        }
        let inherited = around.last().map_or(0, |&(_, profile)| profile);
        let profile = classes.overlay(inherited, &rules);
        if classes.stretches > MAX_PORT_RULINGS {
            return Err(CompileError::TooManyPortRulings);
        }
        around.push((prefix, profile));
        prefixes.push((prefix, classes.of_prefix(profile)));
    }
    Ok(Tables {
        default_deny,
        states,
        classes: classes.classes,
        prefixes,
    })
}
