//! Outcomes that depend on the process: which selectors hold for it decides which rule rules.
//!
//! A diagram of yes-or-no questions, shared where it is the same. No path asks the same question twice, so
//! a walk has at most as many steps as there are selectors. Because parts are shared there may be far more paths
//! than rows: whatever goes through a diagram visits each row once.

use std::collections::{HashMap, HashSet};

use super::kept::Kept;
use super::paths::Paths;
use super::{Choice, ChoiceId, Effect, Outcome, Ruling, SelectorId};
use crate::path::Selector;
use crate::policy::Rank;

/// Bound on the questions about processes.
const MAX_CHOICES: usize = 1 << 20;
/// Bound on what is looked at so that one outcome comes out of several, and on that for all of a policy.
const MAX_STEPS: usize = 1 << 22;
const MAX_STEPS_IN_ALL: usize = 1 << 25;

#[derive(Default)]
pub(super) struct Choices {
    pub(super) rows: Kept<Choice>,
    /// What is known of each row, so that whole parts of a diagram need no visit.
    below: Vec<Below>,
    /// For each selector those that cannot hold as well, as bits.
    exclusive: Vec<u64>,
    steps: usize,
    /// There was no room, or no end, for something: what came out of it is not to be used.
    pub(super) too_many: bool,
}

/// What there is from a question on.
#[derive(Debug, Clone, Copy)]
struct Below {
    /// The selectors that are asked about, as bits.
    asks: u64,
    /// The highest rank of what is found.
    rank: Rank,
}

/// What a part of a diagram became, so that it need not be worked out again.
type Done = HashMap<ChoiceId, Outcome>;

impl Choices {
    /// About these selectors, of which `programs` says which hold for the same executable. Those that are about what a
    /// process descends from hold with any other.
    pub(super) fn new(selectors: &[Selector], programs: &Paths) -> Self {
        let mut together = vec![0u64; selectors.len()];
        for matching in &programs.matching {
            let bits = matching.iter().fold(0, |bits, &id| bits | 1u64 << id);
            for &id in matching {
                together[id as usize] |= bits;
            }
        }
        let trees = (0..).zip(selectors).filter(|(_, selector)| selector.tree);
        let trees = trees.fold(0u64, |bits, (id, _)| bits | 1 << id);
        let exclusive = together.iter().zip(selectors).map(|(together, selector)| {
            if selector.tree {
                0
            } else {
                !(together | trees)
            }
        });
        Self {
            exclusive: exclusive.collect(),
            ..Self::default()
        }
    }

    fn choose(&mut self, selector: SelectorId, yes: Outcome, no: Outcome) -> Outcome {
        if yes == no {
            return yes;
        }
        if self.rows.len() >= MAX_CHOICES {
            self.too_many = true;
            return yes;
        }
        let (id, fresh) = self.rows.keep(Choice { selector, yes, no });
        if fresh {
            let (yes, no) = (self.below(yes), self.below(no));
            self.below.push(Below {
                asks: 1 << selector | yes.asks | no.asks,
                rank: yes.rank.max(no.rank),
            });
        }
        Outcome::Choice(id)
    }

    fn below(&self, outcome: Outcome) -> Below {
        match outcome {
            Outcome::Is(ruling) => Below {
                asks: 0,
                rank: ruling.rank,
            },
            Outcome::Choice(id) => self.below[id as usize],
        }
    }

    fn row(&self, id: ChoiceId) -> Choice {
        self.rows[id]
    }

    /// What remains once it is known whether a selector holds.
    fn given(
        &mut self,
        outcome: Outcome,
        selector: SelectorId,
        holds: bool,
        done: &mut Done,
    ) -> Outcome {
        let Outcome::Choice(id) = outcome else {
            return outcome;
        };
        if self.below(outcome).asks >> selector & 1 == 0 {
            return outcome;
        }
        if let Some(&known) = done.get(&id) {
            return known;
        }
        let Choice {
            selector: asked,
            yes,
            no,
        } = self.row(id);
        let remains = if asked == selector {
            if holds { yes } else { no }
        } else {
            let yes = self.given(yes, selector, holds, done);
            let no = self.given(no, selector, holds, done);
            self.choose(asked, yes, no)
        };
        done.insert(id, remains);
        remains
    }

    /// Lay a ruling over what was found so far; what has a higher rank stays. Of rulings with the same rank the
    /// one laid later holds.
    pub(super) fn lay(
        &mut self,
        under: Outcome,
        ruling: Ruling,
        selector: Option<SelectorId>,
    ) -> Outcome {
        match selector {
            None => self.cover(under, ruling, &mut Done::new()),
            Some(selector) => {
                let yes = self.given(under, selector, true, &mut Done::new());
                let yes = self.cover(yes, ruling, &mut Done::new());
                let no = self.given(under, selector, false, &mut Done::new());
                self.choose(selector, yes, no)
            }
        }
    }

    fn cover(&mut self, under: Outcome, ruling: Ruling, done: &mut Done) -> Outcome {
        match under {
            _ if self.below(under).rank <= ruling.rank => Outcome::Is(ruling),
            Outcome::Is(_) => under,
            Outcome::Choice(id) => {
                if let Some(&known) = done.get(&id) {
                    return known;
                }
                let Choice { selector, yes, no } = self.row(id);
                let yes = self.cover(yes, ruling, done);
                let no = self.cover(no, ruling, done);
                let covered = self.choose(selector, yes, no);
                done.insert(id, covered);
                covered
            }
        }
    }

    /// The same with `under` wherever no rule applies.
    pub(super) fn fill(&mut self, outcome: Outcome, under: Ruling) -> Outcome {
        self.fill_part(outcome, under, &mut Done::new())
    }

    fn fill_part(&mut self, outcome: Outcome, under: Ruling, done: &mut Done) -> Outcome {
        match outcome {
            Outcome::Is(ruling) if ruling.effect == Effect::None => Outcome::Is(under),
            Outcome::Is(_) => outcome,
            Outcome::Choice(id) => {
                if let Some(&known) = done.get(&id) {
                    return known;
                }
                let Choice { selector, yes, no } = self.row(id);
                let yes = self.fill_part(yes, under, done);
                let no = self.fill_part(no, under, done);
                let filled = self.choose(selector, yes, no);
                done.insert(id, filled);
                filled
            }
        }
    }

    /// What some process gets, each once and in no order.
    pub(super) fn rulings(&self, outcomes: impl IntoIterator<Item = Outcome>) -> HashSet<Ruling> {
        let mut rulings = HashSet::new();
        let mut asked = HashSet::new();
        let mut open: Vec<Outcome> = outcomes.into_iter().collect();
        while let Some(outcome) = open.pop() {
            match outcome {
                Outcome::Is(ruling) => drop(rulings.insert(ruling)),
                Outcome::Choice(id) if asked.insert(id) => {
                    let Choice { yes, no, .. } = self.row(id);
                    open.extend([yes, no]);
                }
                Outcome::Choice(_) => {}
            }
        }
        rulings
    }

    /// One outcome out of several, which a [`Fold`] takes in one after the other.
    pub(super) fn combine<F: Fold>(
        &mut self,
        fold: &F,
        outcomes: &[Outcome],
        begin: F::So,
    ) -> Outcome {
        // What is asked from here on: of all that is known of a process only that matters any more.
        let mut asked = vec![0; outcomes.len() + 1];
        for (at, outcome) in outcomes.iter().enumerate().rev() {
            asked[at] = asked[at + 1] | self.below(*outcome).asks;
        }
        let mut combining = Combining {
            choices: self,
            fold,
            outcomes,
            asked,
            done: HashMap::new(),
            steps: 0,
        };
        let outcome = combining.from(0, begin, Known::default());
        self.steps += combining.steps;
        outcome
    }
}

/// How one ruling comes out of several.
pub(super) trait Fold {
    /// What the ones so far say. Few different ones may come up.
    type So: Copy + Eq + std::hash::Hash;

    /// Take in one more, the one in this place.
    fn add(&self, so: Self::So, at: usize, ruling: Ruling) -> Self::So;

    /// What comes out: none while those from this place on may change it. Some after the last.
    fn settled(&self, so: Self::So, next: usize) -> Option<Ruling>;
}

/// Which selectors are known to hold, or not to hold, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Known {
    yes: u64,
    no: u64,
}

struct Combining<'a, F: Fold> {
    choices: &'a mut Choices,
    fold: &'a F,
    outcomes: &'a [Outcome],
    asked: Vec<u64>,
    done: HashMap<(usize, F::So, Known), Outcome>,
    steps: usize,
}

impl<F: Fold> Combining<'_, F> {
    /// What comes out, if the outcomes before this one say so and so much is known.
    fn from(&mut self, mut at: usize, mut so: F::So, known: Known) -> Outcome {
        loop {
            if let Some(ruling) = self.fold.settled(so, at) {
                return Outcome::Is(ruling);
            }
            let Some(&outcome) = self.outcomes.get(at) else {
                return Outcome::Is(Ruling::NONE);
            };
            self.steps += 1;
            match self.choices.answered(outcome, known) {
                Outcome::Is(ruling) => {
                    so = self.fold.add(so, at, ruling);
                    at += 1;
                }
                Outcome::Choice(id) => return self.ask(at, so, known, id),
            }
        }
    }

    fn ask(&mut self, at: usize, so: F::So, known: Known, id: ChoiceId) -> Outcome {
        let known = Known {
            yes: known.yes & self.asked[at],
            no: known.no & self.asked[at],
        };
        if let Some(&done) = self.done.get(&(at, so, known)) {
            return done;
        }
        let left = MAX_STEPS_IN_ALL.saturating_sub(self.choices.steps);
        if self.steps > MAX_STEPS.min(left) {
            self.choices.too_many = true;
        }
        if self.choices.too_many {
            return Outcome::Is(Ruling::NONE);
        }
        let selector = self.choices.row(id).selector;
        let bit = 1 << selector;
        let yes = Known {
            yes: known.yes | bit,
            no: known.no | self.choices.exclusive[usize::from(selector)],
        };
        let no = Known {
            no: known.no | bit,
            ..known
        };
        let yes = self.from(at, so, yes);
        let no = self.from(at, so, no);
        let outcome = self.choices.choose(selector, yes, no);
        self.done.insert((at, so, known), outcome);
        outcome
    }
}

impl Choices {
    /// The first question on the way that has no answer yet, or what the way ends in.
    fn answered(&self, mut outcome: Outcome, known: Known) -> Outcome {
        while let Outcome::Choice(id) = outcome {
            let Choice { selector, yes, no } = self.row(id);
            outcome = match (known.yes >> selector & 1, known.no >> selector & 1) {
                (1, _) => yes,
                (_, 1) => no,
                _ => break,
            };
        }
        outcome
    }
}
