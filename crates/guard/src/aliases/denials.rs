//! What a policy denies of unix sockets, for those that are reached by another path.

use blackstart_core::policy::{Effect, Policy, Target};
use blackstart_core::report::Mode;
use blackstart_core::tables::{
    CompileError, Effect as Ruled, Facts, Protocol, RuleId, Tables, compile,
};

/// The rules about unix sockets of one policy, with their places in a run's.
#[derive(Debug)]
pub(crate) struct Denials {
    tables: Tables,
    rules: Vec<RuleId>,
    /// Of which policy: rules before it, and with it.
    of: (usize, usize),
    enforced: bool,
    observed: bool,
}

/// A socket is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) rule: RuleId,
    pub(crate) enforced: bool,
}

impl Denials {
    /// Does a run's last policy, whose rules come after `first` others, deny any unix socket?
    pub(crate) fn are_in(policy: &Policy, first: usize) -> bool {
        let mut rules = policy.rules.iter().skip(first);
        rules.any(|rule| rule.effect == Effect::Deny && matches!(rule.target, Target::Unix(_)))
    }

    /// Those of a run's last policy, whose rules come after `first` others.
    pub(crate) fn of(policy: &Policy, first: usize) -> Result<Self, CompileError> {
        let current = policy.rules.iter().enumerate().skip(first);
        let about_sockets = current.filter(|(_, rule)| matches!(rule.target, Target::Unix(_)));
        let (rules, kept): (Vec<_>, Vec<_>) = about_sockets
            .map(|(at, rule)| {
                (
                    RuleId::try_from(at + 1).unwrap_or(RuleId::MAX),
                    rule.clone(),
                )
            })
            .unzip();
        let denied = |mode| {
            let mut all = kept.iter();
            all.any(|rule| rule.effect == Effect::Deny && rule.mode == mode)
        };
        let (enforced, observed) = (denied(Mode::Enforce), denied(Mode::Observe));
        let alone = Policy {
            rules: kept,
            mode: policy.mode,
            ..Policy::default()
        };
        Ok(Self {
            tables: compile(&alone, &Facts::default())?,
            rules,
            of: (first, policy.rules.len()),
            enforced,
            observed,
        })
    }

    /// Are they these?
    pub(crate) fn are_of(&self, policy: &Policy, first: usize) -> bool {
        self.of == (first, policy.rules.len())
    }

    /// Does it deny any that nothing refuses by where a path leads? What is enforced may be `held`.
    pub(crate) fn any(&self, held: bool) -> bool {
        self.observed || self.enforced && !held
    }

    /// Which of them speaks of a socket of this name, to a process that executes `programs`: itself, and what it was started
    /// by, each whether it is a fork of the next.
    pub(crate) fn denial(&self, name: &str, programs: &[(String, bool)]) -> Option<Denial> {
        let mut selectors = 0;
        for (exe, forked) in programs.iter().rev() {
            if !forked {
                selectors &= self.tables.tree_selectors();
                selectors |= self.tables.selectors_of(exe.as_bytes());
            }
        }
        let class = self.tables.class_of_socket(name.as_bytes());
        let ruling = self.tables.ruling(class, Protocol::Other, 0, selectors);
        let rule = usize::try_from(ruling.rule).ok()?.checked_sub(1)?;
        (ruling.effect == Ruled::Deny).then_some(Denial {
            rule: *self.rules.get(rule)?,
            enforced: ruling.enforce,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_by_the_rules_about_sockets_of_the_last_policy() {
        let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  \
            - deny: unix:/run/old\n  - deny: a.test\n  - deny: unix:/run/docker.sock\n  \
            - { deny: \"unix:/run/seen\", mode: observe }\n  \
            - { allow: \"unix:/run/docker.sock\", process: docker }\n";
        let policy = blackstart_core::policy::alone(text, "p.yaml")
            .unwrap()
            .policy;
        let at = |text: &str| {
            let of = |rule: &blackstart_core::policy::Rule| rule.text.contains(text);
            policy.rules.iter().position(of).unwrap()
        };
        let first = at("old") + 1;
        let denials = Denials::of(&policy, first).unwrap();
        assert!(denials.are_of(&policy, first) && !denials.are_of(&policy, 0));
        let sh = [("/bin/sh".to_owned(), false)];
        let docker = [("/usr/bin/docker".to_owned(), false), sh[0].clone()];
        let denied = |name, programs: &[_]| denials.denial(name, programs);
        let rule = |text, enforced| {
            let rule = u32::try_from(at(text) + 1).unwrap();
            Some(Denial { rule, enforced })
        };
        assert_eq!(denied("/run/docker.sock", &sh), rule("docker.sock", true));
        assert_eq!(
            denied("/var/run/docker.sock", &sh),
            rule("docker.sock", true)
        );
        assert_eq!(denied("/run/seen", &sh), rule("seen", false));
        assert_eq!(denied("/run/docker.sock", &docker), None);
        assert!(Denials::are_in(&policy, first) && !Denials::are_in(&policy, policy.rules.len()));
        assert_eq!(denied("/run/old", &sh), None, "of the policy before");
        assert_eq!(denied("/run/other", &sh), None);
        assert!(denials.any(false) && denials.any(true));
    }
}
