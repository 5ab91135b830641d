//! Arguments of processes that the kernel met too late to see their exec.

use std::collections::BTreeMap;

use blackstart_core::record::{Row, SubjectId, SubjectRow};

use crate::process;

/// Subjects looked at. A run in which more are late has other gaps than this.
const MOST: usize = 4096;

/// What /proc said of such subjects while they lived.
#[derive(Debug, Default)]
pub(crate) struct LateSubjects {
    seen: BTreeMap<SubjectId, Seen>,
}

#[derive(Debug)]
struct Seen {
    exe: Option<String>,
    argv: Vec<String>,
}

impl LateSubjects {
    fn look_at(&mut self, subject: SubjectId, tgid: u32) {
        if subject != 0 && tgid != 0 && process::numbered_as_recorded() && self.seen.len() < MOST {
            self.seen.entry(subject).or_insert_with(|| look(tgid));
        }
    }

    /// Fill what the kernel left open in a row, as far as it can be read now or could be before. To be called now
    /// and then while the run is on.
    pub(crate) fn complete(&mut self, row: &mut Row) {
        let Row::Subject(row) = row else { return };
        // Or it was forked before anybody knew who forks it.
        if (row.late || (row.forked && row.parent == 0)) && row.argv.is_empty() {
            self.complete_subject(row);
        }
    }

    fn complete_subject(&mut self, row: &mut SubjectRow) {
        if row.ended_ns == 0 {
            self.look_at(row.id, row.tgid);
        }
        if let Some(seen) = self.seen.get(&row.id) {
            row.argv.clone_from(&seen.argv);
            if let Some(exe) = seen.exe.as_ref().filter(|_| row.exe.is_empty()) {
                row.exe.clone_from(exe);
            }
        }
    }
}

fn look(tgid: u32) -> Seen {
    Seen {
        exe: process::exe(tgid),
        argv: process::argv(tgid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: SubjectId, late: bool) -> Row {
        Row::Subject(SubjectRow {
            id,
            parent: 0,
            tgid: std::process::id(),
            exe: String::new(),
            argv: Vec::new(),
            argv_truncated: false,
            forked: false,
            late,
            found: false,
            started_ns: 0,
            ended_ns: 0,
            wait_status: 0,
            replaced: false,
        })
    }

    #[test]
    fn only_late_subjects_are_completed() {
        let mut late = LateSubjects::default();
        let own: Vec<_> = std::env::args().collect();
        let mut argv = |mut row: Row| {
            late.complete(&mut row);
            match row {
                Row::Subject(row) => row.argv,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(argv(row(1, true))[0], own[0]);
        assert!(argv(row(2, false)).is_empty());
    }
}
