//! The programs of a run: as many as the kernel takes are loaded, outlive this process, show that they judge, and begin to.

use std::collections::BTreeSet;

use blackstart_core::report::{Guarded, Mode};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Error, ErrorKind, Feature, Orphan, Session, Settings};

use super::Setup;
use crate::answer::Answerer;
use crate::control::Control;
use crate::orphan::described;
use crate::pins;
use crate::plan::{FEATURES, Need, instead, needed, replan};
use crate::refusal::Refusal;

impl Setup<'_> {
    /// Load and attach as much of `wanted` as this kernel takes.
    pub(super) fn load(
        &mut self,
        host: &Support,
        wanted: &BTreeSet<Feature>,
        settings: &Settings<'_>,
    ) -> Result<(), Refusal> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(());
        };
        let reserve = self.reserve;
        let attempt = |features: &BTreeSet<Feature>| {
            let mut session = if reserve {
                Session::spare(features, settings)?
            } else {
                Session::load(features, settings)?
            };
            session.attach(cgroup.fd())?;
            Ok::<_, blackstart_kernel::Error>(session)
        };
        let mut first = attempt(wanted);
        let mut other = wanted.clone();
        while let Err(error) = &first
            && is_of_the_programs(error)
            && let Some(instead) = instead(&other)
        {
            tracing::debug!(error = described(error), "another way to see contacts");
            first = attempt(&instead);
            other = instead;
        }
        let asked = wanted;
        let wanted = &other;
        let (mut session, loaded) = match first {
            Ok(session) => (Some(session), wanted.clone()),
            Err(error) if !is_of_the_programs(&error) => {
                let why = described(&error);
                let missing: Vec<_> = FEATURES
                    .into_iter()
                    .filter(|feature| wanted.contains(feature))
                    .map(|feature| (feature, why.clone()))
                    .collect();
                replan(host, &BTreeSet::new(), &missing, &mut self.terms)?;
                (None, BTreeSet::new())
            }
            Err(error) => {
                let first = described(&error);
                tracing::warn!(
                    error = first,
                    "not all programs can be loaded; finding out which"
                );
                let (session, loaded, missing) = most_of(wanted, first, attempt);
                replan(host, &loaded, &missing, &mut self.terms)?;
                (session, loaded)
            }
        };
        let names = |of: &BTreeSet<Feature>| of.contains(&Feature::SocketNames);
        if session.is_some() && names(asked) && !names(&loaded) {
            self.go_without_names(host, settings.tables, &loaded)?;
        }
        if let Some(session) = &mut session {
            if self.terms.hides() {
                session.hide_sockets();
            }
            // What is not a program's stays.
            self.file.kernel.features.splice(0..0, session.features());
            self.file.guarded =
                if needed(settings.tables.uses()).all(|feature| loaded.contains(&feature)) {
                    Guarded::Yes
                } else {
                    Guarded::Partly
                };
        }
        self.session = session;
        Ok(())
    }

    /// Pin, prove, raise the mode, and begin to answer.
    pub(super) fn arm(&mut self) -> Result<(), Refusal> {
        self.pin_and_prove()?;
        self.raise()
    }

    /// Let the programs outlive this process, and see that they judge.
    pub(super) fn pin_and_prove(&mut self) -> Result<(), Refusal> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if let Some(pins) = &self.pins
            && let Err(error) = session.pin(pins)
        {
            // The host's bpffs may refuse what one of our own does not.
            let again = self.dir.as_ref().map(|dir| {
                Orphan::remove(pins)?;
                let own = pins::create_private(&self.file.id, dir.path()).map_err(|error| {
                    Error::caused(ErrorKind::Io, "mount a bpffs of the run's own", error)
                })?;
                session.pin(&own).map(|()| own)
            });
            match again {
                Some(Ok(own)) => {
                    self.file.pins = Some(own.clone());
                    self.pins = Some(own);
                }
                _ => self.terms.lack(
                    Need::Pins,
                    format!("guarding ends with the supervisor: {}", described(&error)),
                )?,
            }
        }
        // What is somebody else's gets no process of ours: there it was done before.
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = session.self_probe(cgroup.fd())
        {
            self.terms.lack(Need::SelfProbe, described(&error))?;
            self.file.guarded = Guarded::Partly;
        }
        Ok(())
    }

    /// Raise the mode, and begin to answer.
    pub(super) fn raise(&mut self) -> Result<(), Refusal> {
        self.raise_mode()?;
        self.begin_to_answer()
    }

    /// From now on what is denied is refused, if anything is.
    pub(super) fn raise_mode(&mut self) -> Result<(), Refusal> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let mode = if self.terms.enforcing() {
            Mode::Enforce
        } else {
            Mode::Observe
        };
        if self.file.break_glass.is_some() {
            session.break_glass();
        }
        if let Err(error) = session.set_mode(mode) {
            // Nothing was refused up to here, and nothing would be from here on.
            self.terms.nothing_left(&described(&error))?;
            self.terms.lack(Need::SelfProbe, described(&error))?;
        }
        Ok(())
    }

    /// Hear who asks for a change, and give denied lookups their final answers.
    pub(super) fn begin_to_answer(&mut self) -> Result<(), Refusal> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if let Some(dir) = &self.dir {
            match Control::listen(dir.path()) {
                Ok(control) => self.control = Some(control),
                Err(error) => tracing::warn!(%error, "this run cannot be changed while it is on"),
            }
        }
        self.answerer = Some(Answerer::default());
        if let Err(error) = session.heartbeat() {
            self.terms.lack(Need::Answers, described(&error))?;
        }
        Ok(())
    }
}

/// Would another choice of programs help?
fn is_of_the_programs(error: &blackstart_kernel::Error) -> bool {
    matches!(error.kind(), ErrorKind::Verifier | ErrorKind::Unsupported)
}

type Missing = Vec<(Feature, String)>;

/// As much of `wanted` as `attempt` takes, after all of it failed with `first`. Slow, and seldom: a kernel
/// that lacks what its probes promised.
fn most_of<S>(
    wanted: &BTreeSet<Feature>,
    first: String,
    attempt: impl Fn(&BTreeSet<Feature>) -> Result<S, blackstart_kernel::Error>,
) -> (Option<S>, BTreeSet<Feature>, Missing) {
    // Most likely it is one, and one of little weight.
    for feature in FEATURES
        .into_iter()
        .rev()
        .filter(|feature| wanted.contains(feature))
    {
        let rest: BTreeSet<_> = wanted
            .iter()
            .copied()
            .filter(|other| *other != feature)
            .collect();
        if let (false, Ok(all)) = (rest.is_empty(), attempt(&rest)) {
            return (Some(all), rest, vec![(feature, first)]);
        }
    }
    let (mut best, mut loaded, mut missing) = (None, BTreeSet::new(), Vec::new());
    for feature in FEATURES
        .into_iter()
        .filter(|feature| wanted.contains(feature))
    {
        let mut more = loaded.clone();
        more.insert(feature);
        match attempt(&more) {
            Ok(better) => {
                best = Some(better);
                loaded = more;
            }
            Err(error) => missing.push((feature, described(&error))),
        }
    }
    (best, loaded, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is loaded on a kernel that refuses some features.
    fn loaded(refused: &[Feature]) -> (BTreeSet<Feature>, Vec<Feature>) {
        let attempt = |features: &BTreeSet<Feature>| match refused
            .iter()
            .find(|one| features.contains(one))
        {
            Some(one) => Err(Error::new(ErrorKind::Verifier, one.name())),
            None => Ok(features.clone()),
        };
        let (session, loaded, missing) = most_of(&FEATURES.into(), "all".to_owned(), attempt);
        assert_eq!(session.unwrap_or_default(), loaded);
        (
            loaded,
            missing.into_iter().map(|(feature, _)| feature).collect(),
        )
    }

    #[test]
    fn as_much_is_loaded_as_the_kernel_takes() {
        for one in FEATURES {
            let (rest, missing) = loaded(&[one]);
            assert_eq!(missing, [one]);
            assert_eq!(rest.len(), FEATURES.len() - 1);
        }
        let (rest, missing) = loaded(&[Feature::UnixSockets, Feature::Names]);
        assert_eq!(
            (rest.len(), missing),
            (9, vec![Feature::Names, Feature::UnixSockets])
        );
        assert_eq!(loaded(&FEATURES), (BTreeSet::new(), FEATURES.to_vec()));
    }

    #[test]
    fn a_table_that_cannot_be_filled_is_no_fault_of_a_program() {
        let of = |kind| is_of_the_programs(&Error::new(kind, "x"));
        assert!(of(ErrorKind::Verifier) && of(ErrorKind::Unsupported));
        assert!(!of(ErrorKind::Io) && !of(ErrorKind::Permission));
    }
}
