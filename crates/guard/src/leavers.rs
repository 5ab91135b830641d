//! Processes that leave the run's cgroup, and which of them are moved back.

use std::collections::BTreeSet;
use std::path::Path;

use blackstart_core::record::{LeaverRow, Row, SubjectId};

/// Processes that are remembered to have been moved back. More of them and a run has other troubles.
const MOST: usize = 4096;

/// A process that left, and to where: as the record names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Left {
    pub(crate) subject: SubjectId,
    pub(crate) tgid: u32,
    pub(crate) cgroup: u64,
}

/// Who left and was moved back.
#[derive(Debug, Default)]
pub(crate) struct Leavers {
    returned: BTreeSet<Left>,
}

impl Leavers {
    /// It was moved back, or not.
    pub(crate) fn was(&mut self, left: Left, returned: bool) {
        if !returned {
            // It may have been before.
            self.returned.remove(&left);
        } else if self.returned.len() < MOST {
            self.returned.insert(left);
        }
    }

    /// Say in a row of the record what became of who left.
    pub(crate) fn complete(&self, row: &mut Row) {
        let Row::Leaver(LeaverRow {
            subject,
            tgid,
            cgroup,
            returned,
        }) = row
        else {
            return;
        };
        *returned |= self.returned.contains(&Left {
            subject: *subject,
            tgid: *tgid,
            cgroup: *cgroup,
        });
    }
}

/// Is a process that went to this cgroup to be moved back to the run's, whose id is `own`?
///
/// What lay there when the run began is nobody's special place: a script that writes its number somewhere else has left,
/// whatever for. And a login session (`su -`, `sudo -i` through pam_systemd) takes a process out for the books only. Any
/// other cgroup that was made since was made for what goes there, by a container runtime or a manager of services: its
/// limits are meant, and whoever made it looks for its processes there. The kernel deals ids in order.
pub(crate) fn is_taken_back(cgroup: u64, own: u64, path: &Path) -> bool {
    let session = path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with("session-") && name.ends_with(".scope")
    });
    cgroup < own || session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_made_for_it_is_not_taken_from_a_process() {
        let back = |cgroup, path: &str| is_taken_back(cgroup, 100, Path::new(path));
        assert!(back(1, ""));
        assert!(back(40, "system.slice/cron.service"));
        assert!(
            back(40, "machine.slice/libpod-1.scope"),
            "it was there before"
        );
        assert!(back(140, "user.slice/user-0.slice/session-7.scope"));
        assert!(!back(140, "machine.slice/libpod-1.scope"));
        assert!(!back(140, "libpod_parent/libpod-1"));
        assert!(!back(140, "system.slice/run-u7.scope"));
    }

    #[test]
    fn only_who_was_moved_back_last_is_said_to_be() {
        let left = Left {
            subject: 7,
            tgid: 70,
            cgroup: 1,
        };
        let row = |tgid| {
            Row::Leaver(LeaverRow {
                subject: 7,
                tgid,
                cgroup: 1,
                returned: false,
            })
        };
        let mut leavers = Leavers::default();
        let returned = |leavers: &Leavers, tgid| {
            let mut row = row(tgid);
            leavers.complete(&mut row);
            matches!(row, Row::Leaver(LeaverRow { returned: true, .. }))
        };
        leavers.was(left, true);
        assert!(returned(&leavers, 70) && !returned(&leavers, 71));
        leavers.was(left, false);
        assert!(!returned(&leavers, 70));
    }
}
