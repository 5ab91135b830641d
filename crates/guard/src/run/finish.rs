//! From the command's start to the report, with nothing left behind.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::policy::Effect;
use blackstart_core::report::{Account, Ledger, Leftover, Usage};
use blackstart_kernel::spawn::{Child, Signals};

use super::{PATIENCE, Setup};
use crate::cgroup::RunCgroup;
use crate::late::LateSubjects;
use crate::orphan::{described, kept_record, remove_programs};
use crate::plan::Need;
use crate::story::{End, tell, wall_ns};
use crate::supervise::{Ending, Supervisor, Told};
use crate::terminal::Terminal;
use crate::{AtEnd, Ended, Notice, pins};

/// How long killed leftovers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How often a run that waits for its leftovers looks at them.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Processes that end with the command may end a moment after it, and have not outlived it.
const GRACE: Duration = Duration::from_millis(20);

impl Setup<'_> {
    /// From the command's start to the report.
    pub(super) fn see_through(
        mut self,
        child: &Child,
        signals: &Signals,
        terminal: &Terminal,
        notice: &mut dyn FnMut(Notice),
    ) -> Ended {
        let mut late = LateSubjects::default();
        let mut supervisor = Supervisor {
            child,
            signals,
            terminal,
            session: self.session.as_mut(),
            cgroup: self.cgroup.as_ref(),
            dir: self.dir.as_ref(),
            answerer: self.answerer.as_ref(),
            policy: self.policy,
            late: &mut late,
            notice: &mut *notice,
            told: Told::default(),
            pending: VecDeque::new(),
        };
        let ending = supervisor.until_exit();
        terminal.take_back();
        self.file.exit_code = Some(ending.exit_code());

        let at_end = self.request.leftover.unwrap_or_else(|| {
            match self.policy.map(|policy| policy.default) {
                Some(Effect::Deny) => AtEnd::Kill,
                _ => AtEnd::Release,
            }
        });
        let mut leftovers = self
            .cgroup
            .as_ref()
            .filter(|cgroup| !empties(cgroup, GRACE))
            .and_then(|cgroup| cgroup.survivors().ok())
            .unwrap_or_default();
        match (&self.cgroup, at_end) {
            (Some(cgroup), AtEnd::Wait) => {
                leftovers.clear();
                while cgroup.populated().unwrap_or(false) {
                    if !supervisor.idle(WAIT_STEP) {
                        leftovers = cgroup.survivors().unwrap_or_default();
                        break;
                    }
                }
            }
            (Some(cgroup), AtEnd::Kill) if !leftovers.is_empty() => {
                if let Err(error) = cgroup.kill(KILL_PATIENCE) {
                    self.terms.note(
                        Need::Leftovers,
                        format!("not all leftovers could be ended: {error}"),
                        0,
                    );
                }
            }
            (Some(_), _) => {}
            (None, _) => {
                self.terms.note(
                    Need::Leftovers,
                    "without a cgroup, processes that outlive the command are not known",
                    0,
                );
            }
        }
        let keep = at_end == AtEnd::Keep
            && !leftovers.is_empty()
            && self.pins.is_some()
            && self.dir.is_some();
        // What survivors do from here on is theirs: counted after the record was read, it would be lost unseen.
        if !keep && let Err(error) = supervisor.detach() {
            supervisor.tell_warning(format!(
                "programs of this run could not be detached: {error}"
            ));
        }
        supervisor.last_events();
        let ended_ns = wall_ns(SystemTime::now());
        let unanswered = self.answerer.take().map_or(0, |answerer| answerer.finish());
        if unanswered > 0 {
            self.terms.note(
                Need::Answers,
                "denied lookups got no final answer; their askers had to find out by themselves",
                unanswered,
            );
        }

        let record = self.record(&mut late);
        let usage = usage(self.cgroup.as_ref());
        if keep {
            self.file.kept = true;
        } else {
            self.clean_up(&mut leftovers, notice);
        }
        self.file.gaps = self.terms.gaps().to_vec();
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            leftovers,
            unsupervised_seconds: 0.0,
        };
        let report = tell(&self.file, self.policy, record, end);
        let record = self.put_away(&report, keep, notice);
        Ended {
            report,
            exit_code: ending.exit_code(),
            signal: match ending {
                Ending::Signal(signal) => Some(signal),
                Ending::Exit(_) => None,
            },
            record,
        }
    }

    /// What the kernel recorded; where that cannot be read, what of it is on disk.
    fn record(&mut self, late: &mut LateSubjects) -> Ledger {
        let Some(session) = &self.session else {
            return Ledger::default();
        };
        let mut record = Ledger::default();
        let read = session.read(&mut |mut row| {
            late.complete(&mut row);
            record.add(row);
        });
        let Err(error) = read else { return record };
        self.terms.note(
            Need::Supervision,
            format!("the record cannot be read: {}", described(&error)),
            0,
        );
        self.dir.as_ref().map_or_else(Ledger::default, kept_record)
    }

    /// Take down the guard; what still lives is the caller's again. `leftovers` gains whoever came since.
    fn clean_up(&mut self, leftovers: &mut Vec<Leftover>, notice: &mut dyn FnMut(Notice)) {
        let _locked = self
            .state
            .as_ref()
            .and_then(|state| state.lock(PATIENCE).ok());
        // The programs first: moving a process out would be recorded as its leaving.
        if let Err(error) = remove_programs(self.session.take(), self.pins.as_deref()) {
            notice(Notice::Warning(format!(
                "programs of this run could not be removed: {error}"
            )));
        }
        if let Some(dir) = &self.dir {
            pins::tidy(dir.path());
        }
        let Some(cgroup) = &self.cgroup else { return };
        for survivor in cgroup.survivors().unwrap_or_default() {
            if !leftovers.iter().any(|known| known.tgid == survivor.tgid) {
                leftovers.push(survivor);
            }
        }
        if let Err(error) = cgroup.release().and_then(|()| cgroup.remove()) {
            self.terms.note(
                Need::Leftovers,
                format!(
                    "the run's cgroup {} could not be emptied and removed: {error}",
                    cgroup.whereabouts().path.display()
                ),
                0,
            );
        }
    }

    /// The report on disk; where it is.
    fn put_away(
        &mut self,
        report: &Account,
        keep: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> Option<PathBuf> {
        self.write_run();
        let dir = self.dir.take()?;
        let path = dir.report_path();
        let written = dir.write_report(report);
        // While its cgroup or programs remain, the run is not finished: a later command goes on here.
        let left = self.cgroup.as_ref().is_some_and(RunCgroup::exists)
            || !pins::existing(&self.file.id, dir.path()).is_empty();
        let finished = if keep || left { Ok(()) } else { dir.finish() };
        match written.and(finished) {
            Ok(()) => Some(path),
            Err(error) => {
                notice(Notice::Warning(format!(
                    "the report cannot be kept in {}: {error}",
                    path.display()
                )));
                None
            }
        }
    }
}

/// Is the cgroup empty, now or within `grace`?
fn empties(cgroup: &RunCgroup, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    while cgroup.populated().unwrap_or(false) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

/// What the run used, as far as the kernel tells.
pub(crate) fn usage(cgroup: Option<&RunCgroup>) -> Usage {
    let children = || {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        children_seconds(&stat, rustix::param::clock_ticks_per_second())
    };
    match cgroup {
        Some(cgroup) => Usage {
            cpu_seconds: cgroup.cpu_seconds(),
            peak_memory: cgroup.peak_memory(),
        },
        None => Usage {
            cpu_seconds: children(),
            peak_memory: None,
        },
    }
}

/// CPU time of the children that were waited for, out of our own stat.
fn children_seconds(stat: &str, ticks_per_second: u64) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = [13, 14]
        .into_iter()
        .map(|at| fields.get(at)?.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    let millis = ticks.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(Duration::from_millis(millis).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_time_is_read_from_stat() {
        let stat = "7 (a b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 150 50 20 0 1 0";
        assert_eq!(children_seconds(stat, 100), Some(2.0));
        assert_eq!(children_seconds("7 (a) S 1", 100), None);
    }
}
