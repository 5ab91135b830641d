//! A unit that a rule of the agent's has guarded: what `attach` does, with programs that were loaded and have shown that they
//! judge before it was known which unit would start. Between its start and its guard lie a few milliseconds, then.

use std::time::{Duration, Instant, SystemTime};

use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::Settings;

use crate::cgroup::Target;
use crate::control::Judged;
use crate::follow::unseen;
use crate::hidden::{self, unix_rules};
use crate::orphan::described;
use crate::plan::{Need, plan};
use crate::refusal::{Cause, Refusal};
use crate::run::spare::Spare;
use crate::run::{Setup, terms_of};
use crate::story::wall_ns;
use crate::{Ended, Notice, Request, found};

use super::watch::{Asker, Pace};

/// Programs that are attached within this time are there before the first process of a unit has come and gone.
const PROMPT: Duration = Duration::from_millis(20);

/// Who speaks to a guard, and who hears of it.
pub(crate) struct Ears<'a> {
    /// May ask for something.
    pub(crate) asker: &'a mut dyn Asker,
    /// Hears that it has begun: its id, and how many processes there are.
    pub(crate) began: &'a mut dyn FnMut(&str, usize),
    /// Hears what happens meanwhile.
    pub(crate) notice: &'a mut dyn FnMut(Notice),
}

/// Guard a unit whose cgroup is `target`, until that is gone or somebody asks for the end; the run, and what came of it, or
/// nothing if it was left as it is. Where the unit has started just now, `since` says when that was noticed.
pub(crate) fn guard(
    request: &Request,
    target: Target,
    spare: Spare,
    since: Option<Instant>,
    ears: Ears<'_>,
) -> Result<(String, Option<Ended>), Refusal> {
    let Ears {
        asker,
        began,
        notice,
    } = ears;
    let mut setup = match begun(request, target) {
        Ok(setup) => setup,
        Err(refusal) => {
            spare.discard();
            return Err(refusal);
        }
    };
    let prepared = match setup.prepare_from(spare, since, asker, notice) {
        Ok(None) => Ok(()),
        // It has no room for this policy: as in any watch.
        Ok(Some(spare)) => {
            spare.discard();
            let target = setup.target.take();
            setup.undo();
            let Some(target) = target else {
                return Err(nothing("its cgroup is not held".to_owned()));
            };
            setup = begun(request, target)?;
            let prepared = setup.prepare(notice);
            setup.note_missed(since);
            prepared
        }
        Err(refusal) => Err(refusal),
    };
    match prepared.and_then(|()| setup.is_attached(notice)) {
        Ok(()) => {
            let id = setup.file.id.clone();
            let processes = setup.target.as_ref().and_then(|target| target.pids().ok());
            began(&id, processes.map_or(0, |pids| pids.len()));
            Ok((id, setup.watch_over(asker, Pace::OF_MANY, None, notice)))
        }
        Err(refusal) => {
            setup.undo();
            Err(refusal)
        }
    }
}

fn begun(request: &Request, target: Target) -> Result<Box<Setup<'_>>, Refusal> {
    let (mode, terms) = terms_of(request)?;
    let mut setup = Setup::new(request, mode, terms);
    setup.by_rule = true;
    setup.is_about(target);
    Ok(setup)
}

fn nothing(why: String) -> Refusal {
    Refusal {
        cause: Cause::Unmet(Need::Bpf),
        what: "nothing can be attached".to_owned(),
        why,
        remedy: "`blackstart doctor`, as root, says what is missing".to_owned(),
    }
}

impl Setup<'_> {
    /// Everything up to the guard, with what was made ahead; that comes back if this policy does not fit into it.
    fn prepare_from(
        &mut self,
        spare: Spare,
        since: Option<Instant>,
        asker: &mut dyn Asker,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<Option<Spare>, Refusal> {
        let mut spare = Some(spare);
        let prepared = self.prepare_with_spare(&mut spare, since, asker, notice);
        match (prepared, spare) {
            (Ok(()), spare) => Ok(spare),
            (Err(refusal), spare) => {
                spare.into_iter().for_each(Spare::discard);
                Err(refusal)
            }
        }
    }

    fn prepare_with_spare(
        &mut self,
        spare: &mut Option<Spare>,
        since: Option<Instant>,
        asker: &mut dyn Asker,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Refusal> {
        let (Some(ahead), Some(target)) = (spare.as_ref(), &self.target) else {
            return Err(nothing("nothing was made ahead".to_owned()));
        };
        let host = ahead.host().clone();
        let mut resolving = Self::seen_from(target, &mut self.views)?;
        let tables = self.tables(&resolving)?;
        let wanted = plan(&host, tables.uses(), &mut self.terms)?;
        if wanted.is_empty() {
            return Err(nothing(self.terms.first_gap()));
        }
        if let Some(policy) = self.policy {
            unix_rules(policy, &wanted, &hidden::none(policy), &mut self.terms)?;
            if !policy.follow.is_empty() {
                let why = "what is attached to starts no units: none is followed";
                self.terms.note(Need::Follow, why, 0);
            }
        }
        self.shorten_hosts(&mut resolving.hosts, &tables)?;
        self.file.knows(&resolving);
        let settings = Settings {
            one_of_many: true,
            ..self.settings(&tables, &resolving)
        };
        if let Some(ahead) = spare.take() {
            *spare = self.take(ahead, &wanted, &settings);
        }
        if spare.is_some() {
            return Ok(());
        }
        self.keep_policy()?;
        self.leave_unlimited();
        self.tell_left_out()?;
        self.close_families()?;
        // Before anything is attached: whoever finds what is left of it is to take it off, whoever lives there.
        self.write_run();
        // Nobody is in the cgroup of our own, so that this holds from the first attempt on. What can wait comes later: the unit
        // does not.
        self.raise_mode()?;
        self.starts = since.is_some();
        let mut moved = self.move_to_target(&tables);
        let mut since = since;
        // Of a unit that restarts faster than it is guarded, the next start counts.
        while moved.is_err()
            && self.is_gone()
            && let Some(next) = asker.another()
        {
            self.note_unguarded();
            since = Some(Instant::now());
            self.takes(next);
            moved = self.turn_by(&tables);
        }
        moved?;
        self.note_missed(since);
        self.begin_to_answer()?;
        self.meet_connections(&tables, &resolving);
        self.forward(tables)?;
        self.listeners = None;
        for gap in self.terms.gaps() {
            notice(Notice::Gap(gap.clone()));
        }
        Ok(())
    }

    /// What it had time for before programs were attached to it, if it started just now.
    fn note_missed(&mut self, since: Option<Instant>) {
        let (Some(target), Some(since)) = (&self.target, since) else {
            return;
        };
        let took = since.elapsed();
        let ran = unseen(&target.pids().unwrap_or_default());
        // Somebody may have come and gone meanwhile.
        let Some(missed) = ran.or(Some(took).filter(|took| *took > PROMPT)) else {
            return;
        };
        let unit = &target.typed;
        let millis = missed.as_millis().max(1);
        let detail = format!(
            "{unit} had run for up to {millis} ms before programs were attached to it: what it did by then was not seen"
        );
        self.terms.note(Need::Start, detail, 0);
    }

    fn is_gone(&self) -> bool {
        !self.target.as_ref().is_some_and(Target::exists)
    }

    /// It came and went.
    fn note_unguarded(&mut self) {
        let Some(target) = &self.target else { return };
        let detail = format!(
            "{} had started and ended again before programs could be attached to it",
            target.typed
        );
        self.terms.note(Need::Start, detail, 0);
    }

    /// This one is meant from here on. That is on record before anything is attached to it.
    fn takes(&mut self, target: Target) {
        if let Some(to) = &mut self.file.attached {
            (to.id, to.told.restarts) = (target.id(), to.told.restarts + 1);
        }
        self.target = Some(target);
        self.write_run();
    }

    /// On to the cgroup that was made in the place of one that is gone; false if that is there and not guarded.
    pub(super) fn go_on_with(
        &mut self,
        target: Target,
        judged: &Judged<'_>,
        notice: &mut dyn FnMut(Notice),
    ) -> bool {
        let since = Instant::now();
        self.takes(target);
        // By what judges now: it may have been reloaded.
        let search = judged.search.clone();
        let policy = judged.policy.as_deref().cloned().unwrap_or_default();
        let turned = match compile(&policy, &Facts { search }) {
            Ok(mut tables) => {
                tables.end_leases();
                self.turn_by(&tables)
            }
            Err(error) => Err(nothing(error.to_string())),
        };
        match turned {
            Ok(()) => self.note_missed(Some(since)),
            // The next start counts.
            Err(_) if self.is_gone() => self.note_unguarded(),
            Err(refusal) => {
                let detail = format!("this guard cannot go on: {refusal}");
                notice(Notice::Warning(detail.clone()));
                self.terms.note(Need::Start, detail, 0);
                return false;
            }
        }
        true
    }

    fn turn_by(&mut self, tables: &Tables) -> Result<(), Refusal> {
        let (Some(session), Some(target)) = (&mut self.session, &self.target) else {
            return Err(nothing("its programs are gone".to_owned()));
        };
        let _ = session.heartbeat();
        let moved = session.move_to(target.fd()).and_then(|()| {
            let pids = target.pids().unwrap_or_default();
            let found = session.found(tables, &found::processes(&pids))?;
            session.guard(target.fd())?;
            session.pin_moved()?;
            Ok(found)
        });
        self.found = moved.map_err(|error| nothing(described(&error)))?;
        if let Some(to) = &mut self.file.attached {
            to.links = session.links();
        }
        if self.file.started_ns == 0 {
            self.file.started_ns = wall_ns(SystemTime::now());
        }
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        Ok(())
    }
}
