//! What the supervisor looks after for the limits' sake while a run is on: the time that it has, processes that go
//! into the background, and how many there are at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::redact::redact;
use blackstart_core::report::{Leftover, Overtime, RunLimits, image_name};

use crate::AtEnd;
use crate::cgroup::RunCgroup;
use crate::process::{self, Stat};
use crate::story::wall_ns;

/// From the signal that asks a command to end to the one that ends it.
const GRACE: Duration = Duration::from_secs(10);
/// Once it is to be ended, forks may outrun a sweep: again after this.
const AGAIN: Duration = Duration::from_millis(100);
/// Processes looked at in one turn: a run may have thousands, and turns are frequent. The others have theirs later.
const LOOKS: usize = 128;
/// Kinds of daemons that are told live; the report has all.
const TOLD_MAX: usize = 20;

/// What the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The time is over: ask the command to end.
    Ask,
    /// It had time to: end it.
    End,
}

/// How much time the run has.
#[derive(Debug)]
pub(crate) struct Clock {
    next: Option<(Instant, Due)>,
}

impl Clock {
    /// `limit` from now.
    pub(crate) fn start(now: Instant, limit: Option<Duration>) -> Self {
        Self {
            next: limit
                .and_then(|limit| now.checked_add(limit))
                .map(|at| (at, Due::Ask)),
        }
    }

    /// When something is due, if ever.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// What is due now. Each asking is answered once; ending is due again and again.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        let (_, due) = self.next.filter(|(at, _)| *at <= now)?;
        let pause = match due {
            Due::Ask => GRACE,
            Due::End => AGAIN,
        };
        // From now, not from when it was due: the supervisor may have been stopped since, and so may the command.
        self.next = Some((now + pause, Due::End));
        Some(due)
    }
}

/// Everything that is looked after.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) clock: Clock,
    /// The limits, as they were applied.
    pub(crate) limits: RunLimits,
    /// What becomes of a daemon at the run's end.
    at_end: AtEnd,
    /// The main child and its session.
    child: u32,
    session: Option<i32>,
    /// Set once the time was over.
    pub(crate) overtime: Option<Overtime>,
    /// The most processes and threads that were seen.
    pub(crate) highest_pids: Option<u64>,
    /// Processes in the background, by their start, so that a number used again is another.
    daemons: BTreeMap<(u32, u64), Leftover>,
    told: BTreeSet<String>,
    /// Where the last turn stopped looking.
    looked_up_to: i32,
}

impl Watch {
    pub(crate) fn new(
        limits: RunLimits,
        time: Option<Duration>,
        at_end: AtEnd,
        child: u32,
    ) -> Self {
        Self {
            clock: Clock::start(Instant::now(), time),
            limits,
            at_end,
            child,
            session: process::stat(child).map(|stat| stat.session),
            overtime: None,
            highest_pids: None,
            daemons: BTreeMap::new(),
            told: BTreeSet::new(),
            looked_up_to: 0,
        }
    }

    /// While the main child lives: it may make a session of its own (`setsid ./deploy.sh`), which then is the run's.
    pub(crate) fn follow_child(&mut self) {
        if let Some(stat) = process::stat(self.child) {
            self.session = Some(stat.session);
        }
    }

    /// Is a process in the session of the main child?
    pub(crate) fn in_session(&self, pid: u32) -> bool {
        match self.session {
            Some(session) => process::stat(pid).is_some_and(|stat| stat.session == session),
            None => pid == self.child,
        }
    }

    /// A look at the run's processes, twice a second: warnings of daemons that are new.
    pub(crate) fn look(&mut self, cgroup: &RunCgroup) -> Vec<String> {
        if let Some(now) = cgroup.pids_now() {
            self.highest_pids = self.highest_pids.max(Some(now));
        }
        if !self.limits.hold_processes() {
            return Vec::new();
        }
        let pids = cgroup.pids().unwrap_or_default();
        let (before, after) = pids.split_at(pids.partition_point(|pid| *pid <= self.looked_up_to));
        let turn: Vec<i32> = after.iter().chain(before).copied().take(LOOKS).collect();
        self.looked_up_to = turn.last().copied().unwrap_or(0);
        let run: BTreeSet<u32> = pids.iter().map(|pid| pid.cast_unsigned()).collect();
        turn.into_iter()
            .filter_map(|pid| self.meet(pid.cast_unsigned(), &|parent| run.contains(&parent)))
            .collect()
    }

    /// At the command's end: whoever lives on and had left its session is a daemon, though nobody may have looked
    /// since it became one.
    pub(crate) fn last_look(&mut self, survivors: &[Leftover]) {
        if self.limits.hold_processes() {
            for survivor in survivors {
                let _ = self.meet(survivor.tgid, &|_| false);
            }
        }
    }

    /// The daemons that were met.
    pub(crate) fn daemons(&self) -> Vec<Leftover> {
        self.daemons.values().cloned().collect()
    }

    /// A warning, if this process is a daemon and its kind is new.
    fn meet(&mut self, pid: u32, of_run: &dyn Fn(u32) -> bool) -> Option<String> {
        let stat = process::stat(pid)?;
        if pid == self.child || !is_daemon(&stat, self.session, of_run) {
            return None;
        }
        let argv = process::argv(pid);
        // It may be in the midst of becoming another program; the next turn finds it.
        if argv.is_empty() || self.daemons.contains_key(&(pid, stat.started)) {
            return None;
        }
        let exe = process::exe(pid).unwrap_or_default();
        let name = image_name(&exe, &redact(&argv)).to_owned();
        let known = Leftover { tgid: pid, argv };
        self.daemons.insert((pid, stat.started), known);
        if self.told.len() >= TOLD_MAX || !self.told.insert(name.clone()) {
            return None;
        }
        let held = self.limits.held();
        let until = match self.at_end {
            AtEnd::Release => "they hold it until the command has ended, and it is then released",
            AtEnd::Kill => "they hold it, and it is ended with the command",
            AtEnd::Keep => "they hold it for as long as it lives (--leftover keep)",
            AtEnd::Wait => "they hold it, and the run waits for its end (--leftover wait)",
        };
        Some(format!(
            "{name} (pid {pid}) went into the background under this run's limits ({held}): {until}"
        ))
    }

    /// Note who lives now that the time is over.
    pub(crate) fn time_is_over(&mut self, alive: Vec<Leftover>) {
        let (ended, spared) = alive
            .into_iter()
            .partition(|one| one.tgid == self.child || self.in_session(one.tgid));
        self.overtime = Some(Overtime {
            at_ns: wall_ns(SystemTime::now()),
            ended,
            spared,
        });
    }
}

/// Has it left the session of the main child, and did its parent, of this run, end? What only has left is a job that
/// somebody waits for (`setsid -w`, `script`, a test runner).
fn is_daemon(stat: &Stat, session: Option<i32>, of_run: &dyn Fn(u32) -> bool) -> bool {
    stat.state != 'Z' && session.is_some_and(|main| main != stat.session) && !of_run(stat.parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_asks_once_and_then_insists() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut clock = Clock::start(start, Some(Duration::from_secs(2)));
        assert_eq!(clock.next(), Some(at(2000)));
        assert_eq!(clock.due(at(1999)), None);
        assert_eq!(clock.due(at(2000)), Some(Due::Ask));
        assert_eq!(clock.due(at(2001)), None);
        assert_eq!(clock.due(at(12_000)), Some(Due::End));
        assert_eq!(clock.due(at(12_050)), None);
        assert_eq!(clock.due(at(12_100)), Some(Due::End));
        // Stopped for an hour in the meantime: whoever is asked late has its grace all the same.
        let mut late = Clock::start(start, Some(Duration::from_secs(2)));
        assert_eq!(late.due(at(3_600_000)), Some(Due::Ask));
        assert_eq!(late.next(), Some(at(3_610_000)));
        let mut none = Clock::start(start, None);
        assert_eq!(
            (none.next(), none.due(at(u64::from(u32::MAX)))),
            (None, None)
        );
    }

    #[test]
    fn a_daemon_left_its_session_and_has_lost_its_parent() {
        let stat = |state, parent, session| Stat {
            state,
            parent,
            session,
            kernel: false,
            started: 0,
        };
        let of_run = |pid| pid == 7;
        for (stat, daemon) in [
            (stat('S', 1, 9), true),
            // Its parent lives; it is in the same session (`nohup x &`); it is dead.
            (stat('S', 7, 9), false),
            (stat('S', 1, 5), false),
            (stat('Z', 1, 9), false),
        ] {
            assert_eq!(is_daemon(&stat, Some(5), &of_run), daemon, "{stat:?}");
        }
    }
}
