//! The decision: one attempt, one verdict.
//!
//! The kernel's C implements this file line by line. It gets the classes from the same tables, so that
//! a verdict cannot mean two things; change one, change both.

use crate::name::Name;
use crate::policy::{Failure, Rank};
use crate::record::Verdict;
use crate::tables::{
    ClassId, Effect, Protocol, RULE_DEFAULT, RULE_LOCAL, RULE_RESOLVER, RuleId, Ruling, Tables,
};

/// A name under which an answer gave the address to this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The class of the name that was asked for.
    pub class: ClassId,
    /// The class of the member of the CNAME chain that is denied most strongly ([`Tables::denying_link`]); 0 for none.
    pub deny_class: ClassId,
}

/// What a subject tries to do, as far as the verdict depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// The address's class.
    pub address_class: ClassId,
    /// Loopback, or one of the host's own addresses.
    pub local: bool,
    /// One of the run's own resolvers, at port 53, and what it is asked is read: datagrams, and streams that go
    /// through the forwarder.
    pub resolver_dns: bool,
    /// Protocol.
    pub protocol: Protocol,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// Which of [`Tables::selectors`] hold for the process, as bits.
    pub selectors: u64,
    /// Every live lease of the address.
    pub leases: &'a [Lease],
}

/// What becomes of an attempt, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Let through, refused, refused for the record only, or waived. Where nothing is enforced, a refusal
    /// is [`Verdict::WouldDeny`] as well.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
    /// How a refusal ends.
    pub failure: Failure,
    /// It was let through though one of the address's names is denied.
    pub ambiguous: bool,
}

/// Judge an attempt.
///
/// What is said of the address and what is said of its names are weighed rank by rank (DESIGN §6): finals,
/// then waivers, then the rest. Within a rank a deny of the address stands whatever name leased it; names
/// deny together or not at all; what allows one of them lets through. A deny that is only recorded takes
/// nothing away from one that is enforced, and refuses nothing.
///
/// At a link-local address no name permits (but a waiver): an allow-list of names does not mean what is next to the run, and
/// whoever answers for an allowed name could say so.
///
/// A chain that touches a denied name counts as denied, unless what is said of the name that was asked for has a
/// higher rank: a waiver covers a name and the addresses leased under it, wherever its CNAMEs lead.
pub fn decide(tables: &Tables, attempt: &Attempt<'_>) -> Decision {
    let ruling = |class| tables.ruling(class, attempt.protocol, attempt.port, attempt.selectors);
    let mut weighed = Weighed::default();
    for lease in attempt.leases {
        let own = ruling(lease.class);
        let link = ruling(lease.deny_class);
        weighed.add(if link.effect == Effect::Deny && is_over(link, own) {
            link
        } else {
            own
        });
    }
    let address = ruling(attempt.address_class);
    let unnamed = address.effect == Effect::Search;
    let ambiguous = weighed.denied.is_some();
    let told = |ruling: Ruling| Decision {
        verdict: match ruling.effect {
            Effect::Deny if ruling.enforce => Verdict::Deny,
            Effect::Deny => Verdict::WouldDeny,
            _ if ruling.rank == Rank::Waiver => Verdict::Waived,
            _ => Verdict::Allow,
        },
        rule: ruling.rule,
        failure: ruling.failure,
        ambiguous: ambiguous && ruling.effect != Effect::Deny,
    };

    let names = weighed.all_denied();
    for rank in [Rank::Final, Rank::Waiver, Rank::Plain] {
        let deny_address = Some(address).filter(|r| r.effect == Effect::Deny && r.rank == rank);
        // Names that are denied by different ranks are denied by the lowest of these.
        let deny_names = names.filter(|_| weighed.lowest_denial == Some(rank));
        let enforced = |r: &Option<Ruling>| r.is_some_and(|r| r.enforce);
        if let Some(deny) = [deny_address, deny_names]
            .into_iter()
            .find(enforced)
            .flatten()
            .or(deny_address)
            .or(deny_names)
        {
            return told(deny);
        }
        if address.effect == Effect::Allow && address.rank == rank {
            return told(address);
        }
        let permits = |r: &Ruling| r.rank == rank && !(unnamed && rank == Rank::Plain);
        if let Some(allow) = weighed.allowed.filter(permits) {
            return told(allow);
        }
    }
    let default = |effect, rule| Ruling {
        effect,
        rule,
        enforce: tables.enforce,
        ..Ruling::NONE
    };
    told(if !tables.default_deny {
        default(Effect::Allow, RULE_DEFAULT)
    } else if attempt.local {
        default(Effect::Allow, RULE_LOCAL)
    } else if attempt.resolver_dns {
        default(Effect::Allow, RULE_RESOLVER)
    } else if unnamed && weighed.allowed.is_some() {
        default(Effect::Deny, address.rule)
    } else {
        default(Effect::Deny, RULE_DEFAULT)
    })
}

/// Judge what a client says of its own connection: that it is for this name and no other of the address's (the server name
/// of TLS, the host of HTTP). It may be refused for it; what [`decide`] refused it is not permitted by it.
///
/// The name counts as if the address had been given under it alone: by the chains by which its class was leased there, if
/// it was.
pub fn decide_claim(tables: &Tables, attempt: &Attempt<'_>, claim: ClassId) -> Decision {
    let leased: Vec<Lease> = attempt
        .leases
        .iter()
        .filter(|lease| lease.class == claim)
        .copied()
        .collect();
    let alone = [Lease {
        class: claim,
        deny_class: 0,
    }];
    let leases = if leased.is_empty() {
        &alone[..]
    } else {
        &leased
    };
    decide(
        tables,
        &Attempt {
            leases,
            resolver_dns: false,
            ..*attempt
        },
    )
}

/// Does what a link of the chain is denied by stand over what is said of the name itself? Of two denies the one of the
/// higher rank counts, then the one that is enforced, then the name's own.
fn is_over(link: Ruling, own: Ruling) -> bool {
    if own.effect == Effect::Deny {
        (link.rank, link.enforce) > (own.rank, own.enforce)
    } else {
        link.rank >= own.rank
    }
}

/// What the names of an address say together.
#[derive(Debug, Default)]
struct Weighed {
    /// The first that is denied; one that is only recorded goes before those that are enforced, since
    /// through that name the attempt would pass.
    denied: Option<Ruling>,
    lowest_denial: Option<Rank>,
    /// The first of the highest rank that is allowed.
    allowed: Option<Ruling>,
    /// Some name is neither.
    other: bool,
}

impl Weighed {
    fn add(&mut self, ruling: Ruling) {
        match ruling.effect {
            Effect::Deny => {
                if self
                    .denied
                    .is_none_or(|first| first.enforce && !ruling.enforce)
                {
                    self.denied = Some(ruling);
                }
                self.lowest_denial = Some(match self.lowest_denial {
                    Some(lowest) => lowest.min(ruling.rank),
                    None => ruling.rank,
                });
            }
            Effect::Allow => {
                if self.allowed.is_none_or(|first| first.rank < ruling.rank) {
                    self.allowed = Some(ruling);
                }
            }
            // Neither: `Search` is for lookups only.
            Effect::None | Effect::Search => self.other = true,
        }
    }

    /// Why they are denied, if all are.
    fn all_denied(&self) -> Option<Ruling> {
        self.denied
            .filter(|_| self.allowed.is_none() && !self.other)
    }
}

/// Judge the lookup of a name. Never [`Effect::None`].
pub fn decide_lookup(tables: &Tables, name: &Name, selectors: u64) -> Ruling {
    let class = &tables.classes[tables.class_of_name(name) as usize];
    tables.choose(class.lookup, selectors)
}

/// Do answers to a lookup that is ruled so give leases? Under an enforced `default: deny` those of a server that is not
/// `listed` as the run's own permit nothing, and those for a name on the search list neither; what passes for the record
/// only is leased for the record. `enforcing`: the run refuses what is denied. In the kernel: `bs_may_lease`.
pub fn may_lease(tables: &Tables, ruling: &Ruling, enforcing: bool, listed: bool) -> bool {
    if !(tables.default_deny && tables.enforce && enforcing) {
        return true;
    }
    match ruling.effect {
        Effect::Deny => !ruling.enforce,
        Effect::Allow => listed,
        Effect::None | Effect::Search => false,
    }
}

/// Judge a contact with a unix socket; [`Effect::None`] where no rule is about it, for the default does not
/// apply to these.
pub fn decide_socket(tables: &Tables, path: &[u8], selectors: u64) -> Ruling {
    let class = tables.class_of_socket(path);
    tables.ruling(class, Protocol::Other, 0, selectors)
}
