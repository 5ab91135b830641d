//! What a run has on the host while it is on, by which it is found if its supervisor dies: its directory, its cgroup, its pins.

use std::fs;
use std::io;
use std::path::Path;

use blackstart_kernel::support::Support;

use super::{PATIENCE, Setup};
use crate::cgroup::{Controller, RunCgroup};
use crate::pins;
use crate::plan::Need;
use crate::refusal::Refusal;
use crate::state::{RunDir, SPARE, StateDir, is_of_the_disk};
use crate::stray::{self, About};

impl Setup<'_> {
    /// The state directory, and its lock.
    pub(super) fn open_state(&mut self) -> Result<Option<fs::File>, Refusal> {
        let path = &self.request.state_dir;
        let opened = StateDir::open(path).and_then(|state| match state.lock(PATIENCE) {
            Err(error) if is_of_the_disk(&error) => Err(error),
            locked => Ok((state, locked)),
        });
        match opened {
            Ok((state, locked)) => {
                self.state = Some(state);
                locked.map(Some).or_else(|error| {
                    tracing::warn!(%error, "another command holds the state directory; going on beside it");
                    Ok(None)
                })
            }
            Err(error) if self.displace(&error) => Ok(self.locked.take()),
            Err(error) => {
                self.terms.lack(
                    Need::State,
                    format!("{} cannot be used: {error}", path.display()),
                )?;
                Ok(None)
            }
        }
    }

    /// Keep the state elsewhere from here on, if that helps: a disk that is full must not hold up an emergency fix, nor
    /// leave it without a guard that outlives its supervisor. Once.
    fn displace(&mut self, error: &io::Error) -> bool {
        let path = &self.request.state_dir;
        if self.displaced.is_some() || !is_of_the_disk(error) || path == Path::new(SPARE) {
            return false;
        }
        let opened = StateDir::open(Path::new(SPARE)).and_then(|state| {
            let locked = state.lock(PATIENCE)?;
            Ok((state, locked))
        });
        match opened {
            Ok((state, locked)) => {
                self.state = Some(state);
                self.locked = Some(locked);
                self.displaced = Some(format!("{} cannot be used: {error}", path.display()));
                true
            }
            Err(other) => {
                tracing::warn!(%other, "{SPARE} cannot be used either");
                false
            }
        }
    }

    pub(super) fn begin_dir(&mut self) -> Result<(), Refusal> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        match self.begun(state) {
            Ok(dir) => {
                self.dir = Some(dir);
                Ok(())
            }
            Err(error) => {
                let why = format!("{} cannot be used: {error}", state.path().display());
                if self.displace(&error) {
                    return self.begin_dir();
                }
                self.terms.lack(Need::State, why)
            }
        }
    }

    /// The run's directory with what is known of it by now; none, if not all of that could be kept.
    fn begun(&self, state: &StateDir) -> io::Result<RunDir> {
        let dir = state.begin(&self.file.id)?;
        let kept = match &self.request.policy {
            Some(given) => dir.write_policy(&given.policy),
            None => Ok(()),
        };
        match kept.and_then(|()| dir.write_run(&self.file)) {
            Ok(()) => Ok(dir),
            Err(error) => {
                let _ = dir.discard();
                Err(error)
            }
        }
    }

    pub(super) fn make_cgroup(&mut self, host: &Support) -> Result<(), Refusal> {
        let id = self.file.id.clone();
        // One in which the programs only show that they judge is no unit.
        let systemd = host.systemd == Some(true) && self.target.is_none() && !self.by_rule;
        let controllers = match self.target {
            Some(_) => Vec::new(),
            None => Controller::needed(&self.limits()),
        };
        let (file, dir) = (&mut self.file, self.dir.as_ref());
        let mut unwritten = None;
        let mut made = RunCgroup::create(&id, systemd, &controllers, &mut |cgroup| {
            file.cgroup = Some(cgroup.clone());
            let written = dir.map_or(Ok(()), |dir| dir.write_run(file));
            written.map_err(|error| {
                let again = error.kind().into();
                unwritten = Some(error);
                again
            })
        });
        if let Some(error) = unwritten {
            self.discard_dir();
            if self.displace(&error) {
                self.begin_dir()?;
                return self.make_cgroup(host);
            }
            // A sweep would take the guard off a run whose cgroup is not on record: no record, no pins.
            self.without_state(&error.to_string())?;
            let file = &mut self.file;
            made = RunCgroup::create(&id, systemd, &controllers, &mut |cgroup| {
                file.cgroup = Some(cgroup.clone());
                Ok(())
            });
        }
        match made {
            Ok(cgroup) => {
                self.file.cgroup = Some(cgroup.whereabouts().clone());
                let about = About::of(&self.file, self.dir.as_ref().map(RunDir::path));
                if let Err(error) = about.say_of_cgroup(cgroup.fd()) {
                    tracing::debug!(%error, "nothing is said of the cgroup");
                }
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

    fn discard_dir(&mut self) {
        if let Some(dir) = self.dir.take()
            && let Err(error) = dir.discard()
        {
            tracing::warn!(%error, "the run's directory stays");
        }
    }

    /// Go on as if the state directory could not be used at all.
    fn without_state(&mut self, why: &str) -> Result<(), Refusal> {
        let path = self.request.state_dir.display();
        self.terms
            .lack(Need::State, format!("{path} cannot be used: {why}"))
    }

    pub(super) fn make_pins(&mut self) -> Result<(), Refusal> {
        let made = match &self.dir {
            Some(dir) => pins::create(&self.file.id, dir.path()),
            None => Err(io::Error::other(
                "there is no state directory to find them by",
            )),
        };
        match made {
            Ok(pins) => {
                // What lies in the run's directory itself goes with it, and is held by nobody.
                let in_sight = self
                    .dir
                    .as_mut()
                    .filter(|dir| !pins.starts_with(dir.path()));
                if let Some(dir) = in_sight {
                    let mut about = About::of(&self.file, Some(dir.path()));
                    if self.target.is_some() {
                        about.cgroup = None;
                    }
                    // A sweep then leaves them alone, should their state be lost.
                    match stray::hold(&pins) {
                        Ok(held) => dir.hold(held),
                        Err(error) => tracing::debug!(%error, "the pins cannot be held"),
                    }
                    if let Err(error) = about.say_of_pins(&pins) {
                        tracing::debug!(%error, "nothing is said of the pins");
                    }
                }
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
}
