//! Before the command starts: everything that guards it, or the reason why not.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use blackstart_core::name::Name;
use blackstart_core::policy::{Policy, UnitPattern};
use blackstart_core::report::{Guarded, Mode};
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Error, ErrorKind, Feature, LeftOut, Listening, Orphan, Session, Settings};

use super::{PATIENCE, Setup};
use crate::answer::Answerer;
use crate::cgroup::{Controller, RunCgroup};
use crate::control::Control;
use crate::follow::Following;
use crate::forward::{Forwarder, Listeners};
use crate::orphan::{Swept, described, sweep_locked, sweep_spare};
use crate::plan::{FEATURES, Need, instead, needed, plan, replan};
use crate::refusal::{Cause, Refusal};
use crate::resolv::Resolving;
use crate::state::{RunDir, SPARE, StateDir, is_of_the_disk};
use crate::stray::{self, About};
use crate::{Notice, inherited, pins};

/// Names of /etc/hosts that are handed to the kernel, each of which takes room there and time at the start.
const HOSTS_MOST: usize = 32_768;

impl Setup<'_> {
    /// Everything that has to be there before the command starts.
    pub(super) fn prepare(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), Refusal> {
        let host = Support::for_run();
        let mut resolving = match &self.target {
            Some(target) => Self::seen_from(target, &mut self.views)?,
            None => Resolving::read(),
        };
        let tables = self.tables(&resolving)?;
        // What the host can do comes first: whoever lacks root lacks the state directory for want of it, and is to
        // hear of root.
        let wanted = plan(&host, tables.uses(), &mut self.terms)?;
        let locked = self.open_state()?;
        // The agent sweeps once everything is guarded again that an earlier one has left guarded.
        if let (Some(state), Some(_), false) = (&self.state, &locked, self.by_rule) {
            match sweep_locked(state) {
                Ok(mut swept) => {
                    swept.add(sweep_spare(state.path()));
                    let strays = stray::sweep();
                    for failed in &strays.failed {
                        notice(Notice::Warning(format!(
                            "cannot clean up after the run in {}: {}",
                            failed.path.display(),
                            failed.why
                        )));
                    }
                    swept.add(strays);
                    for report in &swept.adopted {
                        notice(Notice::Adopted(report.clone()));
                    }
                    self.refuse_beside_orphans(&swept, notice)?;
                }
                Err(error) => notice(Notice::Warning(format!(
                    "runs without a supervisor cannot be looked for: {error}"
                ))),
            }
        }
        if !wanted.is_empty() {
            self.hide_sockets(&tables, &wanted)?;
            self.shorten_hosts(&mut resolving.hosts, &tables)?;
        }
        self.file.knows(&resolving);
        self.begin_dir()?;
        // Limits hold a run of which nothing can be seen as well.
        if !(wanted.is_empty() && Controller::needed(&self.limits()).is_empty()) {
            self.make_cgroup(&host)?;
        }
        match self.target {
            Some(_) => self.leave_unlimited(),
            None => self.apply_limits()?,
        }
        if self.cgroup.is_some() && !wanted.is_empty() {
            self.make_pins()?;
            // Others may begin: what follows takes time, and is found by its name if this one dies.
            drop(locked);
            self.locked = None;
            let forwarder = self.listen(&resolving.servers)?;
            let settings = Settings {
                tables: &tables,
                rules: self.policy.map_or(0, |policy| {
                    u32::try_from(policy.rules.len()).unwrap_or(u32::MAX)
                }),
                resolvers: &resolving.servers,
                own_addresses: &resolving.own,
                hosts: &resolving.hosts,
                forwarder,
                one_of_many: false,
                tracer: None,
            };
            self.load(&host, &wanted, &settings)?;
            self.tell_left_out()?;
            self.close_families()?;
            if self.target.is_some() {
                self.move_to_target(&tables)?;
            }
            self.prepare_follow(&host, &wanted, &resolving);
            self.arm()?;
            if self.target.is_some() {
                self.meet_connections(&tables, &resolving);
            }
            self.forward(tables)?;
            // Those that nobody is turned to.
            self.listeners = None;
        }
        if self.target.is_none() {
            self.contain()?;
        }
        if self.session.is_some() && self.target.is_none() {
            for detail in inherited::sockets() {
                self.terms.note(Need::InheritedSockets, detail, 0);
            }
        }
        self.locked = None;
        if let Some(why) = &self.displaced {
            notice(Notice::Warning(format!(
                "the state of this run is kept in {SPARE}, where a reboot takes it away: {why}"
            )));
        }
        for gap in self.terms.gaps() {
            notice(Notice::Gap(gap.clone()));
        }
        Ok(())
    }

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

    /// An earlier run of the same service that nobody supervises may still change what this one changes. So may one that
    /// could not be looked at.
    pub(super) fn refuse_beside_orphans(
        &self,
        swept: &Swept,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Refusal> {
        let Some(service) = self
            .file
            .service
            .as_ref()
            .filter(|_| !self.request.concurrent)
        else {
            return Ok(());
        };
        let of_it = |of: &Option<String>| of.as_ref() == Some(service);
        let lives = swept.living.iter().find(|orphan| of_it(&orphan.service));
        let unknown = swept.failed.iter().find(|failed| of_it(&failed.service));
        let (goes_on, why) = match (lives, unknown) {
            (Some(orphan), _) => (
                "still goes on",
                format!("run {} has processes left", orphan.id),
            ),
            (None, Some(failed)) => (
                "may still go on",
                format!(
                    "whether the run in {} has processes left cannot be told: {}",
                    failed.path.display(),
                    failed.why
                ),
            ),
            (None, None) => return Ok(()),
        };
        let what = format!("an earlier run of {service} {goes_on} without its supervisor");
        if self.request.break_glass.is_some() {
            notice(Notice::Warning(format!("{what}; {why}")));
            return Ok(());
        }
        Err(Refusal {
            cause: Cause::Orphan,
            what,
            why,
            remedy: "end its processes, or run beside them with --concurrent".to_owned(),
        })
    }

    pub(super) fn tables(&mut self, resolving: &Resolving) -> Result<Tables, Refusal> {
        let search: Vec<Name> = resolving
            .search
            .iter()
            .filter_map(|domain| Name::parse(domain).ok())
            .collect();
        self.search.clone_from(&search);
        let default = Policy::default();
        let compiled = compile(self.policy.unwrap_or(&default), &Facts { search });
        let mut tables = compiled.map_err(|error| Refusal {
            cause: Cause::Request,
            what: "the policy cannot be compiled".to_owned(),
            why: error.to_string(),
            remedy: String::new(),
        })?;
        if self.target.is_some() {
            tables.end_leases();
        }
        Ok(tables)
    }

    /// Keep what the kernel's tables have room for; names that a rule speaks of first, since only these
    /// decide anything.
    pub(super) fn shorten_hosts(
        &mut self,
        hosts: &mut Vec<(String, IpAddr)>,
        tables: &Tables,
    ) -> Result<(), Refusal> {
        let Some(over) = hosts.len().checked_sub(HOSTS_MOST).filter(|over| *over > 0) else {
            return Ok(());
        };
        let ruled =
            |name: &str| Name::parse(name).is_ok_and(|name| tables.class_of_name(&name) != 0);
        hosts.sort_by_cached_key(|(name, _)| !ruled(name));
        let left_out = hosts.split_off(HOSTS_MOST);
        if left_out.iter().any(|(name, _)| ruled(name)) {
            self.terms.lack(
                Need::HostsFile,
                format!(
                    "the policy speaks of more names of /etc/hosts than the {HOSTS_MOST} that fit"
                ),
            )
        } else {
            let over = u64::try_from(over).unwrap_or(u64::MAX);
            let detail = format!(
                "/etc/hosts has more than the {HOSTS_MOST} names that fit; addresses of the others, \
                 of which no rule speaks, go unnamed"
            );
            self.terms.note(Need::HostsFile, detail, over);
            Ok(())
        }
    }

    /// What of the host's files and addresses found no room in the kernel's tables.
    pub(super) fn tell_left_out(&mut self) -> Result<(), Refusal> {
        let left_out = self.session.as_ref().map(Session::left_out);
        let LeftOut {
            own_addresses,
            hosts,
        } = left_out.unwrap_or_default();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        if own_addresses > 0 {
            self.terms.note(
                Need::OwnAddresses,
                "the host has more addresses than are known as its own; the others are judged as any address",
                count(own_addresses),
            );
        }
        if hosts > 0 {
            self.terms.lack(
                Need::HostsFile,
                format!(
                    "for {hosts} of the names of /etc/hosts that rules speak of, their address has no room beside its others"
                ),
            )?;
        }
        Ok(())
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
        let mut other = None;
        if let Err(error) = &first
            && is_of_the_programs(error)
            && let Some(instead) = instead(wanted)
        {
            tracing::debug!(error = described(error), "another way to see contacts");
            first = attempt(&instead);
            other = Some(instead);
        }
        let wanted = other.as_ref().unwrap_or(wanted);
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

    /// Listen for lookups over TCP, before the programs that turn them here are loaded: these are told where.
    pub(super) fn listen(&mut self, servers: &[IpAddr]) -> Result<Option<Listening>, Refusal> {
        let (listeners, mut failed) = Listeners::open(servers);
        let place = listeners.place().unwrap_or_else(|error| {
            failed.push(format!("its network namespace cannot be told: {error}"));
            None
        });
        for why in failed {
            self.terms.lack(
                Need::DnsOverTcp,
                format!(
                    "lookups over TCP are not read: {why}; under `default: deny` they are refused"
                ),
            )?;
        }
        self.listeners = Some(listeners);
        Ok(place)
    }

    /// Read lookups over TCP from now on, if the programs turn them here.
    pub(super) fn forward(&mut self, tables: Tables) -> Result<(), Refusal> {
        let turned = self.session.as_ref().is_some_and(Session::forwards);
        let Some(listeners) = self.listeners.take().filter(|_| turned) else {
            return Ok(());
        };
        match Forwarder::new(listeners) {
            Ok(forwarder) => {
                self.forwarder = Some(forwarder);
                self.tables = Some(tables);
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::DnsOverTcp,
                format!("lookups over TCP are not read: {error}"),
            ),
        }
    }

    /// Have units that are to be followed observed when they start. Whatever fails of it, the run goes on.
    fn prepare_follow(
        &mut self,
        host: &Support,
        wanted: &BTreeSet<Feature>,
        resolving: &Resolving,
    ) {
        let patterns = self.policy.map_or(&[][..], |policy| &policy.follow);
        if patterns.is_empty() {
            return;
        }
        let prepared = match &self.session {
            _ if self.target.is_some() => Err("what is attached to starts no units".to_owned()),
            None => Err("nothing can be observed".to_owned()),
            Some(_) if host.systemd != Some(true) => Err("PID 1 is not systemd".to_owned()),
            Some(session) => {
                let loaded = wanted.iter().copied().filter(|one| session.has(*one));
                Following::prepare(patterns, loaded, resolving)
            }
        };
        match prepared {
            Ok(following) => {
                self.file.unfollowed = following.unfollowed();
                self.follow = Some(following);
            }
            Err(why) => {
                let units: Vec<&str> = patterns.iter().map(UnitPattern::as_str).collect();
                let detail = format!("{} cannot be followed: {why}", units.join(", "));
                self.terms.note(Need::Follow, detail, 0);
            }
        }
    }

    /// Pin, prove, raise the mode, and begin to answer.
    fn arm(&mut self) -> Result<(), Refusal> {
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
    use crate::plan::Terms;
    use crate::{Request, run::Setup};
    use blackstart_core::policy;

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
            (8, vec![Feature::Names, Feature::UnixSockets])
        );
        assert_eq!(loaded(&FEATURES), (BTreeSet::new(), FEATURES.to_vec()));
    }

    #[test]
    fn a_table_that_cannot_be_filled_is_no_fault_of_a_program() {
        let of = |kind| is_of_the_programs(&Error::new(kind, "x"));
        assert!(of(ErrorKind::Verifier) && of(ErrorKind::Unsupported));
        assert!(!of(ErrorKind::Io) && !of(ErrorKind::Permission));
    }

    #[test]
    fn of_a_huge_hosts_file_what_rules_speak_of_is_kept() {
        let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: .github.com\n";
        let policy = policy::alone(text, "p.yaml").unwrap().policy;
        let tables = compile(&policy, &Facts { search: Vec::new() }).unwrap();
        let request = Request {
            command: Vec::new(),
            env: Vec::new(),
            policy: None,
            catalog: None,
            service: None,
            mode: None,
            leftover: None,
            accept_gaps: Vec::new(),
            contain: None,
            hide_sockets: false,
            concurrent: false,
            break_glass: None,
            drill: None,
            lock: None,
            redaction: Default::default(),
            origin: crate::Origin::default(),
            state_dir: "/nowhere".into(),
            id: None,
        };
        let shortened = |count: u32, last: &str| {
            let mut hosts: Vec<_> = (0..count)
                .map(|n| (format!("n{n}.{last}"), IpAddr::from(n.to_be_bytes())))
                .collect();
            hosts.push(("api.github.com".to_owned(), IpAddr::from([10, 0, 0, 1])));
            let mut setup = Setup::new(&request, Mode::Enforce, Terms::new(true, &[]).unwrap());
            let outcome = setup.shorten_hosts(&mut hosts, &tables);
            let first = hosts.iter().any(|(name, _)| name == "api.github.com");
            (
                outcome.is_ok() && first,
                hosts.len(),
                setup.terms.gaps().to_vec(),
            )
        };
        assert_eq!(shortened(100, "example"), (true, 101, Vec::new()));
        let (fine, kept, gaps) = shortened(70_000, "example");
        assert!(fine && kept == HOSTS_MOST);
        assert_eq!(
            (gaps[0].kind.as_str(), gaps[0].count),
            ("hosts_file", 37_233)
        );
        // Names left out of which a rule speaks would not be refused by their address.
        assert!(!shortened(70_000, "github.com").0);
    }
}
