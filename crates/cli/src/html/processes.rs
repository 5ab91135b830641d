//! The processes of a run as a tree, row by row.

use std::collections::HashMap;

use blackstart_core::report::{Parts, Subject, Verdict, image_name};

use super::clock::{Clock, Span, length_text};
use super::{command_line, grouped};
use crate::plain::cut;

/// No more than this are shown: a browser has to hold each.
const SHOWN: usize = 10_000;
/// The longest command line that is shown.
const COMMAND: usize = 240;
/// Deeper is not indented further.
const DEEPEST: u16 = 20;

/// The order in which processes are shown, and what each did. Small, for a run may have many: the rest of a row
/// is made when it is written.
pub(super) struct Processes<'a> {
    report: &'a dyn Parts,
    clock: Clock,
    /// Subject and depth.
    order: Vec<(u64, u16)>,
    all: usize,
    /// Attempts, and how many of them, and of the lookups, were or would be refused.
    reached: HashMap<u64, (u64, u64)>,
}

/// One row.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) depth: u16,
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) exe: String,
    pub(super) started: String,
    pub(super) lasted: String,
    pub(super) span: Span,
    pub(super) exit: String,
    pub(super) failed: bool,
    pub(super) reached: bool,
    pub(super) attempts_text: String,
    pub(super) refused: bool,
    pub(super) refused_text: String,
}

impl<'a> Processes<'a> {
    pub(super) fn of(report: &'a dyn Parts, clock: Clock) -> Self {
        let mut parents: Vec<(u64, u64)> = report
            .subjects()
            .map(|subject| (subject.parent.unwrap_or(0), subject.id))
            .collect();
        let mut reached: HashMap<u64, (u64, u64)> = HashMap::new();
        for flow in report.flows() {
            let Some(subject) = flow.subject else {
                continue;
            };
            let (all, refused) = reached.entry(subject).or_default();
            *all = all.saturating_add(flow.attempts);
            if matches!(flow.verdict, Verdict::Deny | Verdict::WouldDeny) {
                *refused = refused.saturating_add(flow.attempts);
            }
        }
        for name in report.names() {
            if let Some(subject) = name.subject
                && matches!(name.verdict, Verdict::Deny | Verdict::WouldDeny)
            {
                let (_, refused) = reached.entry(subject).or_default();
                *refused = refused.saturating_add(name.queries);
            }
        }
        let mut order = tree(&mut parents);
        let all = order.len();
        order.truncate(SHOWN);
        Self {
            report,
            clock,
            order,
            all,
            reached,
        }
    }

    /// How many there are.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// How many are not shown.
    pub(super) fn left_out(&self) -> usize {
        self.all - self.order.len()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Process> {
        self.order.iter().filter_map(|&(id, depth)| {
            let subject = self.report.subject(id)?;
            Some(self.row(&subject, depth))
        })
    }

    fn row(&self, subject: &Subject, depth: u16) -> Process {
        let (attempts, refused) = self.reached.get(&subject.id).copied().unwrap_or_default();
        let mut command = command_line(&subject.argv);
        if subject.argv_truncated {
            command.push('…');
        }
        let started_at = self.clock.after(&subject.started);
        let ended = subject.ended.as_deref();
        let lasted_for = match ended {
            Some(ended) => self.clock.after(ended),
            None => self.clock.length(),
        } - started_at;
        Process {
            depth: depth.min(DEEPEST),
            name: image_name(&subject.exe, &subject.argv).to_owned(),
            pid: subject.pid,
            command: cut(&command, COMMAND),
            exe: subject.exe.clone(),
            started: length_text(started_at),
            lasted: match ended {
                Some(_) => length_text(lasted_for.max(0)),
                None => "outlived the run".to_owned(),
            },
            span: self.clock.span(&subject.started, ended),
            exit: match (subject.exit, ended) {
                (Some(code @ 129..=192), _) => format!("signal {}", code - 128),
                (Some(code), _) => code.to_string(),
                // It went on as another program.
                (None, Some(_)) => "exec".to_owned(),
                (None, None) => String::new(),
            },
            failed: subject.exit.is_some_and(|code| code != 0),
            reached: attempts > 0 || refused > 0,
            attempts_text: unless_none(attempts),
            refused: refused > 0,
            refused_text: unless_none(refused),
        }
    }
}

fn unless_none(count: u64) -> String {
    match count {
        0 => String::new(),
        count => grouped(count),
    }
}

/// Depth first, siblings in the order of their numbers, from pairs of parent (0 for none) and child. A report
/// may say anything of parents: who has none that is there begins a tree, and a circle of them too.
fn tree(pairs: &mut [(u64, u64)]) -> Vec<(u64, u16)> {
    let mut known: Vec<u64> = pairs.iter().map(|(_, id)| *id).collect();
    known.sort_unstable();
    known.dedup();
    for (parent, _) in pairs.iter_mut() {
        if known.binary_search(parent).is_err() {
            *parent = 0;
        }
    }
    pairs.sort_unstable();
    let children = |of: u64| {
        let from = pairs.partition_point(|(parent, _)| *parent < of);
        let to = pairs.partition_point(|(parent, _)| *parent <= of);
        pairs[from..to].iter().rev().map(|(_, id)| *id)
    };
    let mut met = vec![false; known.len()];
    let mut order = Vec::with_capacity(known.len());
    let mut walk = |roots: &mut dyn Iterator<Item = u64>, order: &mut Vec<(u64, u16)>| {
        let mut stack: Vec<(u64, u16)> = roots.map(|id| (id, 0)).collect();
        while let Some((id, depth)) = stack.pop() {
            let Ok(place) = known.binary_search(&id) else {
                continue;
            };
            if std::mem::replace(&mut met[place], true) {
                continue;
            }
            order.push((id, depth));
            if id != 0 {
                stack.extend(children(id).map(|child| (child, depth.saturating_add(1))));
            }
        }
    };
    walk(&mut children(0), &mut order);
    // Whoever is left is its own ancestor.
    if order.len() < known.len() {
        walk(&mut known.iter().rev().copied(), &mut order);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        let mut pairs = [(0, 1), (1, 2), (1, 4), (2, 3), (4, 5)];
        assert_eq!(tree(&mut pairs), [(1, 0), (2, 1), (3, 2), (4, 1), (5, 2)]);
    }

    #[test]
    fn everybody_is_shown_once_whatever_the_report_says() {
        let mut pairs = [(9, 1), (3, 2), (2, 3), (5, 5), (1, 6), (1, 6)];
        let order = tree(&mut pairs);
        let mut ids: Vec<_> = order.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 5, 6]);
        assert_eq!(&order[..2], [(1, 0), (6, 1)]);
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let mut pairs: Vec<(u64, u64)> = (1..=100_000).map(|id| (id - 1, id)).collect();
        let order = tree(&mut pairs);
        assert_eq!(order.len(), 100_000);
        assert_eq!(order[99_999], (100_000, u16::MAX));
    }
}
