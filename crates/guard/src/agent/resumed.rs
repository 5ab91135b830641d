//! A run that was taken up, supervised again by what is pinned: what the programs tell is heard and told on, denied lookups
//! get their final answers, and lookups over TCP are read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::agent::End;
use blackstart_core::name::Name;
use blackstart_core::policy::Policy;
use blackstart_core::report::Gap;
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::Session;

use super::take_up::{Hearing, Said, WORD};
use super::wire::Link;
use crate::Notice;
use crate::answer::Answerer;
use crate::cgroup::{Found, RunCgroup};
use crate::control::Judged;
use crate::forward::{Forwarder, Listeners};
use crate::orphan::described;
use crate::pins;
use crate::plan::Need;
use crate::run::hosted::{HEARTBEAT, tell};
use crate::state::{RunDir, RunFile};
use crate::stray;
use crate::supervise::{Beside, CHECKPOINT, Place, SinceCheckpoint, Supervision, Told};

/// A run's programs, and who works for them.
pub(super) struct Resumed {
    session: Session,
    cgroup: Box<RunCgroup>,
    answerer: Answerer,
    forwarder: Option<Forwarder>,
    policy: Option<Policy>,
    tables: Option<Tables>,
    search: Vec<Name>,
}

impl Resumed {
    /// Take it over, and put on record for how long nobody had it; or why that cannot be: it is guarded all the same.
    pub(super) fn of(dir: &mut RunDir, run: &mut RunFile) -> Result<Self, String> {
        let failed = |error: io::Error| error.to_string();
        let place = run.cgroup.as_ref().ok_or("it has no cgroup")?;
        let Found::Here(cgroup) = RunCgroup::find(place).map_err(failed)? else {
            return Err("its cgroup is not here".to_owned());
        };
        let pins = pins::existing(&run.id, dir.path());
        let pins = pins.first().ok_or("nothing is pinned")?;
        let policy = dir.read_policy().map_err(failed)?;
        let rules = policy.as_ref().map_or(0, |policy| policy.rules.len());
        let rules = u32::try_from(rules).unwrap_or(u32::MAX);
        let session = Session::resume(pins, &run.kernel.features, rules)
            .map_err(|error| described(&error))?;
        let answerer = Answerer::default();
        let search = run.search.iter();
        let search: Vec<Name> = search
            .filter_map(|domain| Name::parse(domain).ok())
            .collect();
        let reading = reads_lookups(&session, run, policy.as_ref(), &search);
        let (forwarder, tables) = match reading {
            Ok(reading) => reading.map_or((None, None), |(one, other)| (Some(one), Some(other))),
            Err(why) => {
                tracing::info!(why, run = run.id, "lookups over TCP are not read any more");
                (None, None)
            }
        };
        if let Some(last) = dir.last_sign_of_life()
            && let Ok(gap) = SystemTime::now().duration_since(last)
        {
            run.unsupervised_seconds += gap.as_secs_f64();
        }
        dir.write_run(run).map_err(failed)?;
        match stray::hold(pins) {
            Ok(held) => dir.hold(held),
            Err(error) => tracing::debug!(%error, "the pins cannot be held"),
        }
        // From here on lookups are answered, and turned here.
        session.heartbeat().map_err(|error| described(&error))?;
        Ok(Self {
            session,
            cgroup,
            answerer,
            forwarder,
            policy,
            tables,
            search,
        })
    }

    /// Supervise it until its caller says how the command ended, or until nobody is left for a while: none then.
    pub(super) fn until_over(
        mut self,
        dir: &RunDir,
        run: &mut RunFile,
        hears: &Hearing,
    ) -> Option<End> {
        let listener: RefCell<Option<Link>> = RefCell::default();
        let mut notice = |notice: Notice| {
            if let Some(link) = &*listener.borrow() {
                tell(link, notice);
            }
        };
        let mut judged = Judged {
            policy: self.policy.as_ref().map(Cow::Borrowed),
            tables: self.tables.take(),
            first_rule: run.first_rule,
            search: std::mem::take(&mut self.search),
            may_enforce: false,
            broken_glass: false,
            ends_leases: false,
            enforcing: self.session.enforces(),
        };
        let mut beside = Beside::default();
        let mut on = Supervision {
            session: Some(&mut self.session),
            place: Place::Made(Some(&self.cgroup)),
            dir: Some(dir),
            answerer: Some(&self.answerer),
            forwarder: self.forwarder.as_ref(),
            follow: None,
            judged: &mut judged,
            // Its policy stays: what it was judged by so far cannot be told apart any more.
            control: None,
            agent: None,
            file: run,
            beside: &mut beside,
            notice: &mut notice,
            told: Told::default(),
            detached: false,
            contacts: false,
            near: Vec::new(),
            pending: VecDeque::new(),
        };
        let ended = on.until_said(&self.cgroup, hears, &listener);
        on.last_events();
        drop(self.forwarder.take());
        let unwritten = self.session.unwritten();
        if let Some(why) = unwritten.first {
            let why = described(&why);
            let detail = format!("lookups over TCP were judged, but could not be recorded: {why}");
            note(run, Need::DnsOverTcp, detail, unwritten.count);
        }
        let unanswered = self.answerer.finish();
        if unanswered > 0 {
            let detail =
                "denied lookups got no final answer; their askers had to find out by themselves";
            note(run, Need::Answers, detail.to_owned(), unanswered);
        }
        ended
    }
}

fn note(run: &mut RunFile, need: Need, detail: String, count: u64) {
    run.gaps.push(Gap {
        kind: need.kind().to_owned(),
        detail,
        count,
    });
}

/// Read lookups over TCP again, where the programs turn them to; none if they turn none.
fn reads_lookups(
    session: &Session,
    run: &RunFile,
    policy: Option<&Policy>,
    search: &[Name],
) -> Result<Option<(Forwarder, Tables)>, String> {
    let Some(place) = session.forwards_to() else {
        return Ok(None);
    };
    if !run.reloads.is_empty() {
        return Err("its policy was changed".to_owned());
    }
    let listeners = Listeners::again(place.ports()).map_err(|error| error.to_string())?;
    // In another network namespace nobody is turned to them.
    if listeners.place().map_err(|error| error.to_string())? != Some(place) {
        return Err("its forwarder was in another network namespace".to_owned());
    }
    let default = Policy::default();
    let facts = Facts {
        search: search.to_vec(),
    };
    let tables = compile(policy.unwrap_or(&default), &facts).map_err(|error| error.to_string())?;
    let forwarder = Forwarder::new(listeners).map_err(|error| error.to_string())?;
    Ok(Some((forwarder, tables)))
}

impl Supervision<'_, '_> {
    fn until_said(
        &mut self,
        cgroup: &RunCgroup,
        hears: &Hearing,
        listener: &RefCell<Option<Link>>,
    ) -> Option<End> {
        let mut next_beat = Instant::now();
        let mut next_checkpoint = Instant::now() + CHECKPOINT;
        let mut since = SinceCheckpoint::default();
        let mut empty_since: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.beat();
                self.look_behind_again();
                next_beat = now + HEARTBEAT;
                empty_since = match cgroup.populated().unwrap_or(false) {
                    true => None,
                    false => empty_since.or(Some(now)),
                };
                if empty_since.is_some_and(|since| since.elapsed() >= WORD) {
                    return None;
                }
            }
            if now >= next_checkpoint {
                self.checkpoint_if_stirred(&mut since);
                next_checkpoint = Instant::now() + CHECKPOINT;
            }
            let next: Duration = next_beat
                .min(next_checkpoint)
                .saturating_duration_since(Instant::now());
            self.wait(&[hears.fd()], next);
            self.hear_lookups();
            since.stirred |= self.take_events();
            while let Some(said) = hears.next() {
                match said {
                    Said::Ended(end) => return Some(end),
                    Said::Listens(link) => *listener.borrow_mut() = Some(link),
                }
            }
        }
    }
}
