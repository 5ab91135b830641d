//! Which rules of a policy may go one rung higher, because the past was quiet about them.
//!
//! A rule is quiet if it would have refused nothing for so long, whoever did not see everything included. Only runs of which
//! everything is known show that, and there must have been some in that time, the first of them as long ago: a rule that
//! stood for a day is not known to have been quiet for two weeks.

use std::collections::{BTreeMap, HashMap};

use super::backtest::{attempts, was_refused};
use super::replay::Replayed;
use super::{Micros, Past};
use crate::policy::{At, Effect, Policy, Raise, Rank, Reaction, Rule, Rung};
use crate::record::Verdict;
use crate::tables::RuleId;

/// A rule as somebody wrote it; the catalog may have made several of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub file: String,
    /// Its place.
    pub at: At,
    /// As it was written.
    pub text: String,
    /// Where it stands.
    pub rung: Rung,
    /// What it would have refused.
    pub attempts: u64,
    /// In how many runs.
    pub runs: u64,
    /// The last time, and in which run.
    pub last: Option<(Micros, String)>,
    /// It says `reaction: fail`, whether it is enforced or not.
    fails: bool,
    last_run: u64,
}

/// What is to become of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// To this rung.
    Promote(Rung),
    /// It is at the top.
    AtTop,
    /// It would have refused something lately.
    NotQuiet,
    /// Nothing is known of it: no run was seen as a whole in that time.
    NoRun,
    /// It was not looked at for long enough: the first run that was seen as a whole began then.
    TooShort(Micros),
}

/// A policy's rules, held against runs.
#[derive(Debug)]
pub struct Promotion {
    rules: Vec<Written>,
    by_id: HashMap<RuleId, usize>,
    quiet_since: Micros,
    /// The runs.
    pub runs: u64,
    /// Those of which not everything is known, or for which an outage was played: they show no quiet.
    pub incomplete: u64,
    /// Those of the others that began in the time that is to be quiet.
    pub lately: u64,
    /// Attempts that were refused when they were made: what would have followed is not known.
    pub cut_short: u64,
    first_complete: Option<Micros>,
}

impl Promotion {
    /// `policy` with the modes that it has, not those by which it is judged here. Nothing may have been refused from
    /// `quiet_since` on.
    pub fn new(policy: &Policy, quiet_since: Micros) -> Self {
        let mut places: BTreeMap<(String, At), usize> = BTreeMap::new();
        let mut rules: Vec<Written> = Vec::new();
        let mut by_id = HashMap::new();
        for (number, rule) in (1..).zip(&policy.rules) {
            if rule.effect != Effect::Deny || rule.rank == Rank::Waiver {
                continue;
            }
            let place = (rule.file.to_string(), (rule.line, rule.column));
            let at = *places.entry(place).or_insert_with(|| {
                rules.push(Written::of(rule));
                rules.len() - 1
            });
            by_id.insert(number, at);
        }
        Self {
            rules,
            by_id,
            quiet_since,
            runs: 0,
            incomplete: 0,
            lately: 0,
            cut_short: 0,
            first_complete: None,
        }
    }

    /// Take in what became of a run when everything was enforced.
    pub fn add(&mut self, past: &Past, replayed: &Replayed) {
        self.runs += 1;
        if past.drill || !past.lacks.is_empty() {
            self.incomplete += 1;
        } else {
            let first = self.first_complete.get_or_insert(past.started);
            *first = (*first).min(past.started);
            self.lately += u64::from(past.started >= self.quiet_since);
        }
        for attempt in attempts(past) {
            if was_refused(&attempt) {
                self.cut_short += attempt.count;
            }
            let Some((Verdict::Deny | Verdict::WouldDeny, rule)) = attempt.ruled(replayed) else {
                continue;
            };
            let Some(rule) = self.by_id.get(&rule).map(|at| &mut self.rules[*at]) else {
                continue;
            };
            rule.attempts += attempt.count;
            if rule.last_run != self.runs {
                rule.last_run = self.runs;
                rule.runs += 1;
            }
            if rule
                .last
                .as_ref()
                .is_none_or(|(last, _)| attempt.last >= *last)
            {
                rule.last = Some((attempt.last, past.id.clone()));
            }
        }
    }

    /// Each rule, in the order of the policy, with what is to become of it.
    pub fn advice(&self) -> impl Iterator<Item = (&Written, Advice)> {
        self.rules.iter().map(|rule| (rule, self.of(rule)))
    }

    fn of(&self, rule: &Written) -> Advice {
        let Some(next) = rule.next() else {
            return Advice::AtTop;
        };
        if rule
            .last
            .as_ref()
            .is_some_and(|(last, _)| *last >= self.quiet_since)
        {
            return Advice::NotQuiet;
        }
        match self.first_complete {
            Some(first) if first > self.quiet_since => Advice::TooShort(first),
            Some(_) if self.lately > 0 => Advice::Promote(next),
            _ => Advice::NoRun,
        }
    }
}

impl Written {
    fn of(rule: &Rule) -> Self {
        let text = match &rule.derived {
            // Its own text is about one of the things that the service provides.
            Some(derived) => format!("{} service:{}", rule.effect, derived.service),
            None => rule.text.to_string(),
        };
        Self {
            file: rule.file.to_string(),
            at: (rule.line, rule.column),
            text,
            rung: Rung::of(rule.mode, rule.reaction),
            attempts: 0,
            runs: 0,
            last: None,
            fails: rule.reaction == Reaction::Fail,
            last_run: 0,
        }
    }

    /// What its text is to say, to be one rung higher; none at the top.
    pub fn raise(&self) -> Option<Raise> {
        match self.rung {
            Rung::Observe => Some(Raise::Enforce),
            Rung::Warn => Some(Raise::Fail),
            Rung::Fail => None,
        }
    }

    /// The rung above. A rule that says `reaction: fail` while it observes has none in between.
    fn next(&self) -> Option<Rung> {
        match self.rung {
            Rung::Observe if self.fails => Some(Rung::Fail),
            Rung::Observe => Some(Rung::Warn),
            Rung::Warn => Some(Rung::Fail),
            Rung::Fail => None,
        }
    }
}
