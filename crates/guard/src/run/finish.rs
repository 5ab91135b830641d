//! From the command's start to the report, with nothing left behind.

use std::borrow::Cow;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::graph;
use blackstart_core::lock::Lock;
use blackstart_core::policy::{Effect, Policy, Reaction};
use blackstart_core::report::exit_code::{GATED, TIME_LIMIT};
use blackstart_core::report::{Account, Guarded, Ledger, Leftover, LimitFacts, Told};
use blackstart_kernel::spawn::{Child, Signals};
use blackstart_kernel::{Session, give_back_memory};

use super::{PATIENCE, Setup, usage};
use crate::cgroup::RunCgroup;
use crate::control::Judged;
use crate::orphan::{described, kept_record, remove_programs};
use crate::plan::Need;
use crate::story::{End, tell, wall_ns};
use crate::supervise::{Beside, Ending, Place, Supervision, Supervisor};
use crate::terminal::Terminal;
use crate::watch::Watch;
use crate::{AtEnd, Ended, Notice, locked, pins, scripts, usual};

/// How long killed leftovers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How often a run that waits for its leftovers looks at them.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Processes that end with the command may end a moment after it, and have not outlived it.
pub(super) const GRACE: Duration = Duration::from_millis(20);

impl Setup<'_> {
    /// From the command's start to the report.
    pub(super) fn see_through(
        mut self: Box<Self>,
        child: &Child,
        signals: &Signals,
        terminal: &Terminal,
        notice: &mut dyn FnMut(Notice),
    ) -> Ended {
        let began = Instant::now();
        let at_end = self.request.leftover.unwrap_or_else(|| {
            match self.policy.map(|policy| policy.default) {
                Some(Effect::Deny) => AtEnd::Kill,
                _ => AtEnd::Release,
            }
        });
        let time = self.limits().time;
        let limits = self.file.limits.clone();
        let mut watch = Watch::new(limits, time, at_end, child.pid.cast_unsigned());
        let mut beside = Beside::default();
        let mut judged = self.judged();
        let mut supervisor = Supervisor {
            child,
            signals,
            terminal,
            cgroup: self.cgroup.as_ref(),
            watch: &mut watch,
            on: Supervision {
                session: self.session.as_mut(),
                dir: self.dir.as_ref(),
                answerer: self.answerer.as_ref(),
                forwarder: self.forwarder.as_ref(),
                follow: self.follow.as_mut(),
                control: self.control.as_ref(),
                ..Supervision::new(
                    Place::Made(self.cgroup.as_ref()),
                    &mut judged,
                    &mut self.file,
                    &mut beside,
                    &mut *notice,
                )
            },
        };
        let ending = supervisor.until_exit();
        terminal.take_back();

        let mut leftovers = self
            .cgroup
            .as_ref()
            .filter(|cgroup| !empties(cgroup, GRACE))
            .and_then(|cgroup| cgroup.survivors().ok())
            .unwrap_or_default();
        supervisor.watch.last_look(&leftovers);
        match (&self.cgroup, at_end) {
            (Some(cgroup), AtEnd::Wait) => {
                leftovers.clear();
                while cgroup.populated().unwrap_or(false) {
                    // A time limit is one on the whole run.
                    if supervisor.time_is_over() || !supervisor.idle(WAIT_STEP) {
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
        if !keep && let Err(error) = supervisor.on.detach() {
            supervisor.on.tell_warning(format!(
                "programs of this run could not be detached: {error}"
            ));
        }
        if let Some(follow) = &mut supervisor.on.follow {
            follow.end(supervisor.on.session.as_deref());
        }
        if keep {
            // Whoever ends this run tells of it once more.
            supervisor.on.keep_followed();
        }
        supervisor.on.last_events();
        let took = began.elapsed();
        let (record, ended_ns) = self.take_record(&mut beside);
        let ended = outcome(ending, watch.overtime.is_some());
        self.file.exit_code = Some(ended.0);
        let (mut usage, memory_hits) = usage(self.cgroup.as_ref(), watch.highest_pids);
        usage.wall_seconds = Some(took.as_secs_f64());
        self.file.wall_seconds = usage.wall_seconds;
        if let (Some(state), Some(mut drill)) = (&self.state, self.file.drill.take()) {
            drill.usual = usual::of(state, &self.file);
            self.file.drill = Some(drill);
        }
        if keep {
            self.file.kept = true;
        }
        // From here on things go one after the other: whoever finds a part of them done is to know how the command ended.
        self.write_run();
        if !keep {
            self.clean_up(&mut leftovers, notice);
        }
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            limits: LimitFacts {
                memory_hits,
                daemons: watch.daemons(),
                overtime: watch.overtime,
                ..LimitFacts::default()
            },
            leftovers,
            unsupervised_seconds: 0.0,
        };
        self.conclude(judged, record, end, ended, keep, notice)
    }

    /// Once nothing more is judged: the record, and when that was.
    pub(super) fn take_record(&mut self, beside: &mut Beside) -> (Ledger, i64) {
        // Nobody is turned to it any more; who still uses it goes on as if the server had ended.
        drop(self.forwarder.take());
        let unwritten = self.session.as_mut().map(Session::unwritten);
        if let Some((count, why)) = unwritten.and_then(|lost| Some((lost.count, lost.first?))) {
            self.terms.note(
                Need::DnsOverTcp,
                format!(
                    "lookups over TCP were judged, but could not be recorded: {}",
                    described(&why)
                ),
                count,
            );
        }
        // What follows takes more than all before, and nothing is attached any more. A guard among hundreds has done so while it was at
        // rest, and to look through what all of them hold would make its caller wait.
        if let Some(session) = &mut self.session
            && self.file.caller.is_none()
            && !self.by_rule
        {
            session.look_away();
            session.settle();
            give_back_memory();
        }
        // A clock that was set back meanwhile does not make a run end before it began.
        let ended_ns = wall_ns(SystemTime::now()).max(self.file.started_ns);
        let unanswered = self.answerer.take().map_or(0, |answerer| answerer.finish());
        if unanswered > 0 {
            self.terms.note(
                Need::Answers,
                "denied lookups got no final answer; their askers had to find out by themselves",
                unanswered,
            );
        }
        (self.record(beside), ended_ns)
    }

    /// The report, told and put away. `ended` is the exit code, and the signal behind it.
    pub(super) fn conclude(
        mut self: Box<Self>,
        judged: Judged<'_>,
        record: Ledger,
        end: End,
        ended: (i32, Option<i32>),
        keep: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> Ended {
        self.file.exit_code = Some(ended.0);
        self.file.gaps = self.terms.gaps().to_vec();
        let policy = judged.policy;
        if self.file.exit_code == Some(0) && gates(policy.as_deref(), &record) {
            self.file.exit_code = Some(GATED);
        }
        let mut report = tell(&self.file, policy.as_deref(), record, end);
        if self.request.lock.is_some() || self.request.catalog.is_some() {
            self.keep_already(&report);
        }
        let lock = self.look_further(&mut report, policy.as_deref());
        let (record, finished) = self.put_away(&report, keep, notice);
        Ended {
            report: Told::Account(Box::new(report)),
            lock,
            exit_code: self.file.exit_code.unwrap_or_default(),
            signal: ended.1,
            record,
            finished,
            reloaded: policy.and_then(|policy| match policy {
                Cow::Owned(changed) => Some(changed),
                Cow::Borrowed(_) => None,
            }),
        }
    }

    /// Keep the report as far as it goes, before strangers' files are looked at: one that lies on a disk which does not answer may
    /// hold this up until somebody ends it, and the programs' tables are gone by now.
    pub(super) fn keep_already(&self, report: &Account) {
        let Some(dir) = &self.dir else { return };
        if let Err(error) = dir.write_report(report) {
            // Told when the whole of it is written, and cannot be.
            tracing::debug!(%error, "the report cannot be kept yet");
        }
    }

    /// What files tell of the run: the deployment's own scripts, its lock, and the catalog. The lock that this run
    /// makes, if one was asked for.
    pub(super) fn look_further(
        &self,
        report: &mut Account,
        policy: Option<&Policy>,
    ) -> Option<Lock> {
        // Whoever is root for others opens none of their files: they look into them by themselves.
        if self.file.caller.is_none() && !self.by_rule {
            report.add(scripts::read(report), Vec::new());
        }
        let lock = self.request.lock.as_ref().map(|order| {
            let (lock, found) = locked::compare(report, order);
            report.add(Vec::new(), found);
            lock
        });
        let Some(catalog) = &self.request.catalog else {
            return lock;
        };
        let service = self.file.service.as_deref();
        let owner = service.and_then(|name| catalog.find(name));
        report.owned_by(owner.and_then(|id| catalog.service(id).owner.clone()));
        // What is watched is no deployment, which alone closes circles.
        if self.target.is_some() {
            return lock;
        }
        let protect = policy.map_or(&[][..], |policy| &policy.protect);
        // The whole report, in memory: whoever asks for circles has the contacts weighed against each other.
        let found = graph::of_run(&report.to_report(), catalog, protect);
        report.add(Vec::new(), found);
        lock
    }

    /// What the kernel recorded; where that cannot be read, what of it is on disk.
    fn record(&mut self, beside: &mut Beside) -> Ledger {
        let Some(session) = &self.session else {
            return Ledger::default();
        };
        let mut record = Ledger::redacting(&self.request.redaction);
        let read = session.read(&mut |mut row| {
            beside.complete(&mut row);
            let another = beside.beside(&row);
            record.add(row);
            if let Some(row) = another {
                record.add(row);
            }
        });
        self.add_followed(&mut record);
        let Err(error) = read else { return record };
        self.terms.note(
            Need::Supervision,
            format!("the record cannot be read: {}", described(&error)),
            0,
        );
        let Some(dir) = &self.dir else {
            return Ledger::default();
        };
        self.file.guarded = Guarded::Partly;
        let (record, torn) = kept_record(dir, &self.file);
        if let Some(why) = torn {
            let detail = format!("what is kept of it on disk is not whole: {why}");
            self.terms.note(Need::Supervision, detail, 0);
        }
        record
    }

    /// What units did that were followed, and what was not seen of it.
    fn add_followed(&mut self, record: &mut Ledger) {
        let Some(follow) = self.follow.take() else {
            return;
        };
        self.file.followed = follow.facts().to_vec();
        self.file.unfollowed = follow.unfollowed();
        for detail in follow.gaps() {
            self.terms.note(Need::Follow, detail.clone(), 0);
        }
        if let Err(error) = follow.read(&mut |row| record.add(row)) {
            let detail = format!(
                "what followed units did cannot be read: {}",
                described(&error)
            );
            self.terms.note(Need::Follow, detail, 0);
        }
    }

    /// Take down the guard; what still lives is the caller's again. `leftovers` gains whoever came since.
    pub(super) fn clean_up(
        &mut self,
        leftovers: &mut Vec<Leftover>,
        notice: &mut dyn FnMut(Notice),
    ) {
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

    /// The report on disk: where it is, and whether the run is finished with it.
    pub(super) fn put_away(
        &mut self,
        report: &Account,
        keep: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> (Option<PathBuf>, bool) {
        self.write_run();
        let Some(dir) = self.dir.take() else {
            return (None, false);
        };
        let path = dir.report_path();
        let written = dir.write_report(report);
        // While its cgroup or programs remain, the run is not finished: a later command goes on here.
        let left = self.cgroup.as_ref().is_some_and(RunCgroup::exists)
            || !pins::existing(&self.file.id, dir.path()).is_empty();
        let finished = if keep || left { Ok(()) } else { dir.finish() };
        match written.and(finished) {
            Ok(()) => (Some(path), !(keep || left)),
            Err(error) => {
                notice(Notice::Warning(format!(
                    "the report cannot be kept in {}: {error}",
                    path.display()
                )));
                (None, false)
            }
        }
    }
}

/// Was something refused by a rule whose author wants the run to fail for it?
pub(crate) fn gates(policy: Option<&Policy>, record: &Ledger) -> bool {
    let Some(policy) = policy else { return false };
    record.refusing().any(|rule| {
        policy
            .rule(rule)
            .is_some_and(|rule| rule.reaction == Reaction::Fail)
    })
}

/// Exit code, and the signal that ended the command. If the time limit did, neither is the command's own.
fn outcome(ending: Ending, overtime: bool) -> (i32, Option<i32>) {
    match ending {
        _ if overtime => (TIME_LIMIT, None),
        Ending::Exit(code) => (code, None),
        Ending::Signal(signal) => (ending.exit_code(), Some(signal)),
    }
}

/// Is the cgroup empty, now or within `grace`?
pub(super) fn empties(cgroup: &RunCgroup, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    while cgroup.populated().unwrap_or(false) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_core::policy::{self, Rule};
    use blackstart_core::record::{DelegateRow, Reached, Row, Verdict};

    #[test]
    fn a_run_that_was_out_of_time_says_so_whatever_the_command_made_of_it() {
        assert_eq!(outcome(Ending::Exit(3), false), (3, None));
        assert_eq!(outcome(Ending::Signal(15), false), (143, Some(15)));
        for ending in [Ending::Exit(0), Ending::Signal(15), Ending::Signal(9)] {
            assert_eq!(outcome(ending, true), (124, None));
        }
    }

    #[test]
    fn what_was_refused_in_deed_gates_the_run_if_its_rule_says_so() {
        let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: a.test\n    reaction: fail\n  - deny: b.test\n";
        let policy = policy::alone(text, "p.yaml").unwrap().policy;
        let of_reaction = |reaction| {
            let has = |rule: &Rule| rule.reaction == reaction;
            policy.rules.iter().position(has).unwrap() as u32 + 1
        };
        let (fails, other) = (
            of_reaction(Reaction::Fail),
            of_reaction(Reaction::default()),
        );
        let record = |verdict, rule| {
            let mut record = Ledger::default();
            record.add(Row::Delegate(DelegateRow {
                subject: 1,
                path: "/run/docker.sock".to_owned(),
                verdict,
                rule,
                attempts: 1,
                listener: None,
                reached: Reached::AsAsked,
            }));
            record
        };
        assert!(gates(Some(&policy), &record(Verdict::Deny, fails)));
        assert!(!gates(Some(&policy), &record(Verdict::WouldDeny, fails)));
        assert!(!gates(Some(&policy), &record(Verdict::Deny, other)));
        assert!(!gates(None, &record(Verdict::Deny, fails)));
    }
}
