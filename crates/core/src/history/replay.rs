//! What a policy would have made of a run of the past.
//!
//! The verdicts are those of [`decide`], [`decide_lookup`] and [`decide_socket`], with the leases that the run had: the
//! same verdicts as those of a run that does the same again under this policy. What never would have come to pass is not
//! judged: a connection to a name whose lookup is refused.

use std::net::IpAddr;
use std::sync::Arc;

// Half of a replay is looking things up: std's hash takes twice as long, and this one is seeded in each process as well.
use hashbrown::HashMap;

use super::{Ancestry, Asked, LineageId, Past, Reached, Surroundings};
use crate::decide::{Attempt, Lease, decide, decide_lookup, decide_socket};
use crate::explain::{is_resolver_socket, verdict_of};
use crate::name::Name;
use crate::policy::Policy;
use crate::record::Verdict;
use crate::tables::{
    ClassId, CompileError, Effect, Facts, Limit, RULE_DEFAULT, RULE_MALFORMED,
    RULE_RESOLVER_SOCKET, RuleId, Tables, compile,
};

/// What became of an attempt, and by which rule.
pub type Ruled = (Verdict, RuleId);

/// What became of what a followed unit did.
const UNJUDGED: Ruled = (Verdict::Allow, RULE_DEFAULT);

/// What a policy makes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Of each lookup.
    pub lookups: Vec<Ruled>,
    /// Of each flow; none, where the lookup that it followed is refused.
    pub flows: Vec<Option<Ruled>>,
    /// Of each contact.
    pub contacts: Vec<Ruled>,
}

/// A policy, held against runs one after the other.
#[derive(Debug)]
pub struct Replay<'p> {
    policy: &'p Policy,
    /// One for each search list: it is compiled with the policy.
    judges: HashMap<Vec<String>, Judge>,
}

impl<'p> Replay<'p> {
    /// The error says why the policy cannot be compiled.
    pub fn new(policy: &'p Policy) -> Result<Self, CompileError> {
        let judges = HashMap::from([(Vec::new(), Judge::new(policy, &[])?)]);
        Ok(Self { policy, judges })
    }

    /// The policy.
    pub fn policy(&self) -> &'p Policy {
        self.policy
    }

    /// Judge everything that a run did. `ancestry` is always the same, or one that has grown.
    pub fn of(&mut self, past: &Past, ancestry: &Ancestry) -> Result<Replayed, CompileError> {
        let search = &past.around.search;
        if !self.judges.contains_key(search) {
            let judge = Judge::new(self.policy, search)?;
            self.judges.insert(search.clone(), judge);
        }
        // It is there.
        match self.judges.get_mut(search) {
            Some(judge) => Ok(judge.replay(past, ancestry)),
            None => Err(CompileError {
                limit: Limit::TooManyStates,
                rule: None,
            }),
        }
    }
}

#[derive(Debug)]
struct Judge {
    tables: Tables,
    /// Of each name that was met; none of what cannot be read as one.
    names: HashMap<Arc<str>, Option<(Name, ClassId)>>,
    addresses: HashMap<IpAddr, ClassId>,
    /// Of each program that was met, in the order of their numbers: those that hold for it.
    selectors: Vec<u64>,
    tree: u64,
}

impl Judge {
    fn new(policy: &Policy, search: &[String]) -> Result<Self, CompileError> {
        let search = search.iter().filter_map(|name| Name::parse(name).ok());
        let facts = Facts {
            search: search.collect(),
        };
        let tables = compile(policy, &facts)?;
        Ok(Self {
            names: HashMap::new(),
            addresses: HashMap::new(),
            selectors: vec![0],
            tree: tables.tree_selectors(),
            tables,
        })
    }

    fn replay(&mut self, past: &Past, ancestry: &Ancestry) -> Replayed {
        let mut leases: HashMap<IpAddr, Vec<Leased>> = HashMap::new();
        let mut lookups = Vec::with_capacity(past.lookups.len());
        for asked in &past.lookups {
            if ancestry.is_followed(asked.by) {
                lookups.push(UNJUDGED);
                continue;
            }
            let selectors = self.selectors_of(asked.by, ancestry);
            let (ruled, lease) = self.look_up(asked, selectors);
            lookups.push(ruled);
            for address in &asked.answer.addresses {
                leases.entry(*address).or_default().push(Leased {
                    name: asked.name.clone(),
                    since: asked.first,
                    refused: ruled.0 == Verdict::Deny,
                    lease,
                });
            }
        }
        let flows = past.flows.iter().map(|flow| {
            if ancestry.is_followed(flow.by) {
                return Some(UNJUDGED);
            }
            let selectors = self.selectors_of(flow.by, ancestry);
            let leased = leases.get(&flow.address).map_or(&[][..], Vec::as_slice);
            self.reach(flow, leased, selectors, &past.around)
        });
        let flows = flows.collect();
        let contacts = past.contacts.iter().map(|contact| {
            if ancestry.is_followed(contact.by) {
                return UNJUDGED;
            }
            if is_resolver_socket(&contact.path) {
                return (Verdict::Deny, RULE_RESOLVER_SOCKET);
            }
            let selectors = self.selectors_of(contact.by, ancestry);
            let ruling = decide_socket(&self.tables, contact.path.as_bytes(), selectors);
            (verdict_of(ruling), ruling.rule)
        });
        let contacts = contacts.collect();
        Replayed {
            lookups,
            flows,
            contacts,
        }
    }

    /// What becomes of a lookup, and the lease that its answer gives, if it gives one.
    fn look_up(&mut self, asked: &Asked, selectors: u64) -> (Ruled, Option<Lease>) {
        let Some((name, class)) = self.name(&asked.name) else {
            // What cannot be read is not let through where something is enforced.
            let verdict = match (self.tables.enforce, self.tables.default_deny) {
                (true, _) => Verdict::Deny,
                (false, true) => Verdict::WouldDeny,
                (false, false) => Verdict::Allow,
            };
            return ((verdict, RULE_MALFORMED), None);
        };
        let ruling = decide_lookup(&self.tables, &name, selectors);
        let lease = (ruling.effect != Effect::Search).then(|| Lease {
            class,
            deny_class: self.denied_link(asked),
        });
        ((verdict_of(ruling), ruling.rule), lease)
    }

    /// The class of the name on the way that is denied most strongly.
    fn denied_link(&mut self, asked: &Asked) -> ClassId {
        let chain = &asked.answer.chain;
        let classes: Vec<ClassId> = chain
            .iter()
            .filter_map(|link| Some(self.name(link)?.1))
            .collect();
        self.tables.denying_link(classes)
    }

    /// None, where it would not have been tried.
    fn reach(
        &mut self,
        flow: &Reached,
        leased: &[Leased],
        selectors: u64,
        around: &Surroundings,
    ) -> Option<Ruled> {
        let known: Vec<&Leased> = leased.iter().filter(|it| it.since <= flow.last).collect();
        let mut leases: Vec<Lease> = Vec::new();
        for lease in known
            .iter()
            .filter(|it| !it.refused)
            .filter_map(|it| it.lease)
        {
            if !leases.contains(&lease) {
                leases.push(lease);
            }
        }
        if let Some(name) = &flow.name {
            let mut of_name = known.iter().filter(|it| it.name == *name).peekable();
            if of_name.peek().is_none() {
                // Nobody asked for it: /etc/hosts has it.
                if let Some((_, class)) = self.name(name) {
                    leases.push(Lease {
                        class,
                        deny_class: 0,
                    });
                }
            } else if of_name.all(|it| it.refused) {
                return None;
            }
        }
        let address_class = match self.addresses.get(&flow.address) {
            Some(class) => *class,
            None => {
                let class = self.tables.class_of_address(flow.address);
                self.addresses.insert(flow.address, class);
                class
            }
        };
        let decision = decide(
            &self.tables,
            &Attempt {
                address_class,
                local: around.is_local(flow.address),
                resolver_dns: around.is_resolver(flow),
                protocol: flow.as_protocol(),
                port: flow.port,
                selectors,
                leases: &leases,
            },
        );
        Some((decision.verdict, decision.rule))
    }

    fn name(&mut self, text: &Arc<str>) -> Option<(Name, ClassId)> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let found = Name::parse(text).ok().map(|name| {
            let class = self.tables.class_of_name(&name);
            (name, class)
        });
        self.names.insert(text.clone(), found.clone());
        found
    }

    /// A program has the selectors about its own path, and those about trees of whoever started it.
    fn selectors_of(&mut self, id: LineageId, ancestry: &Ancestry) -> u64 {
        // A parent's number is the smaller one, so that it is known already.
        while self.selectors.len() <= id as usize {
            let next = self.selectors.len() as LineageId;
            let inherited = self
                .selectors
                .get(ancestry.parent(next) as usize)
                .map_or(0, |bits| bits & self.tree);
            let own = ancestry
                .exe(next)
                .map_or(0, |exe| self.tables.selectors_of(exe.as_bytes()));
            self.selectors.push(inherited | own);
        }
        self.selectors.get(id as usize).copied().unwrap_or(0)
    }
}

/// A name under which an address was given to the run.
struct Leased {
    name: Arc<str>,
    since: super::Micros,
    /// Its lookup is refused, so that it is not given.
    refused: bool,
    lease: Option<Lease>,
}
