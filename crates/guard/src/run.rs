//! The order of a run.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use blackstart_core::name::Name;
use blackstart_core::policy::Policy;
use blackstart_core::report::{DrillFacts, Guarded, Kernel, Mode, RunLimits};
use blackstart_core::tables::Tables;
use blackstart_kernel::spawn::{
    Child, Command, Containment, HiddenSockets, Signals, SocketFilter, SpawnError, spawn, stop_self,
};
use blackstart_kernel::{Session, Settings};
use rustix::process::Signal;

use crate::answer::Answerer;
use crate::cgroup::{RunCgroup, Target};
use crate::control::{Control, Judged};
use crate::follow::Following;
use crate::forward::{Forwarder, Listeners};
use crate::orphan::remove_programs;
use crate::plan::{Need, Terms};
use crate::refusal::{Cause, Refusal};
use crate::resolv::{Resolving, Views};
use crate::state::{LAYOUT, RunDir, RunFile, StateDir, boot};
use crate::story::wall_ns;
use crate::terminal::Terminal;
use crate::{Ended, Notice, Request, pins};

pub(crate) mod attach;
mod finish;
mod footprint;
pub(crate) mod hosted;
mod limits;
mod prepare;
mod programs;
mod seal;
pub(crate) mod spare;

pub(crate) use finish::gates;
pub(crate) use limits::usage;

/// How long another command may take with its set-up, before this one goes on beside it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Run the command of `request` under guard, and tell `notice` what happens meanwhile.
///
/// In observe mode the command runs whatever of ours fails, and the report says what is missing. In
/// enforce mode, unless accepted, what is missing is a refusal: then nothing ran.
pub fn run(request: &Request, notice: &mut dyn FnMut(Notice)) -> Result<Ended, Refusal> {
    let (mode, terms) = terms_of(request)?;
    // Before any thread is made: threads inherit the block.
    let signals =
        Signals::block().map_err(|error| system("signals cannot be taken over", &error))?;
    let mut setup = Setup::new(request, mode, terms);
    // Whose turn it is before the command can have taken it.
    let terminal = Terminal::open();
    let started = setup.prepare(notice).and_then(|()| setup.start(&signals));
    match started {
        Ok(child) => {
            setup.tell_where(notice);
            Ok(setup.see_through(&child, &signals, &terminal, notice))
        }
        Err(refusal) => {
            setup.undo();
            Err(refusal)
        }
    }
}

/// Observe or enforce, and what may be missing for that.
fn terms_of(request: &Request) -> Result<(Mode, Terms), Refusal> {
    let policy = request.policy.as_ref().map(|given| &given.policy);
    let mode = request
        .mode
        .or(policy.map(|policy| policy.mode))
        .unwrap_or(Mode::Observe);
    // A policy that observes may have rules that are enforced; broken glass refuses nothing.
    let enforces = mode == Mode::Enforce || policy.is_some_and(Policy::enforces);
    let mut terms = Terms::new(
        enforces && request.break_glass.is_none(),
        &request.accept_gaps,
    )?;
    if request.hide_sockets && request.break_glass.is_none() {
        terms.hide();
    }
    Ok((mode, terms))
}

/// Everything of one run, as far as it has come.
struct Setup<'a> {
    request: &'a Request,
    policy: Option<&'a Policy>,
    terms: Terms,
    file: RunFile,
    state: Option<StateDir>,
    /// Why its state is not where it should be.
    displaced: Option<String>,
    /// The common lock of where it is instead, until others may begin.
    locked: Option<fs::File>,
    dir: Option<RunDir>,
    cgroup: Option<RunCgroup>,
    /// Somebody else's, to be guarded in the place of a command.
    target: Option<Target>,
    /// Of what was open there before, end what is refused.
    cut: bool,
    /// Its processes.
    found: attach::FoundSubjects,
    /// What they see.
    views: Option<Views>,
    session: Option<Session>,
    pins: Option<PathBuf>,
    answerer: Option<Answerer>,
    /// Until there is a forwarder.
    listeners: Option<Listeners>,
    forwarder: Option<Forwarder>,
    /// What the policy was compiled to, if user space judges by it as well.
    tables: Option<Tables>,
    filter: Option<SocketFilter>,
    containment: Option<Containment>,
    /// What it is not to reach, and what of that could be covered.
    hidden: Option<HiddenSockets>,
    /// Nothing that a command of somebody without root starts gains privileges.
    confined: bool,
    /// It is made ahead, for a policy that is not known yet.
    reserve: bool,
    /// It is, or will be, about a unit that a rule of the agent's has guarded, and nobody looks on.
    by_rule: bool,
    /// It is about a unit that starts just now.
    starts: bool,
    control: Option<Control>,
    /// The search list of the run's resolv.conf.
    search: Vec<Name>,
    /// Units that are to be observed when they start.
    follow: Option<Following>,
}

impl<'a> Setup<'a> {
    /// In memory of its own: it is handed from step to step, and each has room for it on the stack otherwise, as long as the run lasts.
    fn new(request: &'a Request, mode: Mode, terms: Terms) -> Box<Self> {
        let policy = request.policy.as_ref().map(|given| &given.policy);
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let command: Vec<_> = request
            .command
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        let file = RunFile {
            layout: LAYOUT,
            id: request.id.clone().unwrap_or_else(crate::new_id),
            service: request.service.clone().or_else(|| policy?.service.clone()),
            command: request.redaction.of(&command),
            redaction: request.redaction.clone(),
            host: text(uname.nodename()),
            mode,
            policy: request
                .policy
                .as_ref()
                .map(|given| given.source.clone())
                .filter(|source| !source.files.is_empty()),
            started_ns: 0,
            kernel: Kernel {
                release: text(uname.release()),
                features: Vec::new(),
            },
            guarded: Guarded::No,
            known_addresses: Vec::new(),
            own_addresses: Vec::new(),
            closed_families: false,
            contained: false,
            resolvers: Vec::new(),
            search: Vec::new(),
            gaps: Vec::new(),
            limits: RunLimits::default(),
            // Unknown, it is nobody's boot: such a run is left alone while its cgroup cannot be looked at.
            boot: boot().unwrap_or_default(),
            cgroup: None,
            pins: None,
            kept: false,
            exit_code: None,
            origin: request.origin.clone(),
            reloads: Vec::new(),
            first_rule: 0,
            break_glass: request.break_glass.clone(),
            drill: request
                .drill
                .clone()
                .map(|drill| DrillFacts { drill, usual: None }),
            attached: None,
            followed: Vec::new(),
            unfollowed: Vec::new(),
            caller: None,
            at_end: None,
            wall_seconds: None,
            unsupervised_seconds: 0.0,
            marks_ends: true,
        };
        Box::new(Self {
            request,
            policy,
            terms,
            file,
            state: None,
            displaced: None,
            locked: None,
            dir: None,
            cgroup: None,
            target: None,
            cut: false,
            found: attach::FoundSubjects::new(),
            views: None,
            session: None,
            pins: None,
            answerer: None,
            listeners: None,
            forwarder: None,
            tables: None,
            filter: None,
            containment: None,
            hidden: None,
            confined: false,
            reserve: false,
            by_rule: false,
            starts: false,
            control: None,
            search: Vec::new(),
            follow: None,
        })
    }

    /// Start the command.
    fn start(&mut self, signals: &Signals) -> Result<Child, Refusal> {
        interrupted(signals)?;
        self.file.started_ns = wall_ns(SystemTime::now());
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        let mut limited = true;
        let mut started = self.spawn(signals, limited);
        if let Err(SpawnError::Join(error)) = &started {
            let why = format!("the command cannot join the cgroup that limits it: {error}");
            self.lift_refused_limits(&why)?;
            self.file.gaps = self.terms.gaps().to_vec();
            limited = false;
            started = self.spawn(signals, limited);
        }
        if let Err(SpawnError::Contain { what, source }) = &started {
            let why = format!("the command cannot be contained: failed to {what}: {source}");
            self.go_uncontained(why)?;
            started = self.spawn(signals, limited);
        }
        if let Err(SpawnError::Hide(error)) = &started {
            self.hide_nothing(format!("sockets cannot be put out of its reach: {error}"))?;
            started = self.spawn(signals, limited);
        }
        if let Err(SpawnError::Filter(error)) = &started {
            // Whoever accepts that has no filter.
            let why = format!("packet and vsock sockets cannot be refused: {error}");
            self.terms.lack(Need::Families, why)?;
        }
        if let (Err(SpawnError::Process(error)), true) = (&started, self.cgroup.is_some()) {
            let why = format!("the command cannot be started in its cgroup: {error}");
            self.terms.nothing_left(&why)?;
            self.terms.lack(Need::Cgroup, why)?;
            self.file.guarded = Guarded::No;
            self.file.gaps = self.terms.gaps().to_vec();
            let command = Command {
                argv: &self.request.command,
                env: &self.request.env,
                cgroup: None,
                joins: &[],
                filter: self.filter.as_ref(),
                contain: self.containment.as_ref(),
                hide: self.hidden.as_ref(),
                no_new_privileges: false,
                signals: signals.found(),
            };
            started = spawn(&command);
        }
        let child = started.map_err(|error| not_started(&error))?;
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.inhabited();
        }
        Ok(child)
    }

    /// In its cgroup, and with `limited` in those of hierarchies of the first version too.
    fn spawn(&self, signals: &Signals, limited: bool) -> Result<Child, SpawnError> {
        let joins = self.cgroup.as_ref().filter(|_| limited);
        spawn(&Command {
            argv: &self.request.command,
            env: &self.request.env,
            cgroup: self.cgroup.as_ref().map(RunCgroup::fd),
            joins: &joins.map(RunCgroup::joins).unwrap_or_default(),
            filter: self.filter.as_ref(),
            contain: self.containment.as_ref(),
            hide: self.hidden.as_ref(),
            no_new_privileges: false,
            signals: signals.found(),
        })
    }

    /// What its programs are filled with.
    fn settings<'s>(&self, tables: &'s Tables, resolving: &'s Resolving) -> Settings<'s> {
        Settings {
            tables,
            rules: self.policy.map_or(0, |policy| {
                u32::try_from(policy.rules.len()).unwrap_or(u32::MAX)
            }),
            resolvers: &resolving.servers,
            own_addresses: &resolving.own,
            hosts: &resolving.hosts,
            forwarder: None,
            one_of_many: false,
            tracer: None,
        }
    }

    /// What it is judged by while it goes on.
    fn judged(&mut self) -> Judged<'a> {
        Judged {
            policy: self.policy.map(Cow::Borrowed),
            tables: self.tables.take(),
            first_rule: 0,
            search: std::mem::take(&mut self.search),
            may_enforce: self.terms.may_enforce(),
            broken_glass: self.file.break_glass.is_some(),
            ends_leases: false,
            enforcing: self.terms.enforcing(),
        }
    }

    /// Where its checkpoints are, if anywhere.
    fn tell_where(&self, notice: &mut dyn FnMut(Notice)) {
        if let Some(dir) = &self.dir {
            notice(Notice::Under(dir.path().to_owned()));
        }
    }

    fn write_run(&self) {
        if let Some(Err(error)) = self.dir.as_ref().map(|dir| dir.write_run(&self.file)) {
            tracing::warn!(%error, "the run's file cannot be written");
        }
    }

    /// Nothing ran, and nothing stays.
    fn undo(mut self: Box<Self>) {
        drop(self.follow.take());
        drop(self.answerer.take());
        drop(self.forwarder.take());
        let _locked = self
            .state
            .as_ref()
            .and_then(|state| state.lock(PATIENCE).ok());
        if let Err(error) = remove_programs(self.session.take(), self.pins.as_deref()) {
            tracing::warn!(error, "undo");
        }
        if let Some(mut cgroup) = self.cgroup.take() {
            cgroup.inhabited();
            if let Err(error) = cgroup.remove() {
                tracing::warn!(%error, "undo");
            }
        }
        if let Some(dir) = self.dir.take() {
            pins::tidy(dir.path());
            if let Err(error) = dir.discard() {
                tracing::warn!(%error, "undo");
            }
        }
    }
}

/// Did somebody say that nothing is to start?
pub(crate) fn interrupted(signals: &Signals) -> Result<(), Refusal> {
    // Whoever pressed ^C by now did not want it to start.
    while let Some(received) = signals.next() {
        match Signal::from_named_raw(received.signal) {
            Some(Signal::INT | Signal::QUIT | Signal::TERM | Signal::HUP) => {
                return Err(Refusal {
                    cause: Cause::Signal(received.signal),
                    what: "interrupted before the command started".to_owned(),
                    why: format!("signal {}", received.signal),
                    remedy: String::new(),
                });
            }
            Some(Signal::TSTP) => {
                let _ = stop_self(received.signal);
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is known of a run before anything of it is there.
pub(crate) fn run_file(request: &Request, mode: Mode, terms: Terms) -> RunFile {
    Setup::new(request, mode, terms).file
}

pub(crate) fn not_started(error: &SpawnError) -> Refusal {
    let (cause, remedy) = match error {
        SpawnError::NotFound { .. } => (Cause::NotFound, "check the name, and PATH"),
        SpawnError::NotExecutable { .. } => (
            Cause::NotExecutable,
            "check that it is a program that you may execute",
        ),
        SpawnError::Join(_)
        | SpawnError::Filter(_)
        | SpawnError::Contain { .. }
        | SpawnError::Hide(_)
        | SpawnError::Process(_) => (Cause::System, ""),
    };
    let why = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    Refusal {
        cause,
        what: error.to_string(),
        why,
        remedy: remedy.to_owned(),
    }
}

fn system(what: &str, error: &io::Error) -> Refusal {
    Refusal {
        cause: Cause::System,
        what: what.to_owned(),
        why: error.to_string(),
        remedy: String::new(),
    }
}

#[cfg(test)]
mod tests;
