//! A policy held against the past: what it would have refused, and how two policies differ in effect.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::replay::{Replayed, Ruled};
use super::{Ancestry, LineageId, Micros, Past};
use crate::record::Verdict;
use crate::tables::{RULE_RESOLVER_SOCKET, RuleId};

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// To look up a name.
    Lookup,
    /// To reach an address.
    Connect,
    /// To contact a daemon over its unix socket.
    Contact,
}

/// Attempts of one program at one destination that came out the same, over all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alike {
    /// What was attempted.
    pub act: Act,
    /// At what: a name, a name or an address with a port, or a path.
    pub destination: String,
    /// By which program.
    pub by: LineageId,
    /// How often.
    pub attempts: u64,
    /// In how many runs.
    pub runs: u64,
    /// First time.
    pub first: Micros,
    /// Last time.
    pub last: Micros,
    /// The latest run in which it happened.
    pub run: String,
    /// The process there, by its number in the report.
    pub subject: Option<u64>,
}

/// One attempt of a run.
pub(super) struct Attempt<'a> {
    act: Act,
    place: usize,
    by: LineageId,
    subject: Option<u64>,
    pub(super) count: u64,
    first: Micros,
    pub(super) last: Micros,
    past: &'a Past,
}

impl Attempt<'_> {
    fn destination(&self) -> String {
        match self.act {
            Act::Lookup => self.past.lookups[self.place].name.to_string(),
            Act::Connect => self.past.flows[self.place].destination(),
            Act::Contact => self.past.contacts[self.place].path.to_string(),
        }
    }

    pub(super) fn ruled(&self, replayed: &Replayed) -> Option<Ruled> {
        match self.act {
            Act::Lookup => replayed.lookups.get(self.place).copied(),
            Act::Connect => replayed.flows.get(self.place).copied().flatten(),
            Act::Contact => replayed
                .contacts
                .get(self.place)
                .copied()
                // Turned away on purpose in every run: resolvers then ask where it is seen.
                .filter(|(_, rule)| *rule != RULE_RESOLVER_SOCKET),
        }
    }
}

/// Everything that a run tried, without what only asked for the way to something else.
pub(super) fn attempts(past: &Past) -> impl Iterator<Item = Attempt<'_>> {
    let lookups = past.lookups.iter().enumerate().map(|(place, it)| Attempt {
        act: Act::Lookup,
        place,
        by: it.by,
        subject: it.subject,
        count: it.queries,
        first: it.first,
        last: it.last,
        past,
    });
    let counted = past.counted();
    let flows = past.flows.iter().enumerate().zip(counted);
    let flows = flows.filter(|(_, counted)| *counted);
    let flows = flows.map(|((place, it), _)| Attempt {
        act: Act::Connect,
        place,
        by: it.by,
        subject: it.subject,
        count: it.attempts,
        first: it.first,
        last: it.last,
        past,
    });
    let contacts = past.contacts.iter().enumerate().map(|(place, it)| Attempt {
        act: Act::Contact,
        place,
        by: it.by,
        subject: it.subject,
        count: it.attempts,
        first: past.started,
        last: past.started,
        past,
    });
    lookups.chain(flows).chain(contacts)
}

/// Attempts that are alike, by what else is to be told apart.
#[derive(Debug)]
struct Groups<K> {
    groups: HashMap<(Act, String, LineageId, K), (Alike, u64)>,
}

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self {
            groups: HashMap::new(),
        }
    }
}

impl<K: std::hash::Hash + Eq + Clone> Groups<K> {
    /// `number` is the run's.
    fn add(&mut self, attempt: &Attempt<'_>, key: K, number: u64) {
        let destination = attempt.destination();
        let id = (attempt.act, destination, attempt.by, key);
        let (alike, last_run) = self.groups.entry(id).or_insert_with_key(|id| {
            let alike = Alike {
                act: id.0,
                destination: id.1.clone(),
                by: id.2,
                attempts: 0,
                runs: 0,
                first: Micros::MAX,
                last: Micros::MIN,
                run: String::new(),
                subject: None,
            };
            (alike, 0)
        });
        alike.attempts += attempt.count;
        if *last_run != number {
            *last_run = number;
            alike.runs += 1;
        }
        alike.first = alike.first.min(attempt.first);
        if attempt.last >= alike.last {
            alike.last = attempt.last;
            alike.run.clone_from(&attempt.past.id);
            alike.subject = attempt.subject;
        }
    }

    /// Those that happened in the most runs first.
    fn sorted(self, ancestry: &Ancestry) -> Vec<(Alike, K)> {
        let mut all: Vec<(Alike, K)> = self
            .groups
            .into_iter()
            .map(|((.., key), (alike, _))| (alike, key))
            .collect();
        all.sort_by(|(a, _), (b, _)| {
            b.runs
                .cmp(&a.runs)
                .then_with(|| (a.act, &a.destination).cmp(&(b.act, &b.destination)))
                .then_with(|| ancestry.chain(a.by).cmp(ancestry.chain(b.by)))
        });
        all
    }
}

/// A policy held against runs.
#[derive(Debug, Default)]
pub struct Backtest {
    /// The runs.
    pub runs: u64,
    /// Everything that they tried.
    pub attempts: u64,
    /// What the policy would have refused of it.
    pub refused: u64,
    /// In how many runs.
    pub runs_refused: u64,
    /// What it would have let pass and recorded as denied, for rules that only observe.
    pub observed: u64,
    /// Attempts that were refused when they were made: what would have followed is not known.
    pub cut_short: u64,
    groups: Groups<Ruled>,
}

impl Backtest {
    /// Take in what became of a run.
    pub fn add(&mut self, past: &Past, replayed: &Replayed) {
        self.runs += 1;
        let before = self.refused;
        for attempt in attempts(past) {
            self.attempts += attempt.count;
            if was_refused(&attempt) {
                self.cut_short += attempt.count;
            }
            let Some(ruled) = attempt.ruled(replayed) else {
                continue;
            };
            match ruled.0 {
                Verdict::Deny => self.refused += attempt.count,
                Verdict::WouldDeny => self.observed += attempt.count,
                _ => continue,
            }
            self.groups.add(&attempt, ruled, self.runs);
        }
        self.runs_refused += u64::from(self.refused > before);
    }

    /// What would have been refused or recorded, those in the most runs first.
    pub fn into_groups(self, ancestry: &Ancestry) -> Vec<(Alike, Ruled)> {
        self.groups.sorted(ancestry)
    }
}

pub(super) fn was_refused(attempt: &Attempt<'_>) -> bool {
    let verdict = match attempt.act {
        Act::Lookup => attempt.past.lookups[attempt.place].verdict,
        Act::Connect => attempt.past.flows[attempt.place].verdict,
        Act::Contact => return false,
    };
    verdict == Verdict::Deny
}

/// How two policies differ in what they make of runs.
#[derive(Debug, Default)]
pub struct Difference {
    /// The runs.
    pub runs: u64,
    /// Everything that they tried.
    pub attempts: u64,
    /// What comes out otherwise.
    pub changed: u64,
    /// In how many runs.
    pub runs_changed: u64,
    groups: Groups<Change>,
}

/// Before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Change {
    /// By the old policy.
    pub before: (Verdict, RuleId),
    /// By the new one.
    pub after: (Verdict, RuleId),
}

impl Difference {
    /// Take in what becomes of a run by either.
    pub fn add(&mut self, past: &Past, before: &Replayed, after: &Replayed) {
        self.runs += 1;
        let count = self.changed;
        for attempt in attempts(past) {
            self.attempts += attempt.count;
            // What one of them keeps from being tried is told of the lookup before it.
            let (Some(before), Some(after)) = (attempt.ruled(before), attempt.ruled(after)) else {
                continue;
            };
            if before.0 != after.0 {
                self.changed += attempt.count;
                self.groups
                    .add(&attempt, Change { before, after }, self.runs);
            }
        }
        self.runs_changed += u64::from(self.changed > count);
    }

    /// What comes out otherwise, that in the most runs first.
    pub fn into_groups(self, ancestry: &Ancestry) -> Vec<(Alike, Change)> {
        self.groups.sorted(ancestry)
    }
}
