//! A run whose command is somebody else's child: the agent guards it, and its caller starts it, waits for it and has its
//! terminal.
//!
//! Nothing is done here with the caller's rights, and nothing is started. What the agent does for the caller is what needs
//! root: the cgroup, the programs, the record. Why so: docs/decisions/0026-agent.md.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::agent::{End as Ending, Word, read_packet};
use blackstart_core::policy::{Effect, Policy};
use blackstart_core::report::exit_code::GATED;
use blackstart_core::report::{Leftover, LimitFacts};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Settings, Tracer};

use super::finish::{GRACE, empties};
use super::spare::Spare;
use super::{PATIENCE, Setup, gates, terms_of, usage};
use crate::agent::caller::Caller;
use crate::agent::hearts::Hearts;
use crate::agent::reply::{Judging, Reply};
use crate::agent::wire::{Link, sealed};
use crate::cgroup::Controller;
use crate::forward::Listeners;
use crate::orphan::sweep_locked;
use crate::plan::{Need, Terms, plan};
use crate::refusal::{Cause, Refusal};
use crate::resolv::Resolving;
use crate::story::{End, tell as tell_of, wall_ns};
use crate::supervise::{Beside, CHECKPOINT, Place, SinceCheckpoint, Supervision};
use crate::{AtEnd, Notice, Request};

/// Well within the three seconds after which the kernel takes the supervisor for dead, and seldom enough for hundreds of guards.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a caller may take from one word to the next before its command runs.
const BEFORE_START: Duration = Duration::from_secs(10);
/// How long killed leftovers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What becomes of a run that was guarded for somebody.
pub(crate) struct Hosted {
    /// Its id.
    pub(crate) id: String,
    /// Where its report is kept, if it could be.
    pub(crate) record: Option<PathBuf>,
    /// Nothing of it goes on.
    pub(crate) finished: bool,
}

/// What all guards of an agent have together.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) tracer: Option<&'a Arc<Tracer>>,
    pub(crate) hearts: Option<&'a Hearts>,
}

/// Guard what `caller` wants guarded, up to its end.
pub(crate) fn host(
    request: &Request,
    caller: &Caller,
    link: &Link,
    spare: Option<Spare>,
    shared: Shared<'_>,
    judging: Box<Judging>,
    began: &mut dyn FnMut(&str, i32),
) -> Result<Hosted, Refusal> {
    let (mode, terms) = match terms_of(request) {
        Ok(both) => both,
        Err(refusal) => {
            spare.into_iter().for_each(Spare::discard);
            return Err(refusal);
        }
    };
    let mut setup = Setup::new(request, mode, terms);
    setup.file.caller = Some(caller.uid);
    let mut notice = |notice: Notice| tell(link, notice);
    let started = setup
        .prepare_for(caller, spare, shared.tracer, &mut notice)
        .and_then(|()| setup.receive(caller, link, &judging));
    // Its caller has it.
    drop(judging);
    match started {
        Ok(pid) => {
            began(&setup.file.id, pid);
            Ok(setup.look_after(link, shared.hearts))
        }
        Err(refusal) => {
            setup.undo();
            Err(refusal)
        }
    }
}

/// A caller that does not read has its live view thinned, and holds nobody up.
pub(crate) fn tell(link: &Link, notice: Notice) {
    if let Some(octets) = Reply::Notice(notice).packet()
        && let Err(error) = link.try_send(&octets)
    {
        tracing::debug!(%error, "a notice");
    }
}

// What a thread needs on its stack for one step is not to lie there as long as the run goes on, hence the functions that are
// not inlined.
impl Setup<'_> {
    /// Everything that has to be there before the command may start.
    #[inline(never)]
    fn prepare_for(
        &mut self,
        caller: &Caller,
        spare: Option<Spare>,
        tracer: Option<&Arc<Tracer>>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Refusal> {
        let mut spare = spare;
        let prepared = self.prepare_with(caller, &mut spare, tracer, notice);
        spare.into_iter().for_each(Spare::discard);
        prepared
    }

    fn prepare_with(
        &mut self,
        caller: &Caller,
        spare: &mut Option<Spare>,
        tracer: Option<&Arc<Tracer>>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Refusal> {
        let host = spare
            .as_ref()
            .map_or_else(Support::for_run, |spare| spare.host().clone());
        let mut resolving = Resolving::of_caller(caller.pid);
        let tables = self.tables(&resolving)?;
        let wanted = plan(&host, tables.uses(), &mut self.terms)?;
        if wanted.is_empty() {
            return Err(self.cannot_guard());
        }
        let locked = self.open_state()?;
        if let (Some(state), true) = (
            &self.state,
            self.file.service.is_some() && !self.request.concurrent,
        ) && locked.is_some()
        {
            match sweep_locked(state) {
                Ok(swept) => self.refuse_beside_orphans(&swept, notice)?,
                Err(error) => notice(Notice::Warning(format!(
                    "runs without a supervisor cannot be looked for: {error}"
                ))),
            }
        }
        if let Some(policy) = self.policy {
            self.hide_sockets(&tables, &wanted)?;
            if !policy.follow.is_empty() {
                // Whoever may not look into a unit is not to learn where it connects to.
                let why = "units are followed for runs of root only, not by way of the agent";
                self.terms.note(Need::Follow, why, 0);
            }
        }
        self.shorten_hosts(&mut resolving.hosts, &tables)?;
        self.file.knows(&resolving);
        let mut settings = Settings {
            one_of_many: true,
            tracer,
            ..self.settings(&tables, &resolving)
        };
        let unlimited = Controller::needed(&self.limits()).is_empty();
        let ahead = spare.take().filter(|_| unlimited);
        let left = match ahead {
            Some(ahead) => self.take(ahead, &wanted, &settings),
            None => None,
        };
        if self.session.is_some() {
            drop(locked);
            self.locked = None;
            self.keep_policy()?;
            self.apply_limits()?;
            self.tell_left_out()?;
            self.confine(caller)?;
            self.raise()?;
        } else {
            *spare = left;
            self.begin_dir()?;
            self.make_cgroup(&host)?;
            self.apply_limits()?;
            self.make_pins()?;
            drop(locked);
            self.locked = None;
            settings.forwarder = self.listen(&resolving.servers)?;
            self.load(&host, &wanted, &settings)?;
            self.tell_left_out()?;
            self.confine(caller)?;
            self.pin_and_prove()?;
            self.raise()?;
        }
        self.forward(tables)?;
        self.listeners = None::<Listeners>;
        if self.session.is_none() || self.cgroup.is_none() {
            return Err(self.cannot_guard());
        }
        if let Some(cgroup) = &mut self.cgroup {
            // Whoever outlives the run is the caller's again.
            cgroup.goes_home_with(caller.pid).map_err(|why| Refusal {
                cause: Cause::Request,
                what: "the agent does not guard this command".to_owned(),
                why,
                remedy: String::new(),
            })?;
            self.file.cgroup = Some(cgroup.whereabouts().clone());
        }
        for gap in self.terms.gaps() {
            notice(Notice::Gap(gap.clone()));
        }
        Ok(())
    }

    fn cannot_guard(&self) -> Refusal {
        Refusal {
            cause: Cause::Unmet(Need::Bpf),
            what: "the agent cannot guard anything here".to_owned(),
            why: self.terms.first_gap(),
            remedy: "`blackstart doctor`, as root, says what is missing".to_owned(),
        }
    }

    /// The directory was there before the policy was.
    pub(super) fn keep_policy(&mut self) -> Result<(), Refusal> {
        let (Some(dir), Some(given)) = (&self.dir, &self.request.policy) else {
            return Ok(());
        };
        dir.write_policy(&given.policy).map_err(|error| Refusal {
            cause: Cause::System,
            what: "the run's policy cannot be kept".to_owned(),
            why: error.to_string(),
            remedy: "see to the agent's state directory".to_owned(),
        })
    }

    /// Where the default refuses, a command of a caller without root gives up every way to privileges, which takes as much
    /// from it as containment does from root: then it can make itself the filter that closes families of sockets.
    fn confine(&mut self, caller: &Caller) -> Result<(), Refusal> {
        let refuses = self.default_refuses();
        let wanted = self.request.contain.unwrap_or(refuses);
        if wanted && caller.uid != 0 {
            self.confined = true;
            self.file.contained = true;
            self.file.closed_families = true;
            return Ok(());
        }
        if wanted {
            let why = "root's privileges cannot be taken from a command by way of the agent";
            self.terms.lack(Need::Contain, why)?;
        }
        if !refuses {
            return Ok(());
        }
        if !self.terms.accepts(Need::Families) {
            let why = "packet and vsock sockets are refused only to commands that give up gaining privileges";
            return self.terms.lack(Need::Families, why);
        }
        if let Some(session) = &mut self.session {
            session.open_families();
        }
        Ok(())
    }

    /// The command's process, into the cgroup.
    #[inline(never)]
    fn receive(&mut self, caller: &Caller, link: &Link, judging: &Judging) -> Result<i32, Refusal> {
        let wrong = |why: String| Refusal {
            cause: Cause::Request,
            what: "the agent does not guard this command".to_owned(),
            why,
            remedy: String::new(),
        };
        let gone = |error: io::Error| wrong(format!("its caller cannot be heard: {error}"));
        self.file.gaps = self.terms.gaps().to_vec();
        self.file.at_end = Some(self.at_end());
        let ready = Reply::Ready {
            run: self.file.id.clone(),
            confine: self.confined,
        };
        let ready = ready
            .packet()
            .ok_or_else(|| wrong("too much was said".to_owned()))?;
        let how = sealed(|out| serde_json::to_writer(out, judging).map_err(io::Error::from))
            .map_err(gone)?;
        link.set_patience(Some(BEFORE_START), Some(BEFORE_START))
            .map_err(gone)?;
        link.send(&ready, &[how.as_fd()]).map_err(gone)?;
        // On disk before anything runs, while the caller makes the process; the moment itself is known a little later.
        self.file.started_ns = wall_ns(SystemTime::now());
        self.write_run();
        let packet = link.receive().map_err(gone)?;
        let mut packet = packet.ok_or_else(|| wrong("its caller has ended".to_owned()))?;
        match (read_packet(&packet.octets), packet.descriptors.len()) {
            (Ok(Word::Child {}), 1) => {}
            (Ok(_), _) => {
                return Err(wrong(
                    "a process with its descriptor was to come".to_owned(),
                ));
            }
            (Err(why), _) => return Err(wrong(why)),
        }
        let Some(pidfd) = packet.descriptors.pop() else {
            return Err(wrong("no process came along".to_owned()));
        };
        let pid = caller.child(pidfd.as_fd(), self.confined).map_err(wrong)?;
        let cgroup = self
            .cgroup
            .as_mut()
            .ok_or_else(|| wrong("there is no cgroup".to_owned()))?;
        cgroup.take_in(pid, pidfd.as_fd()).map_err(wrong)?;
        cgroup.inhabited();
        self.file.started_ns = wall_ns(SystemTime::now());
        let go = Reply::Go {
            cgroup: self.file.cgroup.clone(),
            limits: self.file.limits.clone(),
        };
        let go = go
            .packet()
            .ok_or_else(|| wrong("too much was said".to_owned()))?;
        if let Err(error) = link.send(&go, &[]) {
            // Its process is in there, and ends with it.
            tracing::debug!(%error, "the caller is gone");
        }
        Ok(pid)
    }

    fn at_end(&self) -> AtEnd {
        self.request
            .leftover
            .unwrap_or_else(|| match self.policy.map(|policy| policy.default) {
                Some(Effect::Deny) => AtEnd::Kill,
                _ => AtEnd::Release,
            })
    }

    /// From there to the report.
    #[inline(never)]
    fn look_after(mut self: Box<Self>, link: &Link, hearts: Option<&Hearts>) -> Hosted {
        let began = Instant::now();
        let at_end = self.at_end();
        let mut beside = Beside::default();
        let mut judged = self.judged();
        let mut notice = |notice: Notice| tell(link, notice);
        let mut on = Supervision {
            session: self.session.as_mut(),
            dir: self.dir.as_ref(),
            answerer: self.answerer.as_ref(),
            forwarder: self.forwarder.as_ref(),
            control: self.control.as_ref(),
            ..Supervision::new(
                Place::Made(self.cgroup.as_ref()),
                &mut judged,
                &mut self.file,
                &mut beside,
                &mut notice,
            )
        };
        let ending = on.until_ended(link, hearts);
        let (leftovers, keep) = on.leave(at_end, self.pins.is_some(), &mut self.terms);
        let outcome = Outcome {
            ending,
            leftovers,
            keep,
            took: began.elapsed(),
        };
        self.tell_end(link, judged.policy, &mut beside, outcome)
    }

    /// Its command has ended, and nothing is judged any more.
    #[inline(never)]
    fn tell_end(
        mut self: Box<Self>,
        link: &Link,
        policy: Option<Cow<'_, Policy>>,
        beside: &mut Beside,
        outcome: Outcome,
    ) -> Hosted {
        let Outcome {
            ending,
            mut leftovers,
            keep,
            took,
        } = outcome;
        let (record, ended_ns) = self.take_record(beside);
        let mut limits = LimitFacts::default();
        let highest_pids = match ending {
            Some(Ending {
                exit_code,
                overtime,
                daemons,
                highest_pids,
            }) => {
                limits.overtime = overtime;
                limits.daemons = daemons;
                self.file.exit_code = Some(exit_code);
                highest_pids
            }
            None => {
                let detail = "its caller ended before its command: how that ended is not known";
                self.terms.note(Need::Supervision, detail, 0);
                None
            }
        };
        let (mut usage, memory_hits) = usage(self.cgroup.as_ref(), highest_pids);
        limits.memory_hits = memory_hits;
        usage.wall_seconds = Some(took.as_secs_f64());
        self.file.wall_seconds = usage.wall_seconds;
        if keep {
            self.file.kept = true;
        }
        if self.file.exit_code == Some(0) && gates(policy.as_deref(), &record) {
            self.file.exit_code = Some(GATED);
        }
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            limits,
            leftovers: leftovers.clone(),
            unsupervised_seconds: 0.0,
        };
        let id = self.file.id.clone();
        let mut report = tell_of(&self.file, policy.as_deref(), record, end);
        self.look_further(&mut report, policy.as_deref());
        let exit_code = self.file.exit_code;
        // The caller does not wait for what is done for the host's sake. If this process ends meanwhile, a sweep makes the same
        // report again.
        if exit_code.is_some() {
            hand_over(link, &Reply::Report { exit_code }, &report);
        }
        // Before the tables are gone that it was made of.
        self.keep_already(&report);
        let mut notice = |notice: Notice| tell(link, notice);
        if !keep {
            self.clean_up(&mut leftovers, &mut notice);
        }
        let (record, finished) = self.put_away(&report, keep, &mut notice);
        tracing::debug!(id, ?exit_code, "over");
        Hosted {
            id,
            record,
            finished,
        }
    }
}

/// What is known of a run whose command has ended.
struct Outcome {
    /// As the caller told it, if it did.
    ending: Option<Ending>,
    leftovers: Vec<Leftover>,
    /// These stay under guard.
    keep: bool,
    took: Duration,
}

/// Give the caller the report. If it cannot be given, it is in the history.
pub(crate) fn hand_over(link: &Link, said: &Reply, report: &impl serde::Serialize) {
    let given = sealed(|out| serde_json::to_writer(out, report).map_err(io::Error::from)).and_then(
        |file| {
            let _ = link.set_patience(None, Some(PATIENCE));
            let said = said.packet().unwrap_or_default();
            link.send(&said, &[file.as_fd()])
        },
    );
    if let Err(error) = given {
        tracing::debug!(%error, "the report stays here");
    }
}

impl Supervision<'_, '_> {
    /// See who is left, and take the programs off unless these are to be kept under guard: who, and whether they are.
    #[inline(never)]
    fn leave(&mut self, at_end: AtEnd, pinned: bool, terms: &mut Terms) -> (Vec<Leftover>, bool) {
        let Place::Made(cgroup) = self.place else {
            return (Vec::new(), false);
        };
        let leftovers = cgroup
            .filter(|cgroup| !empties(cgroup, GRACE))
            .and_then(|cgroup| cgroup.survivors().ok())
            .unwrap_or_default();
        if let (Some(cgroup), AtEnd::Kill, false) = (cgroup, at_end, leftovers.is_empty())
            && let Err(error) = cgroup.kill(KILL_PATIENCE)
        {
            let detail = format!("not all leftovers could be ended: {error}");
            terms.note(Need::Leftovers, detail, 0);
        }
        let keep = at_end == AtEnd::Keep && !leftovers.is_empty() && pinned;
        if !keep && let Err(error) = self.detach() {
            self.tell_warning(format!(
                "programs of this run could not be detached: {error}"
            ));
        }
        self.last_events();
        (leftovers, keep)
    }

    /// Until the caller says that its command has ended; or, where that has ended itself, until nobody is left. None then.
    #[inline(never)]
    fn until_ended(&mut self, link: &Link, hearts: Option<&Hearts>) -> Option<Ending> {
        let heart = hearts.zip(self.session.as_deref());
        let heart = heart.map(|(hearts, session)| hearts.add(session.heart()));
        let mut here = true;
        let mut next_beat = Instant::now();
        let mut next_checkpoint = Instant::now() + CHECKPOINT;
        let mut since = SinceCheckpoint::default();
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.beat();
                self.look_behind_again();
                next_beat = now + HEARTBEAT;
                if let (false, Place::Made(Some(cgroup))) = (here, self.place)
                    && !cgroup.populated().unwrap_or(false)
                {
                    return None;
                }
            }
            if now >= next_checkpoint {
                // A short run ends before it has paid for letting go.
                self.settle();
                self.checkpoint_if_stirred(&mut since);
                next_checkpoint = Instant::now() + CHECKPOINT;
            }
            let others = [link.fd()];
            let others = if here { &others[..] } else { &[] };
            let wait =
                |until: Instant| self.wait(others, until.saturating_duration_since(Instant::now()));
            let heard = match &heart {
                // Nothing is to be looked at before it is.
                Some(heart) if here && !self.looks_behind_again() => {
                    heart.while_waiting(|| wait(next_checkpoint))
                }
                _ => wait(next_beat.min(next_checkpoint)),
            };
            self.hear_lookups();
            since.stirred |= self.take_events();
            self.hear();
            if !heard {
                continue;
            }
            match link.try_receive() {
                Ok(Some(packet)) => match read_packet(&packet.octets) {
                    Ok(Word::Ended(end)) => return Some(end),
                    Ok(_) | Err(_) => {
                        tracing::warn!(
                            "a caller said something else than that its command has ended"
                        );
                        here = false;
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) | Err(_) => here = false,
            }
            if !here {
                next_beat = Instant::now();
            }
        }
    }
}
