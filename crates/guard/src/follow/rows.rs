//! The rows of followed units as rows of the run's record.

use blackstart_core::record::{Counters, Row, SubjectId, SubjectRow};
use blackstart_core::report::followed_exe;

/// Subjects are numbered in each set of tables by itself; no run comes to so many that those of two meet.
const APART: u32 = 48;

/// A unit that was observed through one set of tables, for as long as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spell {
    pub(super) unit: String,
    /// In the tables' own numbers: its subjects have higher ones, up to the next spell's.
    pub(super) root: SubjectId,
    /// By CLOCK_BOOTTIME.
    pub(super) from_ns: u64,
    /// 0 while it lasts.
    pub(super) to_ns: u64,
}

/// The number of a subject in the run's record, of one in the tables with this number, from 1 on.
pub(super) fn subject(tables: usize, id: SubjectId) -> SubjectId {
    match id {
        0 => 0,
        id => ((tables as u64) << APART) + id,
    }
}

/// The subjects that stand for the units.
pub(super) fn roots(tables: usize, spells: &[Spell]) -> impl Iterator<Item = Row> {
    spells.iter().map(move |spell| {
        Row::Subject(SubjectRow {
            id: subject(tables, spell.root),
            parent: 0,
            tgid: 0,
            exe: followed_exe(&spell.unit),
            argv: Vec::new(),
            argv_truncated: false,
            forked: false,
            late: false,
            found: false,
            started_ns: spell.from_ns,
            ended_ns: spell.to_ns,
            wait_status: 0,
            // It is no process, and has no exit code.
            replaced: true,
        })
    })
}

/// A row of the tables as one of the run; none, where the run's own record says it already, or it says nothing of a unit.
pub(super) fn of_run(tables: usize, spells: &[Spell], row: Row) -> Option<Row> {
    let last = spells.last().map_or(0, |spell| spell.root);
    let root_of = |id: SubjectId| {
        let before = spells.iter().rev().find(|spell| spell.root < id);
        before.map_or(0, |spell| spell.root)
    };
    // Of an unknown process the moment tells the unit.
    let by_time = |at: u64| {
        let then = spells.iter().rev().find(|spell| spell.from_ns <= at);
        then.map_or(last, |spell| spell.root)
    };
    let known =
        |id: SubjectId, otherwise: SubjectId| subject(tables, if id == 0 { otherwise } else { id });
    Some(match row {
        Row::Clock(_) => return None,
        // The live view is of no run's, and leaving a unit's cgroup is no leaving of the run's.
        Row::Leaver(_) => return None,
        Row::Counters(counters) => Row::Counters(Counters {
            events_lost: 0,
            ..counters
        }),
        Row::Subject(mut row) => {
            row.parent = known(row.parent, root_of(row.id));
            row.id = subject(tables, row.id);
            Row::Subject(row)
        }
        Row::Query(mut row) => {
            row.subject = known(row.subject, by_time(row.first_ns));
            Row::Query(row)
        }
        Row::Flow(mut row) => {
            row.subject = known(row.subject, by_time(row.first_ns));
            Row::Flow(row)
        }
        Row::Delegate(mut row) => {
            row.subject = known(row.subject, last);
            Row::Delegate(row)
        }
        Row::Socket(mut row) => {
            row.subject = known(row.subject, last);
            Row::Socket(row)
        }
        row @ (Row::Name(_) | Row::Answer(_)) => row,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_core::record::{DelegateRow, QueryRow, Reached, Verdict};

    fn spell(unit: &str, root: SubjectId, from_ns: u64) -> Spell {
        Spell {
            unit: unit.to_owned(),
            root,
            from_ns,
            to_ns: 0,
        }
    }

    fn image(id: SubjectId, parent: SubjectId) -> Row {
        let Some(Row::Subject(root)) = roots(1, &[spell("x", id, 1)]).next() else {
            unreachable!("a root is a subject");
        };
        Row::Subject(SubjectRow { id, parent, ..root })
    }

    #[test]
    fn whoever_comes_from_nowhere_comes_from_its_unit() {
        let spells = [spell("a.service", 1, 10), spell("b.service", 5, 20)];
        let parent = |id, parent| match of_run(2, &spells, image(id, parent)) {
            Some(Row::Subject(row)) => (row.id, row.parent),
            other => unreachable!("{other:?}"),
        };
        let number = |id| subject(2, id);
        assert_eq!(parent(2, 0), (number(2), number(1)));
        assert_eq!(parent(3, 2), (number(3), number(2)));
        assert_eq!(parent(6, 0), (number(6), number(5)));
        assert_ne!(number(1), subject(1, 1));
        let roots: Vec<_> = roots(2, &spells).collect();
        let Row::Subject(second) = &roots[1] else {
            unreachable!("{roots:?}")
        };
        assert_eq!((second.id, &*second.exe), (number(5), "unit:b.service"));
    }

    #[test]
    fn what_nobody_is_known_to_have_done_was_done_by_a_unit() {
        let spells = [spell("a.service", 1, 10), spell("b.service", 5, 20)];
        let asked = |first_ns| {
            let row = QueryRow {
                name: 1,
                subject: 0,
                qtype: 1,
                verdict: Verdict::Allow,
                rule: 0,
                queries: 1,
                first_ns,
                last_ns: first_ns,
            };
            match of_run(1, &spells, Row::Query(row)) {
                Some(Row::Query(row)) => row.subject,
                other => unreachable!("{other:?}"),
            }
        };
        assert_eq!((asked(15), asked(25)), (subject(1, 1), subject(1, 5)));
        let contact = Row::Delegate(DelegateRow {
            subject: 0,
            path: "/run/x".to_owned(),
            verdict: Verdict::Allow,
            rule: 0,
            attempts: 1,
            listener: None,
            reached: Reached::AsAsked,
        });
        let Some(Row::Delegate(contact)) = of_run(1, &spells, contact) else {
            unreachable!("a contact stays one")
        };
        assert_eq!(contact.subject, subject(1, 5));
        assert_eq!(of_run(1, &spells, Row::Clock(1)), None);
    }
}
