//! From the child's start to its end: one loop that owns everything that happens meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_core::policy::time_text;
use blackstart_core::record::{Row, SubjectId, Verdict};
use blackstart_core::report::{Leftover, RulePlace, image_name, rule_text};
use blackstart_core::tables::{RULE_RESOLVER_SOCKET, RuleId};
use blackstart_kernel::spawn::{Child, Received, Signals, process_group, stop_self, waker};
use blackstart_kernel::{Event, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};

use crate::answer::Answerer;
use crate::cgroup::{RunCgroup, Target};
use crate::control::{Control, Judged};
use crate::follow::Following;
use crate::forward::Forwarder;
use crate::late::LateSubjects;
use crate::leavers::{Leavers, Left, is_taken_back};
use crate::listeners::{Listeners, near};
use crate::orphan::described;
use crate::process;
use crate::state::{RunDir, RunFile};
use crate::terminal::Terminal;
use crate::watch::{Due, Watch};
use crate::{Notice, Refused};

/// Well within the three seconds after which the kernel takes the supervisor for dead.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How much of the record a dead machine may cost.
pub(crate) const CHECKPOINT: Duration = Duration::from_secs(5);
/// A second SIGTERM within this time means it.
const IMPATIENCE: Duration = Duration::from_secs(10);
/// A second SIGTERM sooner than this is the same one: timeout(1) and others signal the process and then
/// its group.
const ECHO: Duration = Duration::from_millis(500);
/// Kinds of refusal that are told live. Beyond it the summary has to do.
const TOLD_MAX: usize = 10_000;

/// How long one turn of the loop may go through events: a flood of them must not hold up signals and the
/// heartbeat.
pub(crate) const TURN: Duration = Duration::from_millis(50);
/// How many events are read at once.
const EVENTS: usize = 1024;
/// How long the end of a run may go through what is left of a flood.
const LAST_TURNS: Duration = Duration::from_secs(2);
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

/// The part of it that is about what is guarded, whether a command or what was there before.
pub(crate) struct Supervision<'a, 'p> {
    pub(crate) session: Option<&'a mut Session>,
    pub(crate) place: Place<'a>,
    pub(crate) dir: Option<&'a RunDir>,
    pub(crate) answerer: Option<&'a Answerer>,
    pub(crate) forwarder: Option<&'a Forwarder>,
    pub(crate) follow: Option<&'a mut Following>,
    pub(crate) judged: &'a mut Judged<'p>,
    pub(crate) control: Option<&'a Control>,
    pub(crate) file: &'a mut RunFile,
    pub(crate) beside: &'a mut Beside,
    pub(crate) notice: &'a mut dyn FnMut(Notice),
    pub(crate) told: Told,
    /// The programs are taken off.
    pub(crate) detached: bool,
    /// Some unix socket was reached for since the last look at them.
    pub(crate) contacts: bool,
    /// Ports of loopback that were reached for, and by whom.
    pub(crate) near: Vec<(String, u32)>,
    /// Events that were read and not gone through.
    pub(crate) pending: VecDeque<Event>,
}

/// Where what is guarded is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a cgroup made for it; none if there could not be one.
    Made(Option<&'a RunCgroup>),
    /// In somebody else's, out of which and into which nobody is moved.
    Given(&'a Target),
}

impl Place<'_> {
    /// Is this process there?
    fn contains(self, pid: u32) -> bool {
        match self {
            Self::Made(cgroup) => cgroup.is_some_and(|cgroup| cgroup.contains(pid)),
            Self::Given(target) => target.contains(pid),
        }
    }
}

/// What is known beside the kernel's record, to be put into its rows as they are read.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    late: LateSubjects,
    leavers: Leavers,
    listeners: Listeners,
}

impl Beside {
    /// Put what is known into a row.
    pub(crate) fn complete(&mut self, row: &mut Row) {
        self.late.complete(row);
        self.leavers.complete(row);
        self.listeners.complete(row);
    }

    /// What is known of a row that is another row.
    pub(crate) fn beside(&self, row: &Row) -> Option<Row> {
        self.listeners.beside(row)
    }
}

/// What the live lines have told already.
#[derive(Debug, Default)]
pub(crate) struct Told {
    refusals: BTreeSet<(String, String, RuleId, Verdict)>,
    warnings: BTreeSet<&'static str>,
    /// Who left, and whether it was moved back.
    leavers: BTreeSet<(String, bool)>,
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

impl Supervision<'_, '_> {
    /// Whoever asks for a change of this run.
    pub(crate) fn hear(&mut self) {
        let Some(control) = self.control else { return };
        control.serve(|policy, source| {
            let session = self.session.as_deref_mut();
            self.judged
                .reload(session, self.dir, self.file, policy, source)
        });
    }

    /// Wait for something to happen, here or to one of `others`; true if it happened to the last of these.
    pub(crate) fn wait(&self, others: &[BorrowedFd<'_>], at_most: Duration) -> bool {
        let mut fds: Vec<_> = others
            .iter()
            .map(|other| PollFd::new(other, PollFlags::IN))
            .collect();
        let followed = self.follow.as_ref().map(|follow| follow.fds());
        for fd in followed.iter().flatten() {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        let control = self.control.map(Control::fd);
        if let Some(control) = &control {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        let lookups = self.forwarder.map(Forwarder::fd);
        if let Some(lookups) = &lookups {
            fds.push(PollFd::new(lookups, PollFlags::IN));
        }
        let events = self.session.as_ref().map(|session| session.events_fd());
        if let Some(events) = &events {
            fds.push(PollFd::new(events, PollFlags::IN));
        }
        // At least a millisecond, rounded up: a timeout of zero would spin until the moment has come.
        let at_most = if self.pending.is_empty() {
            at_most.max(Duration::from_millis(1))
        } else {
            Duration::ZERO
        };
        let timeout = Timespec::try_from(at_most).unwrap_or(Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        });
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => fds[..others.len()]
                .last()
                .is_some_and(|last| last.revents().contains(PollFlags::IN)),
            // A stop and continue interrupts; what there is to see will be seen next time.
            Err(_) => false,
        }
    }

    /// Do nothing for `step` but what somebody waits for.
    pub(crate) fn rest(&mut self, step: Duration) {
        let until = Instant::now() + step;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(forwarder) = self.forwarder else {
                return std::thread::sleep(left);
            };
            if left.is_zero() {
                return;
            }
            let lookups = forwarder.fd();
            let timeout = Timespec::try_from(left).ok();
            let _ = poll(
                &mut [PollFd::new(&lookups, PollFlags::IN)],
                timeout.as_ref(),
            );
            self.hear_lookups();
        }
    }

    pub(crate) fn beat(&mut self) {
        if let Some(session) = &self.session
            && let Err(error) = session.heartbeat()
        {
            tracing::debug!(%error, "heartbeat");
        }
    }

    /// The record so far, for whoever has to tell the end of this run in our place.
    pub(crate) fn checkpoint(&mut self) {
        self.keep_followed();
        let (Some(session), Some(dir)) = (&self.session, self.dir) else {
            return;
        };
        let beside = &mut *self.beside;
        let written = dir.write_record(|each| {
            let mut completed = |mut row| {
                beside.complete(&mut row);
                each(&row);
                if let Some(row) = beside.beside(&row) {
                    each(&row);
                }
            };
            session.read(&mut completed).map_err(io::Error::other)
        });
        if let Err(error) = written
            && self.told.warnings.insert("checkpoint")
        {
            (self.notice)(Notice::Warning(format!(
                "the record of this run cannot be kept on disk meanwhile: {error}"
            )));
        }
    }

    /// What the kernel has to tell, for one turn. More is read only when that is gone through: what does not
    /// fit into the ring meanwhile is counted there, and missing in the live view only. False if there was nothing.
    pub(crate) fn take_events(&mut self) -> bool {
        let until = Instant::now() + TURN;
        if self.pending.is_empty()
            && let Some(session) = &mut self.session
        {
            let pending = &mut self.pending;
            if let Err(error) = session.drain_events(EVENTS, &mut |event| pending.push_back(event))
            {
                tracing::debug!(%error, "events");
            }
        }
        let any = !self.pending.is_empty();
        while let Some(event) = self.pending.pop_front() {
            self.event(event);
            if Instant::now() >= until {
                break;
            }
        }
        if std::mem::take(&mut self.contacts) || !self.near.is_empty() {
            self.look_behind();
        }
        any
    }

    /// The same at the end of the run, for all that is left.
    pub(crate) fn last_events(&mut self) {
        let until = Instant::now() + LAST_TURNS;
        while self.take_events() && Instant::now() < until {}
    }

    /// Take the programs off.
    pub(crate) fn detach(&mut self) -> Result<(), String> {
        self.detached = true;
        match &mut self.session {
            Some(session) => session.detach().map_err(|error| described(&error)),
            None => Ok(()),
        }
    }

    pub(crate) fn tell_warning(&mut self, text: String) {
        (self.notice)(Notice::Warning(text));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Attempt {
                subject,
                tgid,
                name,
                address,
                port,
                protocol,
                verdict,
                rule,
            } => {
                if let Some(place) = near(address, port, protocol, verdict)
                    && self.beside.listeners.wants(&place)
                {
                    self.near.push((place, tgid));
                }
                if !is_refusal(verdict) {
                    return;
                }
                let name = self
                    .session
                    .as_ref()
                    .filter(|_| name != 0)
                    .and_then(|session| session.name(name));
                let host = name.unwrap_or_else(|| address.to_string());
                let destination = match (port, host.contains(':')) {
                    (0, _) => host,
                    (port, false) => format!("{host}:{port}"),
                    (port, true) => format!("[{host}]:{port}"),
                };
                self.tell(subject, tgid, destination, verdict, rule);
            }
            Event::Lookup {
                subject,
                tgid,
                name,
                verdict,
                rule,
                answer,
                ..
            } => {
                if let (Some(answerer), Some(wanted)) = (self.answerer, answer) {
                    answerer.answer(wanted, rule_text(self.judged.policy.as_deref(), rule));
                }
                self.tell(subject, tgid, name, verdict, rule);
            }
            Event::Socket {
                subject,
                tgid,
                kind,
                verdict,
                rule,
            } => self.tell(subject, tgid, kind.to_string(), verdict, rule),
            Event::Contact => self.contacts = true,
            Event::Left {
                subject,
                tgid,
                cgroup,
            } => self.left(Left {
                subject,
                tgid,
                cgroup,
            }),
        }
    }

    /// Somebody was not found the last time.
    pub(crate) fn look_behind_again(&mut self) {
        if self.beside.listeners.wants_another_look() {
            self.look_behind();
        }
    }

    /// Unix sockets were reached for: tell what was refused, and find out who listens while it does.
    fn look_behind(&mut self) {
        let Some(session) = &self.session else { return };
        let mut rows = Vec::new();
        let read = session.contacts(&mut |row| {
            let tgid = session.subject(row.subject).map_or(0, |it| it.tgid);
            rows.push((row, tgid));
        });
        if let Err(error) = read {
            tracing::debug!(%error, "unix sockets");
        }
        let mut places = std::mem::take(&mut self.near);
        places.extend(rows.iter().map(|(row, tgid)| (row.path.clone(), *tgid)));
        let place = self.place;
        self.beside
            .listeners
            .look(&places, |pid| place.contains(pid));
        for (row, tgid) in rows {
            // Refused always and on purpose, so that lookups take the way that is seen.
            if row.rule != RULE_RESOLVER_SOCKET {
                let destination = format!("unix:{}", row.path);
                self.tell(row.subject, tgid, destination, row.verdict, row.rule);
            }
        }
    }

    /// A process left the run's cgroup. Where something is refused it is moved back, if it may be (`is_taken_back`).
    fn left(&mut self, left: Left) {
        let Some(session) = &self.session else { return };
        let made = match self.place {
            Place::Made(Some(cgroup)) => Some(cgroup),
            Place::Made(None) => return,
            Place::Given(_) => None,
        };
        // After the run's end processes are moved out on purpose.
        if self.detached {
            return;
        }
        let taken = made.filter(|cgroup| {
            // It may have gone on meanwhile; one whose place is not to be seen went where the record says.
            let (path, id) = cgroup
                .place_of(left.tgid)
                .unwrap_or((PathBuf::new(), left.cgroup));
            let is_to_be = |own| is_taken_back(id, own, &path);
            self.judged.enforcing && cgroup.whereabouts().id.is_some_and(is_to_be)
        });
        // By the kernel's books: what has ended, or has come to be another process, has no place in them.
        let ours = |pid| process::numbered_as_recorded() && session.process(pid).is_some();
        let outcome = taken.map(|cgroup| cgroup.take_back(left.tgid, ours));
        let returned = matches!(outcome, Some(Ok(())));
        if let Some(Err(error)) = &outcome {
            tracing::info!(%error, ?left, "not moved back");
            if !ours(left.tgid) {
                // It has ended meanwhile, and the record tells that it left.
                return;
            }
        }
        self.beside.leavers.was(left, returned);
        let who = self.who(left.subject);
        if self.told.leavers.len() < TOLD_MAX && self.told.leavers.insert((who.clone(), returned)) {
            let fate = match outcome {
                Some(Ok(())) => "and was moved back".to_owned(),
                Some(Err(error)) => format!("and cannot be moved back ({error}): it is not judged"),
                None if self.judged.enforcing && made.is_some() => {
                    "for one that was made for it, and is not judged there".to_owned()
                }
                None => "and is not seen from here on".to_owned(),
            };
            self.tell_warning(format!(
                "{who} (pid {}) left the run's cgroup {fate}",
                left.tgid
            ));
        }
    }

    /// What a subject is called.
    fn who(&self, subject: SubjectId) -> String {
        let image = self
            .session
            .as_ref()
            .and_then(|session| session.subject(subject));
        image.map_or_else(
            || "a process".to_owned(),
            |row| image_name(&row.exe, &self.file.redaction.of(&row.argv)).to_owned(),
        )
    }

    /// One line for each new kind of refusal.
    pub(crate) fn tell(
        &mut self,
        subject: SubjectId,
        tgid: u32,
        destination: String,
        verdict: Verdict,
        rule: RuleId,
    ) {
        if !is_refusal(verdict) || self.told.refusals.len() >= TOLD_MAX {
            return;
        }
        let image = self
            .session
            .as_ref()
            .and_then(|session| session.subject(subject));
        let redaction = &self.file.redaction;
        let (exe, argv) = image.map_or((None, Vec::new()), |row| {
            (Some(row.exe), redaction.of(&row.argv))
        });
        let who = image_name(exe.as_deref().unwrap_or_default(), &argv).to_owned();
        if self
            .told
            .refusals
            .insert((who, destination.clone(), rule, verdict))
        {
            let written = self
                .judged
                .policy
                .as_deref()
                .and_then(|policy| policy.rule(rule));
            (self.notice)(Notice::Refused(Refused {
                pid: tgid,
                exe,
                argv,
                destination,
                verdict,
                rule: rule_text(self.judged.policy.as_deref(), rule),
                place: written.map(RulePlace::of),
                reason: written.and_then(|rule| rule.reason.as_deref().map(str::to_owned)),
                fix: written.and_then(|rule| rule.fix.as_deref().map(str::to_owned)),
            }));
        }
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

fn is_refusal(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Deny | Verdict::WouldDeny)
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
