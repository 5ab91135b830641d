//! Why an attempt is judged as it is: the verdict, the rule behind it, and what that rule goes before.
//!
//! The verdict is [`decide`]'s and [`decide_lookup`]'s, found on the tables that a run is judged by. The rules
//! that match are then sought one by one in the policy, which no run does: it costs as much as the policy is
//! long, and gives each of them a reason why it does not decide.

mod told;
mod weigh;

use std::net::IpAddr;
use std::ops::BitOr;

use ipnet::IpNet;

use crate::decide::{Attempt, Lease, decide, decide_lookup, decide_socket};
use crate::name::Name;
use crate::path::{PathPattern, usual};
use crate::policy::{Destination, Effect as Says, Policy, Rank, Reaction, Rule, Target};
use crate::record::Verdict;
use crate::tables::{
    Effect, Paths, Protocol, RULE_DEFAULT, RULE_RESOLVER_SOCKET, RuleId, Ruling, Tables,
};
pub use told::{
    Detail, Explanation, Judged, Lost, Miss, Missed, Question, Step, Through, Told, Why, word,
};
use weigh::{Candidate, Weighing};

/// The sockets by which names are resolved out of sight: no rule is asked for them.
pub const RESOLVER_SOCKETS: [&str; 3] = [
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
];

/// Is it one of these, in any spelling?
pub(crate) fn is_resolver_socket(path: &str) -> bool {
    let path = usual(path.as_bytes());
    RESOLVER_SOCKETS
        .iter()
        .any(|socket| socket.as_bytes() == &*path)
}

/// Explain what becomes of an attempt. `tables` are those that `policy` compiles to.
pub fn explain(policy: &Policy, tables: &Tables, question: &Question) -> Explanation {
    let asking = Asking {
        policy,
        tables,
        question,
        selectors: selectors(tables, question),
    };
    let (lookup, connect) = match &question.to {
        Destination::Unix(path) => (None, Some(asking.socket(path))),
        Destination::Address(address) => (
            None,
            Some(asking.connect(Some(*address), None, Effect::None)),
        ),
        Destination::Name(name) => {
            let (effect, lookup) = asking.lookup(name);
            let connects = question.port.is_some() || question.address.is_some();
            let connect = connects.then(|| asking.connect(question.address, Some(name), effect));
            (Some(lookup), connect)
        }
    };
    let decided_by = decided_by(lookup.as_ref(), connect.as_ref());
    let deciding = match decided_by {
        Step::Lookup => &lookup,
        Step::Connect => &connect,
    };
    let verdict = deciding
        .as_ref()
        .map_or(Verdict::Allow, |judged| judged.verdict);
    let remarks = asking.remarks(deciding.as_ref());
    Explanation {
        destination: question.to_string(),
        verdict,
        decided_by,
        missed: asking.missed(connect.is_some()),
        lookup,
        connect,
        remarks,
    }
}

/// Which selectors hold: of what a process descends from only those that are about all that such a one starts.
fn selectors(tables: &Tables, question: &Question) -> u64 {
    let of = |program: &String| tables.selectors_of(program.as_bytes());
    let own = question.process.as_ref().map_or(0, of);
    let inherited = question.ancestors.iter().map(of).fold(0, BitOr::bitor);
    own | inherited & tables.tree_selectors()
}

/// A lookup that is refused leads nowhere. Where both pass, what is refused only for the record is told first.
fn decided_by(lookup: Option<&Judged>, connect: Option<&Judged>) -> Step {
    match (lookup, connect) {
        (None, _) => Step::Connect,
        (Some(_), None) => Step::Lookup,
        (Some(lookup), Some(connect)) => match (lookup.verdict, connect.verdict) {
            (Verdict::Deny, _) => Step::Lookup,
            (Verdict::WouldDeny, Verdict::Allow | Verdict::Waived) => Step::Lookup,
            _ => Step::Connect,
        },
    }
}

/// A question with what it is asked of.
struct Asking<'a> {
    policy: &'a Policy,
    tables: &'a Tables,
    question: &'a Question,
    /// Which of the tables' selectors hold for the process.
    selectors: u64,
}

impl<'a> Asking<'a> {
    fn lookup(&self, name: &Name) -> (Effect, Judged) {
        let ruling = decide_lookup(self.tables, name, self.selectors);
        let weighing = Weighing::of_lookup(self.candidates(|rule| match &rule.target {
            Target::Name(pattern) if pattern.matches(name) => {
                Some((0, Through::Name(name.to_string())))
            }
            _ => None,
        }));
        let lost = weighing.lookup(ruling);
        let through = match self.policy.rule(ruling.rule).map(|rule| &rule.target) {
            Some(Target::Name(_)) => Some(Through::Name(name.to_string())),
            Some(_) => Some(Through::Any),
            None => None,
        };
        (
            ruling.effect,
            self.judged(verdict_of(ruling), ruling, false, through, lost),
        )
    }

    /// `looked_up` is what the lookup of the name met.
    fn connect(&self, address: Option<IpAddr>, name: Option<&Name>, looked_up: Effect) -> Judged {
        // What the search list lets through gives no lease that permits.
        let name = name.filter(|_| looked_up != Effect::Search);
        let leases: Vec<Lease> = name
            .map(|name| Lease {
                class: self.tables.class_of_name(name),
                deny_class: 0,
            })
            .into_iter()
            .collect();
        let decision = decide(
            self.tables,
            &Attempt {
                address_class: match address {
                    Some(address) => self.tables.class_of_address(address),
                    None => self.class_of_any_address(),
                },
                local: address.is_some_and(|address| address.to_canonical().is_loopback()),
                resolver_dns: false,
                protocol: self.question.protocol,
                port: self.port(),
                selectors: self.selectors,
                leases: &leases,
            },
        );
        let addresses = self.applying(|rule| prefix(&rule.target, address));
        let names = self.applying(|rule| match (&rule.target, name) {
            (Target::Name(pattern), Some(name)) if pattern.matches(name) => {
                Some((0, Through::Name(name.to_string())))
            }
            _ => None,
        });
        let weighing = Weighing::of_connect(addresses, names);
        let through = weighing.through(decision.rule);
        let ruling = Ruling {
            rule: decision.rule,
            failure: decision.failure,
            ..Ruling::NONE
        };
        let lost = weighing.connect(decision.rule);
        self.judged(decision.verdict, ruling, decision.ambiguous, through, lost)
    }

    fn socket(&self, path: &str) -> Judged {
        let resolver = is_resolver_socket(path);
        let ruling = if resolver {
            Ruling {
                effect: Effect::Deny,
                rule: RULE_RESOLVER_SOCKET,
                enforce: true,
                ..Ruling::NONE
            }
        } else {
            decide_socket(self.tables, path.as_bytes(), self.selectors)
        };
        let weighing = Weighing::of_connect(
            self.applying(|rule| match &rule.target {
                Target::Unix(pattern) if matches(pattern, path) => {
                    Some((0, Through::Path(path.to_owned())))
                }
                _ => None,
            }),
            Vec::new(),
        );
        let lost = weighing.connect(ruling.rule);
        let through = weighing.through(ruling.rule);
        self.judged(verdict_of(ruling), ruling, false, through, lost)
    }

    fn port(&self) -> u16 {
        self.question.port.unwrap_or(0)
    }

    /// Where no address is known, only what is said of every address counts.
    fn class_of_any_address(&self) -> u32 {
        let unspecified = IpNet::from(IpAddr::from([0, 0, 0, 0]));
        match (
            self.tables.prefixes.first(),
            IpNet::new(unspecified.addr(), 0),
        ) {
            (Some((net, class)), Ok(any)) if *net == any => *class,
            _ => 0,
        }
    }

    fn holds(&self, rule: &Rule) -> bool {
        rule.process.as_ref().is_none_or(|selector| {
            let at = self
                .tables
                .selectors
                .iter()
                .position(|known| known == selector);
            at.is_some_and(|at| self.selectors >> at & 1 == 1)
        })
    }

    fn fits(&self, rule: &Rule) -> Result<(), Miss> {
        let protocol = self.question.protocol;
        if let Some(only) = rule.protocol
            && only != protocol
        {
            return Err(Miss::Protocol(only));
        }
        if let Some(ports) = rule.ports
            && (protocol == Protocol::Other || !(ports.first..=ports.last).contains(&self.port()))
        {
            return Err(Miss::Ports(ports.first, ports.last));
        }
        Ok(())
    }

    /// The rules about a target whose process is this one.
    fn candidates(&self, about: impl Fn(&Rule) -> Option<(u8, Through)>) -> Vec<Candidate<'a>> {
        let rules = self.policy.rules.iter().zip(1..);
        rules
            .filter(|(rule, _)| self.holds(rule))
            .filter_map(|(rule, id)| {
                let (prefix, through) = about(rule)?;
                Some(Candidate::new(id, rule, prefix, through))
            })
            .collect()
    }

    /// Those of them that are for this port and protocol as well.
    fn applying(&self, about: impl Fn(&Rule) -> Option<(u8, Through)>) -> Vec<Candidate<'a>> {
        self.candidates(|rule| about(rule).filter(|_| self.fits(rule).is_ok()))
    }

    fn judged(
        &self,
        verdict: Verdict,
        ruling: Ruling,
        ambiguous: bool,
        through: Option<Through>,
        lost: Vec<weigh::Lost>,
    ) -> Judged {
        let refused = matches!(verdict, Verdict::Deny | Verdict::WouldDeny);
        let fails = self
            .policy
            .rule(ruling.rule)
            .is_some_and(|rule| rule.reaction == Reaction::Fail);
        Judged {
            verdict,
            rule: self.told(ruling.rule),
            through,
            on_match: refused.then(|| ruling.failure.words()),
            fails_run: verdict == Verdict::Deny && fails,
            ambiguous,
            lost: lost
                .into_iter()
                .map(|lost| Lost {
                    rule: self.told(lost.id),
                    to: lost.to.map(|id| self.told(id)),
                    why: lost.why,
                })
                .collect(),
        }
    }

    fn told(&self, id: RuleId) -> Told {
        Told::new(self.policy, id)
    }

    /// Rules about this destination that are for something else. `connects` is whether ports matter.
    fn missed(&self, connects: bool) -> Vec<Missed> {
        let rules = self.policy.rules.iter().zip(1..);
        let other = rules.filter_map(|(rule, id)| {
            // What is said of every address is of interest only where nothing but the process is another.
            let everywhere = rule.target == Target::Any && connects;
            if !everywhere && !self.is_about(&rule.target) {
                return None;
            }
            let fits = if connects { self.fits(rule) } else { Ok(()) };
            let why = match (fits, &rule.process) {
                (Err(miss), _) => Some(miss).filter(|_| !everywhere),
                (Ok(()), Some(selector)) if !self.holds(rule) => {
                    Some(Miss::Process(selector.to_string()))
                }
                _ => None,
            };
            Some(Missed {
                rule: self.told(id),
                why: why?,
            })
        });
        let expired = self
            .policy
            .expired
            .iter()
            .filter(|waiver| self.is_about(&waiver.target));
        let expired = expired.map(|waiver| Missed {
            rule: Told::of(RULE_DEFAULT, waiver),
            why: Miss::Expired(waiver.expires.as_deref().unwrap_or_default().to_owned()),
        });
        other.chain(expired).collect()
    }

    fn is_about(&self, target: &Target) -> bool {
        let address = match &self.question.to {
            Destination::Name(name) => {
                if let Target::Name(pattern) = target {
                    return pattern.matches(name);
                }
                self.question.address
            }
            Destination::Address(address) => Some(*address),
            Destination::Unix(path) => {
                return matches!(target, Target::Unix(pattern) if matches(pattern, path));
            }
        };
        matches!(target, Target::Net(_)) && prefix(target, address).is_some()
    }

    fn remarks(&self, deciding: Option<&Judged>) -> Vec<String> {
        let mut remarks = Vec::new();
        let by_default = deciding.is_some_and(|judged| judged.rule.id == RULE_DEFAULT);
        let on_network = !matches!(self.question.to, Destination::Unix(_));
        let nets = self
            .policy
            .rules
            .iter()
            .any(|rule| matches!(rule.target, Target::Net(_)));
        if let (Destination::Name(_), Some(_), None) =
            (&self.question.to, self.question.port, self.question.address)
            && nets
        {
            remarks.push("the address that the name leads to is not known, so rules about addresses were left out".to_owned());
        }
        if by_default && !on_network {
            remarks.push(
                "the default is not for unix sockets: what no `unix:` rule is about passes"
                    .to_owned(),
            );
        }
        if by_default && on_network && self.policy.default == Says::Deny {
            remarks.push(if self.question.port == Some(53) {
                "a run's own resolvers are allowed on port 53, unless a rule denies them".to_owned()
            } else {
                "loopback and the host's own addresses are allowed, unless a rule denies them"
                    .to_owned()
            });
        }
        remarks
    }
}

/// Does one pattern match a socket, by itself?
fn matches(pattern: &PathPattern, path: &str) -> bool {
    Paths::new(&[pattern.socket_regex()]).is_ok_and(|paths| {
        let state = paths.walk(&usual(path.as_bytes())) as usize;
        paths
            .matching
            .get(state)
            .is_some_and(|found| !found.is_empty())
    })
}

/// How much of an address a target fixes.
fn prefix(target: &Target, address: Option<IpAddr>) -> Option<(u8, Through)> {
    match (target, address) {
        (Target::Any, _) => Some((0, Through::Any)),
        (Target::Net(net), Some(address)) => net
            .contains(&address.to_canonical())
            .then(|| (net.prefix_len(), Through::Addresses(*net))),
        (Target::Net(net), None) => {
            let any = net.prefix_len() == 0 && net.addr().is_ipv4();
            any.then_some((0, Through::Addresses(*net)))
        }
        (Target::Name(_) | Target::Unix(_), _) => None,
    }
}

pub(crate) fn verdict_of(ruling: Ruling) -> Verdict {
    match ruling.effect {
        Effect::Deny if ruling.enforce => Verdict::Deny,
        Effect::Deny => Verdict::WouldDeny,
        Effect::Allow | Effect::None | Effect::Search if ruling.rank == Rank::Waiver => {
            Verdict::Waived
        }
        Effect::Allow | Effect::None | Effect::Search => Verdict::Allow,
    }
}
