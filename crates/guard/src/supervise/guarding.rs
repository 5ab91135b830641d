//! What is guarded, while it is on: what the kernel tells of it, and who asks for a change.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_core::record::{Counters, DelegateRow, Row, SubjectId, Verdict};
use blackstart_core::report::{RulePlace, image_name, rule_text};
use blackstart_core::tables::{RULE_RESOLVER_SOCKET, RuleId};
use blackstart_kernel::{Event, Session, give_back_memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agent::asking::Ear;
use crate::aliases::{Aliases, Denials};
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
use crate::{Notice, Refused};

/// Kinds of refusal that are told live. Beyond it the summary has to do.
const TOLD_MAX: usize = 10_000;
/// How long one turn of the loop may go through events: a flood of them must not hold up signals and the
/// heartbeat.
pub(crate) const TURN: Duration = Duration::from_millis(50);
/// How many events are read at once.
const EVENTS: usize = 1024;
/// How long the end of a run may go through what is left of a flood.
const LAST_TURNS: Duration = Duration::from_secs(2);

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
    /// Where somebody else guards what is supervised here.
    pub(crate) agent: Option<&'a mut Ear>,
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
    pub(super) fn contains(self, pid: u32) -> bool {
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
    pub(super) listeners: Listeners,
    pub(super) aliases: Aliases,
    /// What the paths of `aliases` are judged by.
    pub(super) denials: Option<Denials>,
}

impl Beside {
    /// Put what is known into a row.
    pub(crate) fn complete(&mut self, row: &mut Row) {
        self.late.complete(row);
        self.leavers.complete(row);
        // Whoever listens is known by the name of its socket.
        self.aliases.complete(row);
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

impl<'a, 'p> Supervision<'a, 'p> {
    /// Of what has no programs, no state and nobody to ask for a change yet: with these it is made by `..`.
    pub(crate) fn new(
        place: Place<'a>,
        judged: &'a mut Judged<'p>,
        file: &'a mut RunFile,
        beside: &'a mut Beside,
        notice: &'a mut dyn FnMut(Notice),
    ) -> Self {
        Self {
            session: None,
            place,
            dir: None,
            answerer: None,
            forwarder: None,
            follow: None,
            judged,
            control: None,
            agent: None,
            file,
            beside,
            notice,
            told: Told::default(),
            detached: false,
            contacts: false,
            near: Vec::new(),
            pending: VecDeque::new(),
        }
    }
}

/// What a supervisor knows of the time since its last checkpoint.
#[derive(Debug)]
pub(crate) struct SinceCheckpoint {
    counted: Option<(Counters, u64)>,
    /// Something was told in the live view, or a checkpoint is wanted whatever was counted.
    pub(crate) stirred: bool,
    /// It has not come to rest since.
    holds: bool,
}

impl Default for SinceCheckpoint {
    fn default() -> Self {
        Self {
            counted: None,
            stirred: true,
            holds: true,
        }
    }
}

impl Supervision<'_, '_> {
    /// Whoever asks for a change of this run.
    pub(crate) fn hear(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.hear(self.notice);
        }
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
        let agent = self.agent.as_deref().and_then(Ear::fd);
        if let Some(agent) = &agent {
            fds.push(PollFd::new(agent, PollFlags::IN));
        }
        let lookups = self.forwarder.into_iter().flat_map(Forwarder::fds);
        fds.extend(lookups.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
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
            let lookups = forwarder.fds();
            let mut lookups: Vec<_> = lookups
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            let timeout = Timespec::try_from(left).ok();
            let _ = poll(&mut lookups, timeout.as_ref());
            self.hear_lookups();
        }
    }

    /// Nothing is attached any more: from here on the programs only run.
    pub(crate) fn settle(&mut self) {
        if let Some(session) = self.session.as_deref_mut() {
            session.settle();
        }
    }

    /// The record so far, if something was counted since the last time: reading every table costs much more than being idle does.
    /// Else only that somebody is here; and once, what is not wanted at rest is given back.
    pub(crate) fn checkpoint_if_stirred(&mut self, since: &mut SinceCheckpoint) {
        let counted = self.session.as_deref().and_then(Session::pulse);
        if since.stirred || counted.is_none() || counted != since.counted {
            *since = SinceCheckpoint {
                counted,
                stirred: false,
                holds: true,
            };
            self.checkpoint();
            return;
        }
        if let Some(Err(error)) = self.dir.map(RunDir::show_life) {
            tracing::debug!(%error, "a sign of life");
        }
        if std::mem::take(&mut since.holds) {
            self.come_to_rest();
        }
    }

    /// It has come to rest: what loading, reading and telling took is not wanted soon.
    fn come_to_rest(&mut self) {
        if let Some(session) = self.session.as_deref_mut() {
            session.look_away();
        }
        self.pending.shrink_to_fit();
        self.near.shrink_to_fit();
        give_back_memory();
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
        self.last_aliases();
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
        if self.looks_behind_again() {
            self.look_behind();
        }
    }

    /// Is that to be done?
    pub(crate) fn looks_behind_again(&self) -> bool {
        self.beside.listeners.wants_another_look() || self.beside.aliases.wants_another_look()
    }

    /// Unix sockets were reached for: tell what was refused, and find out who listens while it does.
    fn look_behind(&mut self) {
        let rows = self.unix_contacts();
        let mut places = std::mem::take(&mut self.near);
        places.extend(rows.iter().map(|(row, tgid)| (row.path.clone(), *tgid)));
        let place = self.place;
        self.beside
            .listeners
            .look(&places, |pid| place.contains(pid));
        self.look_for_aliases(&rows);
        for (row, tgid) in rows {
            // Refused always and on purpose, so that lookups take the way that is seen.
            if row.rule != RULE_RESOLVER_SOCKET {
                let destination = format!("unix:{}", row.path);
                self.tell(row.subject, tgid, destination, row.verdict, row.rule);
            }
        }
    }

    /// The unix sockets that were reached for so far, with the process.
    pub(super) fn unix_contacts(&self) -> Vec<(DelegateRow, u32)> {
        let mut rows = Vec::new();
        let Some(session) = &self.session else {
            return rows;
        };
        let read = session.contacts(&mut |row| {
            let tgid = session.subject(row.subject).map_or(0, |it| it.tgid);
            rows.push((row, tgid));
        });
        if let Err(error) = read {
            tracing::debug!(%error, "unix sockets");
        }
        rows
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
            let argv = redaction.of_subject(&row);
            (Some(row.exe), argv)
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

fn is_refusal(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Deny | Verdict::WouldDeny)
}
