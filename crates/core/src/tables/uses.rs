//! What of the judge a policy needs: the rest can be left out of what is loaded for it.

use super::{ClassId, Effect, LeaseEnd, Outcome, Tables};

/// Parts of the judge. All `false` is a policy that decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Some rule holds for some processes only.
    pub processes: bool,
    /// Some rule names an address.
    pub prefixes: bool,
    /// Some rule names a unix socket.
    pub sockets: bool,
    /// Some lookup is denied, enforced or for the record.
    pub refusals: bool,
    /// Leases end before the run does.
    pub expiry: bool,
    /// Names that connections give are judged.
    pub claims: bool,
}

impl Uses {
    /// Whatever a policy may need.
    pub const ALL: Self = Self {
        processes: true,
        prefixes: true,
        sockets: true,
        refusals: true,
        expiry: true,
        claims: true,
    };
}

impl Tables {
    /// Which parts of the judge can have a say under this policy.
    pub fn uses(&self) -> Uses {
        let denies = |outcome: Outcome| match outcome {
            Outcome::Is(ruling) => ruling.effect == Effect::Deny,
            // What it leads to is not followed: a policy that speaks of processes is no small one.
            Outcome::Choice(_) => true,
        };
        let class = |id: ClassId| &self.classes[id as usize];
        let mut met = self
            .states
            .iter()
            .flat_map(|state| [state.end, state.below]);
        Uses {
            processes: !self.selectors.is_empty(),
            prefixes: !self.prefixes.is_empty(),
            sockets: !self.sockets.next.is_empty(),
            refusals: met.any(|id| denies(class(id).lookup)),
            expiry: self.lease != LeaseEnd::Run,
            claims: !self.inspect.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, alone};
    use crate::tables::{Facts, compile};

    fn tables(rules: &str) -> Tables {
        let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\n{rules}");
        let policy = alone(&text, "p.yaml").unwrap().policy;
        compile(&policy, &Facts { search: Vec::new() }).unwrap()
    }

    fn uses(rules: &str) -> Uses {
        tables(rules).uses()
    }

    #[test]
    fn a_policy_uses_what_its_rules_speak_of() {
        let none = Uses {
            processes: false,
            prefixes: false,
            sockets: false,
            refusals: false,
            expiry: false,
            claims: false,
        };
        let nothing = compile(&Policy::default(), &Facts { search: Vec::new() }).unwrap();
        assert_eq!(nothing.uses(), none);
        assert_eq!(uses("rules:\n  - allow: a.example\n"), none);
        let refusing = Uses {
            refusals: true,
            claims: true,
            ..none
        };
        // Link-local addresses are named under an allow-list.
        let listing = Uses {
            prefixes: true,
            ..refusing
        };
        assert_eq!(uses("default: deny\n"), listing);
        assert_eq!(uses("rules:\n  - deny: a.example\n"), refusing);
        let prefixes = uses("rules:\n  - allow: 10.0.0.0/8\n");
        assert!(prefixes.prefixes && !prefixes.sockets && !prefixes.processes);
        let sockets = uses("rules:\n  - deny: unix:/run/docker.sock\n");
        assert!(sockets.sockets && !sockets.prefixes && !sockets.refusals);
        let processes = uses("rules:\n  - { allow: a.example, process: curl }\n");
        assert!(processes.processes);
        let ending = Uses {
            expiry: true,
            ..none
        };
        assert_eq!(uses("lease: ttl\n"), ending);
        assert_eq!(uses("lease: run\n"), none);
        let mut ended = tables("lease: run\n");
        ended.end_leases();
        assert_eq!(ended.uses(), ending);
        assert_eq!(ended.lease, LeaseEnd::Ttl { at_least: 600 });
        // Names that connections give, where some are denied or somebody wants them.
        assert!(uses("rules:\n  - deny: a.example:443\n").claims);
        assert!(!uses("rules:\n  - allow: 10.0.0.0/8\n").claims);
        assert!(uses("rules:\n  - deny: \"*:443\"\n").claims);
        assert!(!uses("rules:\n  - {deny: \"*:443\", protocol: udp}\n").claims);
        assert!(!uses("inspect: []\nrules:\n  - deny: a.example\n").claims);
        assert!(uses("inspect: [8443]\n").claims);
        let ports = |rules: &str| tables(rules).inspect;
        assert_eq!(
            ports("rules:\n  - deny: a.example\n"),
            [80, 443, 3128, 8080]
        );
        // An address may be what a proxy is asked for, and is nothing that TLS gives.
        assert_eq!(ports("rules:\n  - deny: 10.0.0.0/8\n"), [3128, 8080]);
        assert_eq!(
            ports("rules:\n  - {deny: 10.0.0.0/8, protocol: udp}\n"),
            [0; 0]
        );
        assert_eq!(ports("inspect: []\nrules:\n  - deny: 10.0.0.0/8\n"), [0; 0]);
    }
}
