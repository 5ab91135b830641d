//! From the moment in which programs are attached to somebody else's cgroup to the report.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::name::Name;
use blackstart_core::report::{LimitFacts, Until, Usage};
use blackstart_kernel::Known;
use blackstart_kernel::spawn::{Signals, stop_self};
use rustix::process::Signal;

use crate::cgroup::Target;
use crate::control::Judged;
use crate::orphan::described;
use crate::resolv::{Resolving, Views};
use crate::run::Setup;
use crate::story::{End, wall_ns};
use crate::supervise::{Beside, CHECKPOINT, HEARTBEAT, Place, SinceCheckpoint, Supervision, Told};
use crate::{Ended, Notice, process};

use super::{LOOK_AGAIN, READ_MOST};

/// Who may ask a watch for something.
pub(crate) trait Asker {
    /// Readable when something was asked for.
    fn fd(&self) -> BorrowedFd<'_>;
    /// What that is.
    fn asked(&mut self) -> Option<Asked>;
    /// The cgroup is gone: is the watch to go on with another one? May take its time.
    fn another(&mut self) -> Option<Target>;
}

/// What is asked for.
pub(crate) enum Asked {
    /// The end.
    End,
    /// To leave everything where it is: another process will see to it.
    Leave,
    /// To go on with this one, in the place of one that is gone.
    GoOn(Target),
}

/// How often things are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Whether the cgroup is still there.
    beat: Duration,
    /// What its processes' resolv.conf says: at first, and in the end.
    look: (Duration, Duration),
    /// What is written again and again is left out while nothing happens.
    spares: bool,
}

impl Pace {
    /// Of one watch that has a process for itself.
    pub(super) const ALONE: Self = Self {
        beat: HEARTBEAT,
        look: (LOOK_AGAIN, LOOK_AGAIN),
        spares: false,
    };
    /// Of one among hundreds. A unit that starts is soon looked at again, since it gets its own /etc only while it does.
    pub(super) const OF_MANY: Self = Self {
        beat: Duration::from_secs(1),
        look: (LOOK_AGAIN, Duration::from_secs(16)),
        spares: true,
    };
}

/// Whoever sends this process a signal.
pub(super) struct Signalled<'a>(pub(super) &'a Signals);

impl Asker for Signalled<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    fn asked(&mut self) -> Option<Asked> {
        while let Some(received) = self.0.next() {
            match Signal::from_named_raw(received.signal) {
                // Who started us had reasons for what is ignored, and TERM is there for the end.
                Some(Signal::INT | Signal::QUIT | Signal::HUP)
                    if process::ignores(received.signal) => {}
                Some(Signal::INT | Signal::QUIT | Signal::TERM | Signal::HUP) => {
                    return Some(Asked::End);
                }
                Some(Signal::TSTP) => {
                    let _ = stop_self(received.signal);
                }
                _ => {}
            }
        }
        None
    }

    fn another(&mut self) -> Option<Target> {
        None
    }
}

/// Why a look at one cgroup ended.
enum Over {
    Until(Until),
    Left,
    GoOn(Target),
}

impl Setup<'_> {
    /// From there to the report; none if it is left to somebody else.
    pub(super) fn watch_over(
        mut self: Box<Self>,
        asker: &mut dyn Asker,
        pace: Pace,
        time: Option<Duration>,
        notice: &mut dyn FnMut(Notice),
    ) -> Option<Ended> {
        let began = Instant::now();
        let end = time.and_then(|time| began.checked_add(time));
        let mut beside = Beside::default();
        let mut views = self.views.take();
        let mut judged = Judged {
            ends_leases: true,
            ..self.judged()
        };
        let mut told = Told::default();
        let mut holds = true;
        let until = loop {
            let place = match &self.target {
                Some(target) => Place::Given(target),
                None => Place::Made(None),
            };
            let mut on = Supervision {
                session: self.session.as_mut(),
                dir: self.dir.as_ref(),
                answerer: self.answerer.as_ref(),
                forwarder: self.forwarder.as_ref(),
                control: self.control.as_ref(),
                told: std::mem::take(&mut told),
                ..Supervision::new(
                    place,
                    &mut judged,
                    &mut self.file,
                    &mut beside,
                    &mut *notice,
                )
            };
            let over = match self.target.as_ref().filter(|_| holds) {
                Some(target) => on.until_over(target, views.as_mut(), asker, pace, end),
                None => Over::Until(Until::Gone),
            };
            let next = match over {
                Over::GoOn(target) => Ok(target),
                Over::Until(Until::Gone) if holds => asker.another().ok_or(Until::Gone),
                Over::Until(until) => Err(until),
                // Without pins it would end with this process, and nothing of it be told.
                Over::Left if on.dir.is_none() || self.pins.is_none() => Err(Until::Asked),
                Over::Left => {
                    on.last_events();
                    on.checkpoint();
                    self.is_left();
                    return None;
                }
            };
            match next {
                Ok(target) => {
                    // Of who was in the one that is gone.
                    on.last_events();
                    told = std::mem::take(&mut on.told);
                    holds = self.go_on_with(target, &judged, notice);
                }
                Err(until) => {
                    if let Err(error) = on.detach() {
                        on.tell_warning(format!("programs could not be detached: {error}"));
                    }
                    on.last_events();
                    break until;
                }
            }
        };
        if let Some(to) = &mut self.file.attached {
            to.told.until = Some(until);
        }
        let (record, ended_ns) = self.take_record(&mut beside);
        let usage = Usage {
            wall_seconds: Some(began.elapsed().as_secs_f64()),
            ..Usage::default()
        };
        self.file.wall_seconds = usage.wall_seconds;
        self.clean_up(&mut Vec::new(), notice);
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            limits: LimitFacts::default(),
            leftovers: Vec::new(),
            unsupervised_seconds: 0.0,
        };
        Some(self.conclude(judged, record, end, (0, None), false, notice))
    }

    /// The programs stay on, and what they record is told by who takes them off.
    fn is_left(&mut self) {
        self.file.gaps = self.terms.gaps().to_vec();
        if let Some(to) = &mut self.file.attached {
            to.told.until = Some(Until::Replaced);
            to.left_ns = Some(wall_ns(SystemTime::now()));
        }
        self.write_run();
    }
}

impl Supervision<'_, '_> {
    /// Until somebody asks for something, or the time is over, or the cgroup is gone.
    fn until_over(
        &mut self,
        target: &Target,
        mut views: Option<&mut Views>,
        asker: &mut dyn Asker,
        pace: Pace,
        end: Option<Instant>,
    ) -> Over {
        // One that goes from start to start attaches again.
        let attached = self.file.attached.as_ref();
        if attached.is_none_or(|to| to.told.restarts == 0) {
            self.settle();
        }
        let mut next_beat = Instant::now();
        let mut next_checkpoint = Instant::now() + CHECKPOINT;
        let (mut look, longest_look) = pace.look;
        let mut next_look = Instant::now() + look;
        let mut since = SinceCheckpoint::default();
        let mut known = Resolving {
            servers: self.file.resolvers.clone(),
            search: self.file.search.clone(),
            own: self.file.own_addresses.clone(),
            hosts: Vec::new(),
        };
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.beat();
                if !target.exists() {
                    return Over::Until(Until::Gone);
                }
                self.look_behind_again();
                if let Some(views) = views.as_deref_mut() {
                    self.look_again(views, &mut known);
                }
                next_beat = now + pace.beat;
            }
            if now >= next_checkpoint {
                since.stirred |= !pace.spares;
                self.checkpoint_if_stirred(&mut since);
                next_checkpoint = Instant::now() + CHECKPOINT;
            }
            if now >= next_look {
                // With nobody there, nobody sees it otherwise than before.
                let pids = target.pids().unwrap_or_default();
                if let Some(views) = views.as_deref_mut().filter(|_| !pids.is_empty()) {
                    views.look(pids);
                }
                look = longest_look.min(look * 2);
                next_look = Instant::now() + look;
            }
            if end.is_some_and(|end| now >= end) {
                return Over::Until(Until::Time);
            }
            let next = next_beat.min(next_checkpoint);
            let next = end.map_or(next, |end| end.min(next));
            self.wait(
                &[asker.fd()],
                next.saturating_duration_since(Instant::now()),
            );
            self.hear_lookups();
            since.stirred |= self.take_events();
            self.hear();
            match asker.asked() {
                Some(Asked::End) => return Over::Until(Until::Asked),
                Some(Asked::Leave) => return Over::Left,
                Some(Asked::GoOn(target)) => return Over::GoOn(target),
                None => {}
            }
        }
    }

    /// Other name servers, or other addresses of its own, than before?
    fn look_again(&mut self, views: &mut Views, known: &mut Resolving) {
        if views.is_late(READ_MOST) {
            self.tell_warning(
                "resolv.conf cannot be read: the programs go by what it said before".to_owned(),
            );
        }
        let Some(mut now) = views.seen() else { return };
        now.hosts = Vec::new();
        if now == *known {
            return;
        }
        if let Some(session) = self.session.as_deref_mut() {
            let rows = |of: &'_ Resolving| (of.servers.clone(), of.own.clone());
            let (before, after) = (rows(known), rows(&now));
            let told = session.know(
                Known {
                    resolvers: &before.0,
                    own_addresses: &before.1,
                },
                Known {
                    resolvers: &after.0,
                    own_addresses: &after.1,
                },
            );
            if let Err(error) = told {
                let why = described(&error);
                self.tell_warning(format!(
                    "resolv.conf has changed, and the programs go by what it said before: {why}"
                ));
            }
        }
        if now.search != known.search {
            let search = now
                .search
                .iter()
                .filter_map(|domain| Name::parse(domain).ok());
            self.judged.search = search.collect();
            let denies = blackstart_core::policy::Effect::Deny;
            if self
                .judged
                .policy
                .as_ref()
                .is_some_and(|policy| policy.default == denies)
            {
                self.tell_warning(
                    "the search list of resolv.conf has changed; `blackstart reload` judges by it"
                        .to_owned(),
                );
            }
        }
        // What was known once was no stranger then.
        let earlier = std::mem::take(&mut self.file.known_addresses);
        self.file.knows(&now);
        for address in earlier {
            if !self.file.known_addresses.contains(&address) {
                self.file.known_addresses.push(address);
            }
        }
        if let Some(dir) = self.dir
            && let Err(error) = dir.write_run(self.file)
        {
            tracing::warn!(%error, "the run's file cannot be written");
        }
        *known = now;
    }
}
