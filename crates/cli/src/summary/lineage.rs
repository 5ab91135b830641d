//! Who came from whom: the chains by which processes are told.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use blackstart_core::report::Subject;

use super::label;

/// A longer chain is told by its ends.
const CHAIN_LINKS: usize = 6;

/// Who came from whom.
pub(crate) struct Lineage {
    labels: Texts,
    programs: Texts,
    /// Subject, parent (0 for none), and the numbers of its label and of what it executes; sorted.
    subjects: Vec<(u64, u64, u32, u32)>,
}

impl Lineage {
    pub(crate) fn of<'a>(subjects: impl Iterator<Item = Cow<'a, Subject>>) -> Self {
        let (mut labels, mut programs) = (Texts::default(), Texts::default());
        let mut subjects: Vec<_> = subjects
            .map(|subject| {
                let label = labels.number(&label(&subject.exe, &subject.argv));
                let program = programs.number(&subject.exe);
                (subject.id, subject.parent.unwrap_or(0), label, program)
            })
            .collect();
        subjects.sort_unstable();
        Self {
            labels,
            programs,
            subjects,
        }
    }

    /// What a process executes, and then what those do that it descends from.
    pub(super) fn programs(&self, subject: Option<u64>) -> Vec<String> {
        let mut programs = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = subject;
        while let Some(&(id, parent, _, program)) = next.and_then(|id| self.find(id)) {
            if !seen.insert(id) {
                break;
            }
            programs.push(self.programs.get(program).to_owned());
            next = Some(parent);
        }
        programs
    }

    fn find(&self, id: u64) -> Option<&(u64, u64, u32, u32)> {
        let at = self
            .subjects
            .binary_search_by_key(&id, |(id, ..)| *id)
            .ok()?;
        self.subjects.get(at)
    }

    /// `deploy.sh → terraform → provider`: the first process first. Images that only forked, and a
    /// process that exec'ed itself anew, are one link.
    pub(crate) fn chain(&self, subject: Option<u64>) -> String {
        let mut links: Vec<u32> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = subject;
        while let Some(&(id, parent, label, _)) = next.and_then(|id| self.find(id)) {
            if !seen.insert(id) {
                break;
            }
            if links.last() != Some(&label) {
                links.push(label);
            }
            next = Some(parent);
        }
        links.reverse();
        let links: Vec<_> = links.into_iter().map(|n| self.labels.get(n)).collect();
        match links.as_slice() {
            [] => "unknown process".to_owned(),
            [first, .., last_but_one, last] if links.len() > CHAIN_LINKS => {
                format!("{first} → … → {last_but_one} → {last}")
            }
            links => links.join(" → "),
        }
    }
}

/// Texts by number, in the order in which they were met.
#[derive(Default)]
pub(crate) struct Texts {
    numbers: HashMap<Rc<str>, u32>,
    all: Vec<Rc<str>>,
}

impl Texts {
    pub(crate) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let text: Rc<str> = text.into();
        self.all.push(Rc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    /// Of one that was met.
    pub(super) fn known(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    pub(crate) fn get(&self, number: u32) -> &str {
        &self.all[number as usize]
    }
}
