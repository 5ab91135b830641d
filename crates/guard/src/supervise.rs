//! From the child's start to its end: one loop that owns everything that happens meanwhile.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use blackstart_core::policy::time_text;
use blackstart_core::report::Leftover;
use blackstart_kernel::spawn::{Child, Received, Signals, process_group, stop_self, waker};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};

use crate::cgroup::RunCgroup;
use crate::process;
use crate::terminal::Terminal;
use crate::watch::{Due, Watch};

mod guarding;
mod led;

pub(crate) use guarding::{Beside, Place, SinceCheckpoint, Supervision, TURN, Told};

/// Well within the three seconds after which the kernel takes the supervisor for dead.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How much of the record a dead machine may cost.
pub(crate) const CHECKPOINT: Duration = Duration::from_secs(5);
/// A second SIGTERM within this time means it.
const IMPATIENCE: Duration = Duration::from_secs(10);
/// A second SIGTERM sooner than this is the same one: timeout(1) and others signal the process and then
/// its group.
const ECHO: Duration = Duration::from_millis(500);

/// How long the end of a session may take, its grace included, once the time is over and the child has ended.
const LAST_GRACE: Duration = Duration::from_secs(12);
/// How often what is left of it is looked at.
const SESSION_STEP: Duration = Duration::from_millis(20);
/// A program that cleans its screen up when the stop key is pressed stops itself within this time.
const STOP_KEY: Duration = Duration::from_secs(2);

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

impl Ending {
    /// As a shell reports it.
    pub(crate) fn exit_code(self) -> i32 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What a SIGTERM asks for, given the last ones.
#[derive(Debug, PartialEq, Eq)]
enum Term {
    Forward,
    Ignore,
    Kill,
}

#[derive(Debug, Default)]
struct TermHistory {
    last: Option<Instant>,
}

impl TermHistory {
    fn received(&mut self, now: Instant) -> Term {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if since.is_some_and(|since| since < ECHO) {
            return Term::Ignore;
        }
        self.last = Some(now);
        if since.is_some_and(|since| since <= IMPATIENCE) {
            Term::Kill
        } else {
            Term::Forward
        }
    }
}

/// Signals received, as far as they matter to what later ones mean.
#[derive(Debug, Default)]
struct Heard {
    terms: TermHistory,
    /// When the terminal last asked its foreground to stop.
    stop_key: Option<Instant>,
}

/// Is a stop of the child by `signal` meant for the caller's shell to see? One by SIGSTOP seldom is: whoever
/// stops just this process will continue just this process. But programs that handle the stop key (pressed
/// a moment ago: `stop_key`) end in one, and so does a shell's `suspend`, which stops its own process group while
/// that `holds` the terminal. (SIGSTOP to our whole group has stopped the supervisor already.)
fn follows(signal: Signal, stop_key: bool, holds: bool) -> bool {
    match signal {
        Signal::TSTP | Signal::TTIN | Signal::TTOU => true,
        Signal::STOP => stop_key || holds,
        _ => false,
    }
}

/// Everything that the loop looks after.
pub(crate) struct Supervisor<'a, 'p> {
    pub(crate) child: &'a Child,
    pub(crate) signals: &'a Signals,
    pub(crate) terminal: &'a Terminal,
    pub(crate) cgroup: Option<&'a RunCgroup>,
    pub(crate) watch: &'a mut Watch,
    pub(crate) on: Supervision<'a, 'p>,
}

impl Supervisor<'_, '_> {
    /// Until the child has ended; and, if it did so for want of time, its session with it.
    pub(crate) fn until_exit(&mut self) -> Ending {
        let ending = self.until_child_ends();
        if self.watch.overtime.is_some() {
            self.end_session();
        }
        ending
    }

    fn until_child_ends(&mut self) -> Ending {
        let mut heard = Heard::default();
        let mut next_beat = Instant::now();
        let mut next_checkpoint = Instant::now() + CHECKPOINT;
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.on.beat();
                self.watch.follow_child();
                self.look();
                self.on.look_behind_again();
                next_beat = now + HEARTBEAT;
            }
            if now >= next_checkpoint {
                self.on.checkpoint();
                // A short run ends before it has paid for letting go.
                self.on.settle();
                next_checkpoint = Instant::now() + CHECKPOINT;
            }
            let next = next_beat.min(next_checkpoint);
            let next = self.watch.clock.next().map_or(next, |due| due.min(next));
            let next = self.on.next_of_followed().map_or(next, |due| due.min(next));
            let others = [self.signals.fd(), self.child.pidfd.as_fd()];
            let child_ended = self
                .on
                .wait(&others, next.saturating_duration_since(Instant::now()));
            self.on.hear_lookups();
            self.on.take_events();
            self.on.follow();
            self.on.hear();
            while let Some(received) = self.signals.next() {
                self.received(received, &mut heard);
            }
            if child_ended && let Some(ending) = self.ending() {
                return ending;
            }
            self.keep_time();
            if let Some(signal) = self.stopped() {
                self.stop(signal, &heard);
                next_beat = Instant::now();
            }
        }
    }

    /// Is the time over, and so the session asked to end, or ended? Once the time is over it is so for good.
    pub(crate) fn time_is_over(&mut self) -> bool {
        self.keep_time();
        if self.watch.overtime.is_none() {
            return false;
        }
        self.end_session();
        true
    }

    /// Do what the clock asks for.
    fn keep_time(&mut self) {
        match self.watch.clock.due(Instant::now()) {
            None => {}
            Some(Due::Ask) => {
                let alive = match self.cgroup {
                    Some(cgroup) => cgroup.survivors().unwrap_or_default(),
                    None => Vec::new(),
                };
                let child = self.child.pid.cast_unsigned();
                let alive = if alive.is_empty() {
                    vec![Leftover {
                        tgid: child,
                        argv: process::argv(child),
                    }]
                } else {
                    alive
                };
                self.watch.time_is_over(alive);
                let limit = self.watch.limits.time.map_or(0.0, |limit| limit.value);
                let limit = time_text(Duration::from_secs_f64(limit));
                self.on.tell_warning(format!(
                    "time limit of {limit} reached: the command is ended"
                ));
                self.signal_session(Signal::TERM);
                // Whoever is stopped would hear of it when continued.
                self.signal_session(Signal::CONT);
            }
            Some(Due::End) => self.signal_session(Signal::KILL),
        }
    }

    /// After the child's end for want of time: whoever is left of its session has the rest of the grace.
    fn end_session(&mut self) {
        let Some(cgroup) = self.cgroup else { return };
        let give_up = Instant::now() + LAST_GRACE;
        let left = |watch: &Watch| {
            let pids = cgroup.pids().unwrap_or_default();
            pids.into_iter()
                .any(|pid| watch.in_session(pid.cast_unsigned()))
        };
        while left(self.watch) && Instant::now() < give_up {
            self.keep_time();
            if !self.idle(SESSION_STEP) {
                // Somebody has no patience with them.
                self.signal_session(Signal::KILL);
            }
        }
    }

    /// What the limits want to be looked after.
    fn look(&mut self) {
        let Some(cgroup) = self.cgroup else { return };
        for warning in self.watch.look(cgroup) {
            self.on.tell_warning(warning);
        }
    }

    /// After the child's end, while its leftovers live: go on for `step`. False if a signal says that this
    /// has been long enough.
    pub(crate) fn idle(&mut self, step: Duration) -> bool {
        self.on.beat();
        self.look();
        self.on.rest(step);
        self.on.take_events();
        self.on.follow();
        self.on.hear();
        while let Some(received) = self.signals.next() {
            match Signal::from_named_raw(received.signal) {
                Some(Signal::INT | Signal::QUIT | Signal::TERM | Signal::HUP) => return false,
                Some(Signal::TSTP) => {
                    let _ = stop_self(received.signal);
                }
                _ => {}
            }
        }
        true
    }
}

impl Supervisor<'_, '_> {
    fn received(&mut self, received: Received, heard: &mut Heard) {
        let Some(signal) = Signal::from_named_raw(received.signal) else {
            return;
        };
        // What the terminal sends goes to its whole foreground group, the child included. And a process
        // of the run that signals its own group has reached the child as well.
        let Some(sender) = received.sender else {
            if signal == Signal::TSTP {
                heard.stop_key = Some(Instant::now());
            }
            return;
        };
        let from_run = match self.cgroup {
            Some(cgroup) => cgroup.contains(sender),
            None => sender == self.child.pid.cast_unsigned(),
        };
        if from_run {
            return;
        }
        match signal {
            Signal::TERM => match heard.terms.received(Instant::now()) {
                Term::Forward => self.forward(signal),
                Term::Ignore => {}
                Term::Kill => self.signal_session(Signal::KILL),
            },
            Signal::HUP | Signal::TSTP | Signal::TTIN => self.forward(signal),
            // SIGINT and SIGQUIT are the terminal's business; SIGCHLD and SIGTTOU say nothing here.
            _ => {}
        }
    }

    fn forward(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.child.pidfd, signal);
    }

    /// Signal the child, and what came of it and has not left its session. Daemons made a session of their own.
    ///
    /// The child first, and the others from the oldest on: a shell that sees the end of what it waits for before its
    /// own goes on to the next command.
    fn signal_session(&self, signal: Signal) {
        self.forward(signal);
        let Some(cgroup) = self.cgroup else { return };
        let same = |pid: Pid| self.watch.in_session(pid.as_raw_pid().cast_unsigned());
        let others = cgroup.pids().unwrap_or_default().into_iter();
        for pid in others.filter(|pid| *pid != self.child.pid) {
            cgroup.signal_one(pid, signal, same);
        }
    }

    fn ending(&self) -> Option<Ending> {
        ended(self.child)
    }

    /// The signal that stopped the child, if it was stopped since the last time.
    fn stopped(&self) -> Option<i32> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        waitid(WaitId::PidFd(self.child.pidfd.as_fd()), options)
            .ok()??
            .stopping_signal()
    }

    /// Stop as the child did, so that the caller's shell sees its job stop; and see to it, once
    /// continued, that the child goes on too.
    fn stop(&self, signal: i32, heard: &Heard) {
        // Without a terminal nobody does job control over us; whoever stopped the child will continue
        // the child, and must not find the supervisor stopped for good.
        if !self.terminal.present() {
            return;
        }
        let group = Pid::from_raw(self.child.pid).and_then(|pid| process_group(Some(pid)));
        let apart = group.filter(|group| Some(*group) != self.terminal.own_group());
        let held = apart.is_some() && self.terminal.holder() == apart;
        let stop_key = heard.stop_key.is_some_and(|at| at.elapsed() < STOP_KEY);
        if !Signal::from_named_raw(signal).is_some_and(|signal| follows(signal, stop_key, held)) {
            return;
        }
        // Whoever continues just the child must not leave us behind; nor whoever ends it.
        let waker = Some(self.child)
            .filter(|child| stopped(child))
            .and_then(|child| waker(child).ok());
        let outcome = stop_self(signal);
        if let Some(waker) = waker {
            let _ = pidfd_send_signal(&waker.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(waker.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        if let Err(error) = outcome {
            tracing::debug!(%error, "stop with the child");
            return;
        }
        match apart {
            // A shell of its own, as with `bash -i`: the caller's shell knows only our group.
            Some(group) => {
                if held {
                    self.terminal.give(group);
                }
                let _ = kill_process_group(group, Signal::CONT);
            }
            // The caller's shell continued our whole group; a plain `kill -CONT` of us did not.
            None => {
                if stopped(self.child) {
                    self.forward(Signal::CONT);
                }
            }
        }
    }
}

/// Is it stopped, as far as /proc tells?
fn stopped(child: &Child) -> bool {
    process::state_and_session(child.pid.cast_unsigned()).is_some_and(|(state, _)| state == 'T')
}

/// How a child has ended, if it has.
fn ended(child: &Child) -> Option<Ending> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), options).ok()??;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Ending::Exit(code)),
        (None, Some(signal)) => Some(Ending::Signal(signal)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(Ending::Exit(0).exit_code(), 0);
        assert_eq!(Ending::Exit(255).exit_code(), 255);
        assert_eq!(Ending::Signal(9).exit_code(), 137);
        let end = |script: &str| {
            let mut child = std::process::Command::new("sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let pidfd = rustix::process::pidfd_open(
                Pid::from_raw(pid).unwrap(),
                rustix::process::PidfdFlags::empty(),
            );
            let held = Child {
                pid,
                pidfd: pidfd.unwrap(),
                keeper: None,
            };
            let mut fds = [PollFd::new(&held.pidfd, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let ending = ended(&held);
            assert!(child.wait().is_err(), "somebody else collected it");
            ending
        };
        assert_eq!(end("exit 3"), Some(Ending::Exit(3)));
        assert_eq!(end("kill -TERM $$"), Some(Ending::Signal(15)));
    }

    #[test]
    fn a_second_term_kills_and_an_echo_does_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut terms = TermHistory::default();
        assert_eq!(terms.received(at(0)), Term::Forward);
        assert_eq!(terms.received(at(1)), Term::Ignore);
        assert_eq!(terms.received(at(2000)), Term::Kill);
        let mut late = TermHistory::default();
        assert_eq!(late.received(at(0)), Term::Forward);
        assert_eq!(late.received(at(10_001)), Term::Forward);
        assert_eq!(late.received(at(12_000)), Term::Kill);
    }

    #[test]
    fn a_stop_is_followed_when_the_shell_is_meant() {
        for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
            assert!(follows(signal, false, false));
        }
        assert!(!follows(Signal::STOP, false, false));
        assert!(follows(Signal::STOP, true, false), "the stop key");
        assert!(follows(Signal::STOP, false, true), "suspend");
    }
}
