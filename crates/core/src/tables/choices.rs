//! Outcomes that depend on the process: which selectors hold for it decides which rule rules.
//!
//! A diagram of yes-or-no questions, shared where it is the same. No path asks the same question twice, so
//! a walk has at most as many steps as there are selectors.

use super::kept::Kept;
use super::{Choice, ChoiceId, Outcome, Ruling, SelectorId};

#[derive(Default)]
pub(super) struct Choices {
    pub(super) rows: Kept<Choice>,
}

impl Choices {
    fn choose(&mut self, selector: SelectorId, yes: Outcome, no: Outcome) -> Outcome {
        if yes == no {
            return yes;
        }
        let (id, _) = self.rows.keep(Choice { selector, yes, no });
        Outcome::Choice(id)
    }

    fn row(&self, id: ChoiceId) -> Choice {
        self.rows[id]
    }

    /// What remains once it is known whether a selector holds.
    pub(super) fn given(&mut self, outcome: Outcome, selector: SelectorId, holds: bool) -> Outcome {
        let Outcome::Choice(id) = outcome else {
            return outcome;
        };
        let Choice {
            selector: asked,
            yes,
            no,
        } = self.row(id);
        if asked == selector {
            return if holds { yes } else { no };
        }
        let yes = self.given(yes, selector, holds);
        let no = self.given(no, selector, holds);
        self.choose(asked, yes, no)
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
            None => self.cover(under, ruling),
            Some(selector) => {
                let yes = self.given(under, selector, true);
                let yes = self.cover(yes, ruling);
                let no = self.given(under, selector, false);
                self.choose(selector, yes, no)
            }
        }
    }

    fn cover(&mut self, under: Outcome, ruling: Ruling) -> Outcome {
        match under {
            Outcome::Is(found) if found.rank > ruling.rank => under,
            Outcome::Is(_) => Outcome::Is(ruling),
            Outcome::Choice(id) => {
                let Choice { selector, yes, no } = self.row(id);
                let yes = self.cover(yes, ruling);
                let no = self.cover(no, ruling);
                self.choose(selector, yes, no)
            }
        }
    }

    /// Does any process get a ruling of which this is true?
    pub(super) fn any(&self, outcome: Outcome, is: &impl Fn(Ruling) -> bool) -> bool {
        match outcome {
            Outcome::Is(ruling) => is(ruling),
            Outcome::Choice(id) => {
                let Choice { yes, no, .. } = self.row(id);
                self.any(yes, is) || self.any(no, is)
            }
        }
    }

    /// One outcome out of several: `settle` is asked with what they all are for one kind of process.
    pub(super) fn combine(
        &mut self,
        outcomes: &[Outcome],
        settle: &mut impl FnMut(&[Ruling]) -> Ruling,
    ) -> Outcome {
        let asked = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Is(_) => None,
            Outcome::Choice(id) => Some(self.row(*id).selector),
        });
        let Some(selector) = asked else {
            let rulings: Vec<Ruling> = outcomes
                .iter()
                .map(|outcome| match outcome {
                    Outcome::Is(ruling) => *ruling,
                    Outcome::Choice(_) => Ruling::NONE,
                })
                .collect();
            return Outcome::Is(settle(&rulings));
        };
        let mut side = |holds| {
            let known: Vec<Outcome> = outcomes
                .iter()
                .map(|&outcome| self.given(outcome, selector, holds))
                .collect();
            self.combine(&known, settle)
        };
        let (yes, no) = (side(true), side(false));
        self.choose(selector, yes, no)
    }
}
