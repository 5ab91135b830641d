//! The rules that apply, compared with the one that decides.

use std::cmp::Reverse;

use super::{Through, Why};
use crate::policy::{Effect as Says, Rank, Rule};
use crate::report::Mode;
use crate::tables::{Aspect, Effect, Priority, RULE_LINK_LOCAL, RuleId, Ruling};

/// A rule that is about the destination.
pub(super) struct Candidate<'a> {
    id: RuleId,
    rule: &'a Rule,
    /// How much of the address it fixes.
    prefix: u8,
    priority: Priority,
    through: Through,
}

/// A rule that does not decide, before its text is looked up.
pub(super) struct Lost {
    pub(super) id: RuleId,
    pub(super) to: Option<RuleId>,
    pub(super) why: Why,
}

/// All rules that apply: to the address or the socket, and to its names; on each side the one first that goes
/// before the others.
pub(super) struct Weighing<'a> {
    address: Vec<Candidate<'a>>,
    names: Vec<Candidate<'a>>,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(id: RuleId, rule: &'a Rule, prefix: u8, through: Through) -> Self {
        Self {
            id,
            rule,
            prefix,
            priority: Priority::of(id, rule),
            through,
        }
    }

    fn key(&self) -> (Rank, u8, Priority) {
        (self.rule.rank, self.prefix, self.priority)
    }

    /// Why this one goes before another that is about the same thing.
    fn beats(&self, other: &Self) -> Why {
        match self.priority.differs(&other.priority) {
            Aspect::Rank => of_rank(self.rule),
            _ if self.prefix != other.prefix => Why::Prefix,
            Aspect::Name => Why::Name,
            Aspect::Path => Why::Path,
            Aspect::Port => Why::Port,
            Aspect::Protocol => Why::Protocol,
            Aspect::Process => Why::Process,
            Aspect::Layer => Why::Layer,
            Aspect::Deny => Why::Deny,
            Aspect::Order => Why::Order,
        }
    }

    /// Does it apply wherever the other does?
    fn covers(&self, other: &Self) -> bool {
        let ports = match (self.rule.ports, other.rule.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => a.first <= b.first && b.last <= a.last,
        };
        ports && (self.rule.protocol.is_none() || self.rule.protocol == other.rule.protocol)
    }

    fn lost(&self, to: Option<RuleId>, why: Why) -> Lost {
        Lost {
            id: self.id,
            to,
            why,
        }
    }
}

fn of_rank(winner: &Rule) -> Why {
    if winner.rank == Rank::Final {
        Why::Final
    } else {
        Why::Waiver
    }
}

fn sorted(mut candidates: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    candidates.sort_by_key(|candidate| Reverse(candidate.key()));
    candidates
}

impl<'a> Weighing<'a> {
    /// What applies to one attempt.
    pub(super) fn of_connect(address: Vec<Candidate<'a>>, names: Vec<Candidate<'a>>) -> Self {
        Self {
            address: sorted(address),
            names: sorted(names),
        }
    }

    /// What is about a name, on whichever ports.
    pub(super) fn of_lookup(names: Vec<Candidate<'a>>) -> Self {
        Self::of_connect(Vec::new(), names)
    }

    /// Through what a rule is about the destination.
    pub(super) fn through(&self, id: RuleId) -> Option<Through> {
        let mut all = self.address.iter().chain(&self.names);
        all.find(|candidate| candidate.id == id)
            .map(|candidate| candidate.through.clone())
    }

    /// Why each of them but `winner` does not decide on an attempt. The first of a side loses to the winner, if
    /// that is of the other side; the rest of a side to its first.
    pub(super) fn connect(&self, winner: RuleId) -> Vec<Lost> {
        let heads = [self.address.first(), self.names.first()];
        let decides = heads.into_iter().flatten().find(|head| head.id == winner);
        let mut lost = Vec::new();
        for (side, of_address) in [(&self.address, true), (&self.names, false)] {
            let Some((head, rest)) = side.split_first() else {
                continue;
            };
            if head.id != winner {
                let why = match decides {
                    Some(decides) => across(decides, head, of_address),
                    None if winner == RULE_LINK_LOCAL => Why::LinkLocal,
                    // Something else that is built in, and says so of the address.
                    None => Why::AddressFirst,
                };
                lost.push(head.lost(decides.map(|decides| decides.id), why));
            }
            lost.extend(
                rest.iter()
                    .map(|each| each.lost(Some(head.id), head.beats(each))),
            );
        }
        lost.sort_by_key(|lost| lost.to != Some(winner));
        lost
    }

    /// Why each of them but the ruling's does not decide on a lookup.
    pub(super) fn lookup(&self, ruling: Ruling) -> Vec<Lost> {
        let decides = self.names.iter().find(|each| each.id == ruling.rule);
        let mut lost = Vec::new();
        for (at, each) in self.names.iter().enumerate() {
            if each.id == ruling.rule {
                continue;
            }
            // The winner, if it is one of those that hide this rule everywhere.
            let mut hiding = self.names[..at].iter().filter(|above| above.covers(each));
            let first = hiding.next();
            let above = decides.filter(|decides| hides(decides, each)).or(first);
            lost.push(match above {
                Some(above) => each.lost(Some(above.id), above.beats(each)),
                None => {
                    let passes = ruling.effect != Effect::Deny || !ruling.enforce;
                    let refuses = each.rule.effect == Says::Deny
                        && (ruling.effect != Effect::Deny || each.rule.mode == Mode::Enforce);
                    let why = if passes && refuses && decides.is_some() {
                        Why::Reachable
                    } else {
                        Why::SomePorts
                    };
                    each.lost(decides.map(|decides| decides.id), why)
                }
            });
        }
        lost
    }
}

fn hides(winner: &Candidate<'_>, other: &Candidate<'_>) -> bool {
    winner.key() > other.key() && winner.covers(other)
}

/// Why what is said of the address goes before what is said of its name, or the other way round.
fn across(winner: &Candidate<'_>, head: &Candidate<'_>, head_is_of_address: bool) -> Why {
    let denies = |candidate: &Candidate<'_>| candidate.rule.effect == Says::Deny;
    if winner.rule.rank != head.rule.rank {
        of_rank(winner.rule)
    } else if denies(winner) && denies(head) {
        if winner.rule.mode == head.rule.mode || winner.rule.mode == Mode::Observe {
            Why::AddressFirst
        } else {
            Why::Recorded
        }
    } else if !denies(winner) {
        Why::AddressFirst
    } else if head_is_of_address {
        Why::NamesDenied
    } else {
        Why::AddressDenied
    }
}
