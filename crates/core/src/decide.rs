//! The decision: one attempt, one verdict.
//!
//! The kernel's C implements this file line by line. It gets the classes from the same tables, so that
//! a verdict cannot mean two things; change one, change both.

use crate::name::Name;
use crate::tables::{
    ClassId, Effect, Protocol, RULE_DEFAULT, RULE_LOCAL, RULE_RESOLVER, RuleId, Ruling, Tables,
};

/// A name under which an answer gave the address to this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The class of the name that was asked for.
    pub class: ClassId,
    /// The class of the first member of the CNAME chain whose class may deny; 0 for none.
    pub deny_class: ClassId,
}

/// What a subject tries to do, as far as the verdict depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// The address's class.
    pub address_class: ClassId,
    /// Loopback, or one of the host's own addresses.
    pub local: bool,
    /// One of the run's own resolvers, at port 53.
    pub resolver_dns: bool,
    /// Protocol.
    pub protocol: Protocol,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// Every live lease of the address.
    pub leases: &'a [Lease],
}

/// What becomes of an attempt in enforce mode, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Let through?
    pub allow: bool,
    /// The rule behind it.
    pub rule: RuleId,
    /// It was let through though one of the address's names is denied.
    pub ambiguous: bool,
}

/// Judge an attempt.
pub fn decide(tables: &Tables, attempt: &Attempt<'_>) -> Decision {
    let ruling = |class| tables.ruling(class, attempt.protocol, attempt.port);
    let lease_ruling = |lease: &Lease| {
        let chain = ruling(lease.deny_class);
        if chain.effect == Effect::Deny {
            chain
        } else {
            ruling(lease.class)
        }
    };
    let deny = |rule| Decision {
        allow: false,
        rule,
        ambiguous: false,
    };

    let mut first_allowed = None;
    let mut first_denied = None;
    let mut all_denied = true;
    for lease in attempt.leases {
        let Ruling { effect, rule } = lease_ruling(lease);
        match effect {
            Effect::Deny => {
                first_denied.get_or_insert(rule);
            }
            Effect::Allow => {
                first_allowed.get_or_insert(rule);
                all_denied = false;
            }
            // Neither: `Search` is for lookups only.
            Effect::None | Effect::Search => all_denied = false,
        }
    }
    let allow = |rule| Decision {
        allow: true,
        rule,
        ambiguous: first_denied.is_some(),
    };

    let address = ruling(attempt.address_class);
    // A denied address stays denied whatever name leased it.
    if address.effect == Effect::Deny {
        return deny(address.rule);
    }
    if let Some(rule) = first_denied
        && all_denied
    {
        return deny(rule);
    }
    if address.effect == Effect::Allow {
        return allow(address.rule);
    }
    if let Some(rule) = first_allowed {
        return allow(rule);
    }
    if !tables.default_deny {
        return allow(RULE_DEFAULT);
    }
    if attempt.local {
        return allow(RULE_LOCAL);
    }
    if attempt.resolver_dns {
        return allow(RULE_RESOLVER);
    }
    deny(RULE_DEFAULT)
}

/// Judge the lookup of a name. Never [`Effect::None`].
pub fn decide_lookup(tables: &Tables, name: &Name) -> Ruling {
    tables.classes[tables.class_of_name(name) as usize].lookup
}
