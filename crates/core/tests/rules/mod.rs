//! Rules and policies as values, for tests that need no text.

use blackstart_core::name::{Name, Pattern};
use blackstart_core::policy::{Effect, Policy, PortRange, Rule, Target};
use blackstart_core::tables::Protocol;

pub(crate) fn rule(
    effect: Effect,
    target: Target,
    ports: Option<(u16, u16)>,
    protocol: Option<Protocol>,
) -> Rule {
    Rule {
        ports: ports.map(|(first, last)| PortRange { first, last }),
        protocol,
        ..Rule::new(effect, target)
    }
}

pub(crate) fn deny_name(pattern: &str) -> Rule {
    rule(
        Effect::Deny,
        Target::Name(Pattern::parse(pattern).unwrap()),
        None,
        None,
    )
}

pub(crate) fn policy(default: Effect, rules: Vec<Rule>) -> Policy {
    Policy {
        default,
        rules,
        ..Policy::default()
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}
