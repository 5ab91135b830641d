//! Where the paths of unix sockets led that a run reached for, judged as the rules judge the sockets there.

use blackstart_core::record::{DelegateRow, SubjectId, Verdict};
use blackstart_kernel::{Feature, Session};
use rustix::time::{ClockId, clock_gettime};

use super::Supervision;
use crate::aliases::{Contact, Denials};

/// Processes above one that count for what its rules are.
const GENERATIONS: usize = 64;

impl Supervision<'_, '_> {
    /// Have it found out behind these, and tell what was found of those before them.
    pub(super) fn look_for_aliases(&mut self, rows: &[(DelegateRow, u32)]) {
        self.renew_denials();
        if !self.looks() {
            return;
        }
        let contacts = self.passed(rows);
        self.beside.aliases.look(&contacts, false);
        self.judge_aliases(rows);
    }

    /// The same once nothing more is reached for: what was reached again since the last look, and what one is still busy with.
    pub(super) fn last_aliases(&mut self) {
        if !self.looks() {
            return;
        }
        let rows = self.unix_contacts();
        self.beside.aliases.finish();
        let contacts = self.passed(&rows);
        self.beside.aliases.look(&contacts, true);
        self.beside.aliases.finish();
        self.judge_aliases(&rows);
    }

    /// What the run's policy denies now, where nothing but its paths is judged while it is reached for.
    fn renew_denials(&mut self) {
        let first = self.judged.first_rule;
        let Some(policy) = self.judged.policy.as_deref() else {
            return;
        };
        if !Denials::are_in(policy, first) {
            self.beside.aliases.matter(false);
            return;
        }
        let known = self.beside.denials.as_ref();
        if !known.is_some_and(|known| known.are_of(policy, first)) {
            self.beside.denials = match Denials::of(policy, first) {
                Ok(denials) => Some(denials),
                Err(error) => {
                    tracing::debug!(%error, "rules about unix sockets");
                    None
                }
            };
        }
        let covered = self.session.as_deref().is_some_and(Session::hides);
        let held = self.refuses_by_name();
        let denials = self.beside.denials.as_ref();
        let any = denials.is_some_and(|denials| denials.any(held));
        self.beside.aliases.matter(any && !covered);
    }

    /// Is anybody to look? Not for callers of the agent: looked up with root's rights, a path that somebody reached for in vain
    /// would tell what lies behind doors that are closed to him. So it is said that nobody could tell.
    fn looks(&self) -> bool {
        self.beside.aliases.matters() && self.file.caller.is_none()
    }

    /// Is what is enforced held by the programs, whatever the path?
    fn refuses_by_name(&self) -> bool {
        let session = self.session.as_deref();
        self.judged.enforcing && session.is_some_and(|it| it.has(Feature::SocketNames))
    }

    /// The contacts that nothing refused by their path.
    fn passed(&self, rows: &[(DelegateRow, u32)]) -> Vec<Contact> {
        let nanoseconds = |clock| {
            let now = clock_gettime(clock);
            now.tv_sec.saturating_mul(1_000_000_000) + now.tv_nsec
        };
        let booted = nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime);
        let started = |subject: SubjectId| {
            let row = self.session.as_ref()?.subject(subject)?;
            i64::try_from(row.started_ns).ok()
        };
        rows.iter()
            .filter(|(row, _)| matches!(row.verdict, Verdict::Allow | Verdict::Waived))
            .map(|(row, tgid)| Contact {
                path: row.path.clone(),
                tgid: *tgid,
                since: started(row.subject).map_or(0, |ns| booted + ns),
                attempts: row.attempts,
            })
            .collect()
    }

    /// What the rules say of the sockets that were reached.
    fn judge_aliases(&mut self, rows: &[(DelegateRow, u32)]) {
        let held = self.refuses_by_name();
        let mut met = Vec::new();
        for (row, tgid) in rows {
            let (aliases, denials) = (&self.beside.aliases, &self.beside.denials);
            let names = aliases.names(&row.path);
            if names.is_empty() || !matches!(row.verdict, Verdict::Allow | Verdict::Waived) {
                continue;
            }
            let programs = self.programs(row.subject);
            let denied = names.iter().find_map(|name| {
                let denial = denials.as_ref()?.denial(name, &programs)?;
                Some((name.clone(), denial))
            });
            // The programs refused what they hold: the contact is in the record as denied, by its name.
            if let Some((name, denial)) = denied.filter(|(_, denial)| !(held && denial.enforced)) {
                met.push((row, *tgid, name, denial.rule));
            }
        }
        for (row, tgid, name, rule) in met {
            let verdict = if self.judged.broken_glass {
                Verdict::BreakGlass
            } else {
                Verdict::WouldDeny
            };
            let told = (verdict, rule);
            if self
                .beside
                .aliases
                .judge(&row.path, row.subject, told, &name)
            {
                let place = self.place;
                self.beside
                    .listeners
                    .look(&[(name.clone(), tgid)], |pid| place.contains(pid));
                let destination = format!("unix:{} ({name})", row.path);
                self.tell(row.subject, tgid, destination, verdict, rule);
            }
        }
    }

    /// What a process executes, and those that started it; each with whether it is a fork of the next.
    fn programs(&self, subject: SubjectId) -> Vec<(String, bool)> {
        let (mut programs, mut next) = (Vec::new(), subject);
        while next != 0
            && programs.len() < GENERATIONS
            && let Some(row) = self.session.as_ref().and_then(|it| it.subject(next))
        {
            programs.push((row.exe, row.forked));
            next = row.parent;
        }
        programs
    }
}
