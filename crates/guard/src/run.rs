//! The order of a run.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blackstart_core::name::Name;
use blackstart_core::policy::{Effect, Policy};
use blackstart_core::record::Snapshot;
use blackstart_core::redact::redact;
use blackstart_core::report::{Guarded, Kernel, Leftover, Mode, Usage};
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::spawn::{Child, Command, Signals, SpawnError, spawn, stop_self};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Feature, Session, Settings};
use rustix::process::Signal;

use crate::answer::Answerer;
use crate::cgroup::RunCgroup;
use crate::late::LateSubjects;
use crate::orphan::{described, remove_programs, sweep_locked};
use crate::plan::{FEATURES, Need, Terms, plan, replan};
use crate::refusal::{Cause, Refusal};
use crate::resolv::Resolving;
use crate::state::{CgroupFile, LAYOUT, RunDir, RunFile, StateDir};
use crate::story::{End, tell, wall_ns};
use crate::supervise::{Supervisor, Told};
use crate::terminal::Terminal;
use crate::{AtEnd, Ended, Notice, Request, pins};

/// How long another command may take with its set-up, before this one goes on beside it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long killed leftovers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How often a run that waits for its leftovers looks at them.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Run the command of `request` under guard, and tell `notice` what happens meanwhile.
///
/// In observe mode the command runs whatever of ours fails, and the report says what is missing. In
/// enforce mode, unless accepted, what is missing is a refusal: then nothing ran.
pub fn run(request: &Request, notice: &mut dyn FnMut(Notice)) -> Result<Ended, Refusal> {
    let policy = request.policy.as_ref().map(|given| &given.policy);
    let mode = request
        .mode
        .or(policy.map(|policy| policy.mode))
        .unwrap_or(Mode::Observe);
    let terms = Terms::new(mode == Mode::Enforce, &request.accept_gaps)?;
    // Before any thread is made: threads inherit the block.
    let signals =
        Signals::block().map_err(|error| system("signals cannot be taken over", &error))?;
    let mut setup = Setup::new(request, mode, terms);
    let started = setup.prepare(notice).and_then(|()| setup.start(&signals));
    match started {
        Ok(child) => Ok(setup.see_through(&child, &signals, notice)),
        Err(refusal) => {
            setup.undo();
            Err(refusal)
        }
    }
}

/// Everything of one run, as far as it has come.
struct Setup<'a> {
    request: &'a Request,
    policy: Option<&'a Policy>,
    terms: Terms,
    file: RunFile,
    state: Option<StateDir>,
    dir: Option<RunDir>,
    cgroup: Option<RunCgroup>,
    session: Option<Session>,
    pins: Option<PathBuf>,
    answerer: Option<Answerer>,
}

impl<'a> Setup<'a> {
    fn new(request: &'a Request, mode: Mode, terms: Terms) -> Self {
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
            id: uuid::Uuid::now_v7().to_string(),
            service: request.service.clone().or_else(|| policy?.service.clone()),
            command: redact(&command),
            host: text(uname.nodename()),
            mode,
            policy: request.policy.as_ref().map(|given| given.source.clone()),
            started_ns: 0,
            kernel: Kernel {
                release: text(uname.release()),
                features: Vec::new(),
            },
            guarded: Guarded::No,
            known_addresses: Vec::new(),
            gaps: Vec::new(),
            cgroup: None,
            pins: None,
            kept: false,
            exit_code: None,
        };
        Self {
            request,
            policy,
            terms,
            file,
            state: None,
            dir: None,
            cgroup: None,
            session: None,
            pins: None,
            answerer: None,
        }
    }

    /// Everything that has to be there before the command starts.
    fn prepare(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), Refusal> {
        let host = Support::for_run();
        let locked = self.open_state()?;
        if let (Some(state), Some(_)) = (&self.state, &locked) {
            match sweep_locked(state) {
                Ok(swept) => self.refuse_beside_orphans(&swept.living)?,
                Err(error) => notice(Notice::Warning(format!(
                    "runs without a supervisor cannot be looked for: {error}"
                ))),
            }
        }
        let wanted = plan(&host, &mut self.terms)?;
        let resolving = Resolving::read();
        let tables = self.tables(&resolving)?;
        self.file.known_addresses = resolving
            .servers
            .iter()
            .chain(&resolving.own)
            .copied()
            .collect();
        self.begin_dir()?;
        if !wanted.is_empty() {
            self.make_cgroup(&host)?;
        }
        if self.cgroup.is_some() {
            self.make_pins()?;
            // Others may begin: what follows takes time, and is found by its name if this one dies.
            drop(locked);
            let settings = Settings {
                tables: &tables,
                resolvers: &resolving.servers,
                own_addresses: &resolving.own,
                hosts: &resolving.hosts,
            };
            self.load(&host, &wanted, &settings)?;
            self.arm()?;
        }
        for gap in self.terms.gaps() {
            notice(Notice::Gap(gap.clone()));
        }
        Ok(())
    }

    /// The state directory, and its lock.
    fn open_state(&mut self) -> Result<Option<fs::File>, Refusal> {
        let path = &self.request.state_dir;
        match StateDir::open(path) {
            Ok(state) => {
                let locked = state.lock(PATIENCE);
                self.state = Some(state);
                locked.map(Some).or_else(|error| {
                    tracing::warn!(%error, "another command holds the state directory; going on beside it");
                    Ok(None)
                })
            }
            Err(error) => {
                self.terms.lack(
                    Need::State,
                    format!("{} cannot be used: {error}", path.display()),
                )?;
                Ok(None)
            }
        }
    }

    fn refuse_beside_orphans(&self, living: &[crate::Living]) -> Result<(), Refusal> {
        let Some(service) = self
            .file
            .service
            .as_ref()
            .filter(|_| !self.request.concurrent)
        else {
            return Ok(());
        };
        match living
            .iter()
            .find(|orphan| orphan.service.as_ref() == Some(service))
        {
            None => Ok(()),
            Some(orphan) => Err(Refusal {
                cause: Cause::Orphan,
                what: format!("an earlier run of {service} still goes on without its supervisor"),
                why: format!("run {} has processes left", orphan.id),
                remedy: "end them, or run beside them with --concurrent".to_owned(),
            }),
        }
    }

    fn tables(&self, resolving: &Resolving) -> Result<Tables, Refusal> {
        let search = resolving
            .search
            .iter()
            .filter_map(|domain| Name::parse(domain).ok())
            .collect();
        let default = Policy::default();
        compile(self.policy.unwrap_or(&default), &Facts { search }).map_err(|error| Refusal {
            cause: Cause::Request,
            what: "the policy cannot be compiled".to_owned(),
            why: error.to_string(),
            remedy: String::new(),
        })
    }

    fn begin_dir(&mut self) -> Result<(), Refusal> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let begun = state.begin(&self.file.id).and_then(|dir| {
            if let Some(given) = &self.request.policy {
                dir.write_policy(&given.text)?;
            }
            dir.write_run(&self.file)?;
            Ok(dir)
        });
        match begun {
            Ok(dir) => self.dir = Some(dir),
            Err(error) => self.terms.lack(
                Need::State,
                format!("{} cannot be used: {error}", state.path().display()),
            )?,
        }
        Ok(())
    }

    fn make_cgroup(&mut self, host: &Support) -> Result<(), Refusal> {
        let id = self.file.id.clone();
        let (file, dir) = (&mut self.file, self.dir.as_ref());
        let mut announce = |path: &Path, home: &Path| {
            file.cgroup = Some(CgroupFile {
                path: path.to_owned(),
                id: None,
                home: home.to_owned(),
            });
            if let Some(Err(error)) = dir.map(|dir| dir.write_run(file)) {
                tracing::warn!(%error, "the cgroup of this run is not on record");
            }
        };
        match RunCgroup::create(&id, host.systemd == Some(true), &mut announce) {
            Ok(cgroup) => {
                self.file.cgroup = Some(CgroupFile {
                    path: cgroup.relative().to_owned(),
                    id: Some(cgroup.id()),
                    home: cgroup.home().to_owned(),
                });
                self.cgroup = Some(cgroup);
                Ok(())
            }
            Err(error) => {
                self.terms
                    .nothing_left(&format!("a cgroup cannot be made: {error}"))?;
                self.terms
                    .lack(Need::Cgroup, format!("a cgroup cannot be made: {error}"))
            }
        }
    }

    fn make_pins(&mut self) -> Result<(), Refusal> {
        let made = match &self.dir {
            Some(dir) => pins::create(&self.file.id, dir.path()),
            None => Err(io::Error::other(
                "there is no state directory to find them by",
            )),
        };
        match made {
            Ok(pins) => {
                self.file.pins = Some(pins.clone());
                self.pins = Some(pins);
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::Pins,
                format!("guarding ends with the supervisor: {error}"),
            ),
        }
    }

    /// Load and attach as much of `wanted` as this kernel takes.
    fn load(
        &mut self,
        host: &Support,
        wanted: &BTreeSet<Feature>,
        settings: &Settings<'_>,
    ) -> Result<(), Refusal> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(());
        };
        let attempt = |features: &BTreeSet<Feature>| {
            let mut session = Session::load(features, settings)?;
            session.attach(cgroup.fd())?;
            Ok::<_, blackstart_kernel::Error>(session)
        };
        let mut loaded = wanted.clone();
        let mut missing = Vec::new();
        let mut session = match attempt(wanted) {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::warn!(
                    error = described(&error),
                    "not all programs can be loaded; finding out which"
                );
                loaded.clear();
                None
            }
        };
        if session.is_none() {
            // Slow, and seldom: a kernel that lacks what its probes promised.
            for feature in FEATURES
                .into_iter()
                .filter(|feature| wanted.contains(feature))
            {
                let mut more = loaded.clone();
                more.insert(feature);
                match attempt(&more) {
                    Ok(better) => {
                        session = Some(better);
                        loaded = more;
                    }
                    Err(error) => missing.push((feature, described(&error))),
                }
            }
            replan(host, &loaded, &missing, &mut self.terms)?;
        }
        if let Some(session) = &session {
            self.file.kernel.features = session.features();
            self.file.guarded = if loaded.len() == FEATURES.len() {
                Guarded::Yes
            } else {
                Guarded::Partly
            };
        }
        self.session = session;
        Ok(())
    }

    /// Pin, prove, raise the mode, and begin to answer.
    fn arm(&mut self) -> Result<(), Refusal> {
        let (Some(session), Some(cgroup)) = (&mut self.session, &self.cgroup) else {
            return Ok(());
        };
        if let Some(pins) = &self.pins
            && let Err(error) = session.pin(pins)
        {
            self.terms.lack(
                Need::Pins,
                format!("guarding ends with the supervisor: {}", described(&error)),
            )?;
        }
        if let Err(error) = session.self_probe(cgroup.fd()) {
            self.terms.lack(Need::SelfProbe, described(&error))?;
            self.file.guarded = Guarded::Partly;
        }
        if let Err(error) = session.set_mode(self.file.mode) {
            // Nothing was refused up to here, and nothing would be from here on.
            self.terms.nothing_left(&described(&error))?;
            self.terms.lack(Need::SelfProbe, described(&error))?;
        }
        match Answerer::start() {
            Ok(answerer) => {
                self.answerer = Some(answerer);
                if let Err(error) = session.heartbeat() {
                    self.terms.lack(Need::Answers, described(&error))?;
                }
            }
            Err(error) => self
                .terms
                .lack(Need::Answers, format!("no thread for them: {error}"))?,
        }
        Ok(())
    }

    /// Start the command.
    fn start(&mut self, signals: &Signals) -> Result<Child, Refusal> {
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
        self.file.started_ns = wall_ns(SystemTime::now());
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        let mut command = Command {
            argv: &self.request.command,
            env: &self.request.env,
            cgroup: self.cgroup.as_ref().map(RunCgroup::fd),
            signals: signals.found(),
        };
        let mut started = spawn(&command);
        if let (Err(SpawnError::Process(error)), true) = (&started, self.cgroup.is_some()) {
            let why = format!("the command cannot be started in its cgroup: {error}");
            self.terms.nothing_left(&why)?;
            self.terms.lack(Need::Cgroup, why)?;
            self.file.guarded = Guarded::No;
            self.file.gaps = self.terms.gaps().to_vec();
            command.cgroup = None;
            started = spawn(&command);
        }
        let child = started.map_err(|error| not_started(&error))?;
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.inhabited();
        }
        Ok(child)
    }

    /// From the command's start to the report.
    fn see_through(
        mut self,
        child: &Child,
        signals: &Signals,
        notice: &mut dyn FnMut(Notice),
    ) -> Ended {
        let terminal = Terminal::open();
        let mut late = LateSubjects::default();
        let mut supervisor = Supervisor {
            child,
            signals,
            terminal: &terminal,
            session: self.session.as_mut(),
            cgroup: self.cgroup.as_ref(),
            dir: self.dir.as_ref(),
            answerer: self.answerer.as_ref(),
            policy: self.policy,
            late: &mut late,
            notice: &mut *notice,
            told: Told::default(),
        };
        let ending = supervisor.until_exit();
        terminal.take_back();
        self.file.exit_code = Some(ending.exit_code());

        let at_end = self.request.leftover.unwrap_or_else(|| {
            match self.policy.map(|policy| policy.default) {
                Some(Effect::Deny) => AtEnd::Kill,
                _ => AtEnd::Release,
            }
        });
        let mut leftovers = self
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.survivors().ok())
            .unwrap_or_default();
        match (&self.cgroup, at_end) {
            (Some(cgroup), AtEnd::Wait) => {
                leftovers.clear();
                while cgroup.populated().unwrap_or(false) {
                    if !supervisor.idle(WAIT_STEP) {
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
        supervisor.take_events();
        let ended_ns = wall_ns(SystemTime::now());
        let unanswered = self.answerer.take().map_or(0, |answerer| answerer.finish());
        if unanswered > 0 {
            self.terms.note(
                Need::Answers,
                "denied lookups got no final answer; their askers had to find out by themselves",
                unanswered,
            );
        }

        let mut record = self
            .session
            .as_ref()
            .map_or_else(Snapshot::default, |session| {
                session.snapshot().unwrap_or_else(|error| {
                    self.terms.note(
                        Need::Supervision,
                        format!("the record cannot be read: {}", described(&error)),
                        0,
                    );
                    self.dir
                        .as_ref()
                        .and_then(|dir| dir.read_record().ok())
                        .unwrap_or_default()
                })
            });
        late.complete(&mut record);
        let usage = usage(self.cgroup.as_ref());
        let keep = at_end == AtEnd::Keep
            && !leftovers.is_empty()
            && self.pins.is_some()
            && self.dir.is_some();
        if keep {
            self.file.kept = true;
        } else {
            self.clean_up(&mut leftovers, notice);
        }
        self.file.gaps = self.terms.gaps().to_vec();
        let end = End {
            ended_ns: Some(ended_ns),
            usage,
            leftovers,
            unsupervised_seconds: 0.0,
        };
        let report = tell(&self.file, self.policy, &record, end);
        let record = self.put_away(&report, keep, notice);
        Ended {
            report,
            exit_code: ending.exit_code(),
            record,
        }
    }

    /// Take down the guard; what still lives is the caller's again. `leftovers` gains whoever came since.
    fn clean_up(&mut self, leftovers: &mut Vec<Leftover>, notice: &mut dyn FnMut(Notice)) {
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
                    cgroup.relative().display()
                ),
                0,
            );
        }
    }

    /// The report on disk; where it is.
    fn put_away(
        &mut self,
        report: &blackstart_core::report::Report,
        keep: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> Option<PathBuf> {
        self.write_run();
        let dir = self.dir.take()?;
        let path = dir.report_path();
        let written = dir.write_report(report);
        // While its cgroup or programs remain, the run is not finished: a later command goes on here.
        let left = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.populated().unwrap_or(true))
            || !pins::existing(&self.file.id, dir.path()).is_empty();
        let finished = if keep || left { Ok(()) } else { dir.finish() };
        match written.and(finished) {
            Ok(()) => Some(path),
            Err(error) => {
                notice(Notice::Warning(format!(
                    "the report cannot be kept in {}: {error}",
                    path.display()
                )));
                None
            }
        }
    }

    fn write_run(&self) {
        if let Some(Err(error)) = self.dir.as_ref().map(|dir| dir.write_run(&self.file)) {
            tracing::warn!(%error, "the run's file cannot be written");
        }
    }

    /// Nothing ran, and nothing stays.
    fn undo(mut self) {
        drop(self.answerer.take());
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

/// What the run used, as far as the kernel tells.
pub(crate) fn usage(cgroup: Option<&RunCgroup>) -> Usage {
    let children = || {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        children_seconds(&stat, rustix::param::clock_ticks_per_second())
    };
    match cgroup {
        Some(cgroup) => Usage {
            cpu_seconds: cgroup.cpu_seconds(),
            peak_memory: cgroup.peak_memory(),
        },
        None => Usage {
            cpu_seconds: children(),
            peak_memory: None,
        },
    }
}

/// CPU time of the children that were waited for, out of our own stat.
fn children_seconds(stat: &str, ticks_per_second: u64) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = [13, 14]
        .into_iter()
        .map(|at| fields.get(at)?.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    let millis = ticks.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(Duration::from_millis(millis).as_secs_f64())
}

fn not_started(error: &SpawnError) -> Refusal {
    let (cause, remedy) = match error {
        SpawnError::NotFound { .. } => (Cause::NotFound, "check the name, and PATH"),
        SpawnError::NotExecutable { .. } => (
            Cause::NotExecutable,
            "check that it is a program that you may execute",
        ),
        SpawnError::Process(_) => (Cause::System, ""),
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
mod tests {
    use super::*;

    #[test]
    fn children_time_is_read_from_stat() {
        let stat = "7 (a b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 150 50 20 0 1 0";
        assert_eq!(children_seconds(stat, 100), Some(2.0));
        assert_eq!(children_seconds("7 (a) S 1", 100), None);
    }
}
