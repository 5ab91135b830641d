//! Everything of a run that can be made before anybody knows what it will be: its programs are loaded and have shown that
//! they judge, and its cgroup waits.
//!
//! On disk it is a run that was begun and never started: if its maker dies, a sweep takes it away.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blackstart_core::policy::Policy;
use blackstart_core::report::Mode;
use blackstart_core::tables::{Facts, Uses, compile};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Feature, Session, Settings, Tracer};

use super::Setup;
use crate::Request;
use crate::cgroup::RunCgroup;
use crate::forward::Listeners;
use crate::plan::{Need, Terms, plan};
use crate::refusal::{Cause, Refusal};
use crate::state::{RunDir, RunFile};

/// A run without a command, a policy and a start.
pub(crate) struct Spare(Box<Made>);

/// What there is of it. In memory of its own, as [`Setup`] is.
struct Made {
    file: RunFile,
    dir: RunDir,
    cgroup: RunCgroup,
    session: Session,
    pins: PathBuf,
    listeners: Option<Listeners>,
    features: BTreeSet<Feature>,
    /// What this host could do when it was made.
    host: Support,
}

impl Spare {
    /// Make one whose state is below `state`.
    pub(crate) fn make(state: &Path, tracer: Option<&Arc<Tracer>>) -> Result<Self, Refusal> {
        Self::make_for(state, tracer, false)
    }

    /// One that will be about a unit (`by_rule`), or else a command.
    #[inline(never)]
    pub(crate) fn make_for(
        state: &Path,
        tracer: Option<&Arc<Tracer>>,
        by_rule: bool,
    ) -> Result<Self, Refusal> {
        let request = Request::bare(state);
        let mut setup = Setup::new(&request, Mode::Observe, Terms::new(false, &[])?);
        setup.reserve = true;
        setup.by_rule = by_rule;
        match setup.reserve(tracer) {
            Ok((features, host)) => setup.into_spare(features, host),
            Err(refusal) => {
                setup.undo();
                Err(refusal)
            }
        }
    }

    /// What this host can do: asking anew takes milliseconds, and waits for whoever moves a process just now.
    pub(super) fn host(&self) -> &Support {
        &self.0.host
    }

    /// Nobody needs it.
    pub(crate) fn discard(self) {
        let request = Request::bare(Path::new(""));
        let Ok(terms) = Terms::new(false, &[]) else {
            return;
        };
        let mut setup = Setup::new(&request, Mode::Observe, terms);
        let made = *self.0;
        setup.dir = Some(made.dir);
        setup.cgroup = Some(made.cgroup);
        setup.session = Some(made.session);
        setup.pins = Some(made.pins);
        setup.undo();
    }
}

impl Setup<'_> {
    fn reserve(
        &mut self,
        tracer: Option<&Arc<Tracer>>,
    ) -> Result<(BTreeSet<Feature>, Support), Refusal> {
        let host = Support::for_run();
        let failed = |why: String| Refusal {
            cause: Cause::System,
            what: "no guard can be made ahead".to_owned(),
            why,
            remedy: String::new(),
        };
        let tables = compile(&Policy::default(), &Facts::default())
            .map_err(|error| failed(error.to_string()))?;
        let uses = Uses {
            claims: true,
            ..tables.uses()
        };
        let wanted = plan(&host, uses, &mut self.terms)?;
        let locked = self.open_state()?;
        self.begin_dir()?;
        self.make_cgroup(&host)?;
        self.make_pins()?;
        drop(locked);
        let any: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let forwarder = self.listen(&any)?;
        let settings = Settings {
            tables: &tables,
            rules: 0,
            resolvers: &[],
            own_addresses: &[],
            hosts: &[],
            forwarder,
            one_of_many: true,
            tracer,
        };
        self.load(&host, &wanted, &settings)?;
        self.pin_and_prove()?;
        // Whatever is missing is asked for anew, by whom it matters to: here only what makes it useless.
        let proof = Need::SelfProbe.kind();
        let whole = self.session.is_some() && self.pins.is_some() && self.dir.is_some();
        match self
            .terms
            .gaps()
            .iter()
            .find(|gap| gap.kind == proof || !whole)
        {
            Some(gap) => Err(failed(gap.detail.clone())),
            None => Ok((wanted, host)),
        }
    }

    fn into_spare(
        mut self: Box<Self>,
        features: BTreeSet<Feature>,
        host: Support,
    ) -> Result<Spare, Refusal> {
        let parts = (
            self.dir.take(),
            self.cgroup.take(),
            self.session.take(),
            self.pins.take(),
        );
        match parts {
            (Some(dir), Some(cgroup), Some(session), Some(pins)) => Ok(Spare(Box::new(Made {
                file: self.file,
                dir,
                cgroup,
                session,
                pins,
                listeners: self.listeners,
                features,
                host,
            }))),
            (dir, cgroup, session, pins) => {
                (self.dir, self.cgroup, self.session, self.pins) = (dir, cgroup, session, pins);
                self.undo();
                Err(Refusal {
                    cause: Cause::System,
                    what: "no guard can be made ahead".to_owned(),
                    why: "not all of it is there".to_owned(),
                    remedy: String::new(),
                })
            }
        }
    }

    /// Go on with what was made ahead, if that has everything that is `wanted` and room for the policy. Else it is given back.
    pub(super) fn take(
        &mut self,
        mut spare: Spare,
        wanted: &BTreeSet<Feature>,
        settings: &Settings<'_>,
    ) -> Option<Spare> {
        if !wanted.is_subset(&spare.0.features) {
            return Some(spare);
        }
        if let Err(error) = spare.0.session.fill(settings) {
            tracing::debug!(%error, "made anew");
            return Some(spare);
        }
        let made = *spare.0;
        self.file.id = made.file.id;
        self.file.cgroup = Some(made.cgroup.whereabouts().clone());
        self.file.pins = Some(made.pins.clone());
        self.file.kernel.features = made.session.features();
        self.file.guarded = made.file.guarded;
        self.dir = Some(made.dir);
        self.cgroup = Some(made.cgroup);
        self.session = Some(made.session);
        self.pins = Some(made.pins);
        self.listeners = made.listeners;
        None
    }
}
