//! Units of systemd that the run starts or restarts (`follow:` in a policy): observed from their start until they are
//! active, as a part of the run.
//!
//! As with `attach`, programs are attached to somebody else's cgroup and taken off again, and nothing else happens to
//! it. They have tables of their own, without any policy: what a unit does is recorded and not judged. They are loaded before
//! the command starts, since a unit does not wait. Nothing is pinned: if the supervisor dies, the kernel takes them off.
//! Why so: docs/decisions/0027-follow.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::policy::{Policy, UnitPattern};
use blackstart_core::record::Row;
use blackstart_core::report::{FollowedFacts, FollowedUntil};
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::{Error, Feature, Session, Settings};
use rustix::time::{ClockId, clock_gettime};

use crate::cgroup::{Hierarchy, Tree, pids_below};
use crate::orphan::described;
use crate::resolv::Resolving;
use crate::story::wall_ns;
use crate::{found, process};
use ask::{Answer, Asking, Over};
use rows::Spell;
use slices::{Slices, Started};

mod ask;
mod rows;
pub(crate) mod slices;
mod tend;

/// As many units may be starting at the same time.
const SEATS_MOST: usize = 4;
/// As many are followed in one run.
const SPELLS_MOST: usize = 256;
/// How long a unit may take to be active.
const LONGEST: Duration = Duration::from_secs(300);
/// How often systemd is asked whether one is.
const AGAIN: Duration = Duration::from_millis(200);

/// Programs that are attached within this time are there before the first process of a unit has come and gone.
const PROMPT: Duration = Duration::from_millis(20);

/// Where systemd is spoken to, itself or by way of the bus.
const SOCKETS: [&str; 4] = [
    "/run/systemd/private",
    "/run/systemd/io.systemd.Manager",
    "/run/dbus/system_bus_socket",
    "/var/run/dbus/system_bus_socket",
];

/// What the programs are loaded with.
#[derive(Debug)]
struct Load {
    features: BTreeSet<Feature>,
    tables: Tables,
    servers: Vec<IpAddr>,
    own: Vec<IpAddr>,
    hosts: Vec<(String, IpAddr)>,
}

impl Load {
    fn session(&self) -> Result<Session, Error> {
        Session::load(
            &self.features,
            &Settings {
                tables: &self.tables,
                rules: 0,
                resolvers: &self.servers,
                own_addresses: &self.own,
                hosts: &self.hosts,
                forwarder: None,
                one_of_many: false,
                tracer: None,
            },
        )
    }
}

/// Programs with tables of their own, for one unit after the other.
struct Seat {
    session: Session,
    spells: Vec<Spell>,
    turn: Option<Turn>,
}

/// A unit that is starting.
#[derive(Debug)]
struct Turn {
    /// Among the facts.
    number: usize,
    unit: String,
    /// Its cgroup.
    path: PathBuf,
    id: u64,
    since: Instant,
    next: Instant,
    asking: Option<Asking>,
}

/// All that is followed.
pub(crate) struct Following {
    patterns: Vec<UnitPattern>,
    slices: Slices,
    load: Load,
    seats: Vec<Seat>,
    /// When units were observed for the last time, by the ids of their cgroups.
    ended: BTreeMap<u64, u64>,
    facts: Vec<FollowedFacts>,
    gaps: BTreeSet<String>,
    /// Something is to be written down.
    changed: bool,
}

/// What the loop is to do about it.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The facts have changed.
    pub(crate) facts: bool,
    /// A unit is observed no longer: its rows are whole.
    pub(crate) rows: bool,
}

impl Following {
    /// Watch for units that start, with programs of those `features` that a unit is observed by.
    pub(crate) fn prepare(
        patterns: &[UnitPattern],
        features: impl Iterator<Item = Feature>,
        resolving: &Resolving,
    ) -> Result<Self, String> {
        let hierarchy = Hierarchy::find(Tree::Second).map_err(|error| error.to_string())?;
        // At the top is who systemd keeps in hierarchies of the first version only.
        if hierarchy.own().is_ok_and(|own| own == Path::new("")) {
            return Err("systemd does not keep units in cgroup2".to_owned());
        }
        // What runs by now has not started.
        let slices = Slices::watch(hierarchy, patterns, &mut |_| {});
        let slices = slices.map_err(|error| error.to_string())?;
        let observing = |feature: &Feature| !matches!(feature, Feature::Claims | Feature::Leavers);
        let facts = Facts { search: Vec::new() };
        let load = Load {
            features: features.filter(observing).collect(),
            tables: compile(&Policy::default(), &facts).map_err(|error| error.to_string())?,
            servers: resolving.servers.clone(),
            own: resolving.own.clone(),
            hosts: resolving.hosts.clone(),
        };
        let mut following = Self {
            patterns: patterns.to_vec(),
            slices,
            load,
            seats: Vec::new(),
            ended: BTreeMap::new(),
            facts: Vec::new(),
            gaps: BTreeSet::new(),
            changed: false,
        };
        let several = patterns.len() > 1 || patterns.iter().any(UnitPattern::is_glob);
        for _ in 0..1 + usize::from(several) {
            following.add_seat().map_err(|error| described(&error))?;
        }
        Ok(following)
    }

    fn add_seat(&mut self) -> Result<usize, Error> {
        self.seats.push(Seat {
            session: self.load.session()?,
            spells: Vec::new(),
            turn: None,
        });
        Ok(self.seats.len() - 1)
    }

    /// Readable when there is something to do.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let asking = self.turns().filter_map(|turn| turn.asking.as_ref()?.fd());
        std::iter::once(self.slices.fd()).chain(asking).collect()
    }

    /// When there is something to do at the latest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.turns().map(|turn| turn.next).min()
    }

    fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.seats.iter().filter_map(|seat| seat.turn.as_ref())
    }

    /// What there is to do now. `run` is that of the run itself.
    pub(crate) fn go_on(&mut self, run: Option<&Session>) -> News {
        let mut started = Vec::new();
        if !self.slices.started(&mut |one| started.push(one)) {
            let detail = "a followed unit may have started unseen: too much happened among cgroups at once, or there are too many to be watched";
            self.gap(detail.to_owned());
        }
        for one in started {
            self.begin(one, run);
        }
        let ended = self.ask();
        let rows = !ended.is_empty();
        for (at, how) in ended {
            self.end_turn(at, how);
        }
        News {
            facts: std::mem::take(&mut self.changed),
            rows,
        }
    }

    /// Attach to a unit that has started just now.
    fn begin(&mut self, started: Started, run: Option<&Session>) {
        let Started { unit, path } = started;
        let began = Instant::now();
        self.end_earlier(&path);
        let hierarchy = self.slices.hierarchy();
        let at = hierarchy.at(&path);
        // Gone again: what it did is not known.
        let opened = File::open(&at).and_then(|dir| Ok((dir.metadata()?.ino(), dir)));
        let Ok((id, dir)) = opened else {
            return self.gap(format!(
                "{unit} had started and ended before programs could be attached to it"
            ));
        };
        let is_followed = self.turns().any(|turn| turn.path == path && turn.id == id);
        if is_followed || hierarchy.own().is_ok_and(|own| own.starts_with(&path)) {
            return;
        }
        // The kernel may tell late that a unit's cgroup was empty for a moment, as between ExecStartPre and ExecStart.
        if let Some(ended) = self.ended.get(&id)
            && pids_below(&at).is_ok_and(|pids| pids.iter().any(|pid| is_older(*pid, *ended)))
        {
            return;
        }
        let cgroup = hierarchy.root().join(&path).to_string_lossy().into_owned();
        if self.facts.len() >= SPELLS_MOST {
            return self.gap(format!(
                "more than {SPELLS_MOST} units were started: the others were not observed"
            ));
        }
        let seat = match self.free_seat() {
            Some(seat) => Ok(seat),
            None if self.seats.len() < SEATS_MOST => {
                self.add_seat().map_err(|error| described(&error))
            }
            None => Err(format!("{SEATS_MOST} others were starting")),
        };
        let seat = match seat {
            Ok(seat) => seat,
            Err(why) => return self.gap(format!("{unit} was not observed: {why}")),
        };
        let from_ns = boot_ns();
        let started_ns = wall_ns(SystemTime::now());
        let root = match self.seats[seat].turn_to(&self.load.tables, &dir, &at) {
            Ok(root) => root,
            Err(error) => {
                let _ = self.seats[seat].session.detach();
                return self.gap(format!("{unit} was not observed: {}", described(&error)));
            }
        };
        let unseen = unseen(&pids_below(&at).unwrap_or_default());
        // Somebody may have come and gone meanwhile.
        let unseen = unseen.or(Some(began.elapsed()).filter(|took| *took > PROMPT));
        if let Some(unseen) = unseen {
            let millis = unseen.as_millis().max(1);
            self.gap(format!(
                "{unit} had run for up to {millis} ms before programs were attached to it: what it did by then was not seen"
            ));
        }
        let place = &mut self.seats[seat];
        place.spells.push(Spell {
            unit: unit.clone(),
            root,
            from_ns,
            to_ns: 0,
        });
        let now = Instant::now();
        place.turn = Some(Turn {
            number: self.facts.len(),
            unit: unit.clone(),
            path,
            id,
            since: now,
            next: now,
            asking: None,
        });
        self.facts.push(FollowedFacts {
            unit,
            root: rows::subject(seat + 1, root),
            cgroup,
            asked: run.and_then(asked),
            started_ns,
            ended_ns: None,
            until: None,
            at_once: false,
        });
        self.changed = true;
    }

    /// Where the cgroup of an earlier start of this unit is gone there is nothing to be observed, and systemd speaks of the
    /// next one from now on.
    fn end_earlier(&mut self, path: &Path) {
        for at in 0..self.seats.len() {
            let turn = self.seats[at].turn.as_ref();
            if turn.is_some_and(|turn| turn.path == path) && self.has_vanished(at) {
                self.end_turn(at, FollowedUntil::Ended.into());
            }
        }
    }

    /// One that is free, or is once systemd has been asked what became of a unit whose cgroup is gone.
    fn free_seat(&mut self) -> Option<usize> {
        let free = self.seats.iter().position(|seat| seat.turn.is_none());
        free.or_else(|| {
            let at = (0..self.seats.len()).find(|at| self.has_vanished(*at))?;
            self.end_turn_as_it_is(at, FollowedUntil::Ended);
            Some(at)
        })
    }

    fn has_vanished(&self, at: usize) -> bool {
        let Some(turn) = &self.seats[at].turn else {
            return false;
        };
        let place = self.slices.hierarchy().at(&turn.path);
        !std::fs::metadata(place).is_ok_and(|found| found.ino() == turn.id)
    }

    /// Ask systemd how far units have come. Those that are to be observed no longer.
    fn ask(&mut self) -> Vec<(usize, Over)> {
        let now = Instant::now();
        let mut over = Vec::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let Some(turn) = &mut seat.turn else { continue };
            let answer = turn.asking.as_mut().map(Asking::answer);
            match answer {
                Some(Answer::Over(how)) => over.push((at, how)),
                Some(Answer::Starting | Answer::None) => {
                    turn.asking = None;
                    turn.next = now + AGAIN;
                }
                Some(Answer::Waiting) => turn.next = now + AGAIN,
                None if turn.next <= now => {
                    turn.asking = Asking::about(&turn.unit);
                    turn.next = now + AGAIN;
                }
                None => {}
            }
            if now.duration_since(turn.since) > LONGEST && !over.iter().any(|(one, _)| *one == at) {
                over.push((at, FollowedUntil::Time.into()));
            }
        }
        over
    }

    fn end_turn(&mut self, at: usize, how: Over) {
        let seat = &mut self.seats[at];
        let Some(turn) = seat.turn.take() else { return };
        let failed = seat.session.detach().err();
        let now = boot_ns();
        if let Some(spell) = seat.spells.last_mut() {
            spell.to_ns = now;
        }
        self.ended.insert(turn.id, now);
        let facts = &mut self.facts[turn.number];
        facts.ended_ns = Some(wall_ns(SystemTime::now()).max(facts.started_ns));
        facts.until = Some(how.until);
        facts.at_once = how.at_once;
        self.changed = true;
        if let Some(error) = failed {
            self.gap(format!(
                "programs could not be taken off {}: {}",
                turn.unit,
                described(&error)
            ));
        }
        match how.until {
            FollowedUntil::RunEnded => self.gap(format!(
                "{} was still starting when the run ended: what it did from there on was not seen",
                turn.unit
            )),
            FollowedUntil::Time => self.gap(format!(
                "{} was not active after {} s: what it did from there on was not seen",
                turn.unit,
                LONGEST.as_secs()
            )),
            FollowedUntil::Active | FollowedUntil::Ended | FollowedUntil::Failed => {}
        }
    }

    /// The run is over: everything is taken off.
    pub(crate) fn end(&mut self, run: Option<&Session>) {
        self.go_on(run);
        for at in 0..self.seats.len() {
            // Who waits for a unit's start ends a moment after it.
            self.end_turn_as_it_is(at, FollowedUntil::RunEnded);
        }
    }

    /// For the reason that systemd tells when asked now, or else for this one.
    fn end_turn_as_it_is(&mut self, at: usize, otherwise: FollowedUntil) {
        let Some(turn) = &self.seats[at].turn else {
            return;
        };
        let how = match Asking::now(&turn.unit) {
            Answer::Over(how) => how,
            _ => otherwise.into(),
        };
        self.end_turn(at, how);
    }

    fn gap(&mut self, detail: String) {
        tracing::info!(detail, "follow");
        self.gaps.insert(detail);
        self.changed = true;
    }

    /// What is known of the units.
    pub(crate) fn facts(&self) -> &[FollowedFacts] {
        &self.facts
    }

    /// What was meant and has not started.
    pub(crate) fn unfollowed(&self) -> Vec<String> {
        let has_started = |pattern: &UnitPattern| {
            let mut facts = self.facts.iter();
            facts.any(|one| pattern.matches(&one.unit))
        };
        let never = self.patterns.iter().filter(|one| !has_started(one));
        never.map(|one| one.as_str().to_owned()).collect()
    }

    /// What was not seen of them.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = &String> {
        self.gaps.iter()
    }

    /// Everything that they did, as rows of the run's record.
    pub(crate) fn read(&self, each: &mut dyn FnMut(Row)) -> Result<(), Error> {
        for (seat, tables) in self.seats.iter().zip(1..) {
            if seat.spells.is_empty() {
                continue;
            }
            rows::roots(tables, &seat.spells).for_each(&mut *each);
            seat.session.read(&mut |row| {
                if let Some(row) = rows::of_run(tables, &seat.spells, row) {
                    each(row);
                }
            })?;
        }
        Ok(())
    }
}

impl Seat {
    /// Observe this cgroup from here on.
    fn turn_to(&mut self, tables: &Tables, dir: &File, at: &Path) -> Result<u64, Error> {
        let root = self.session.number_subject();
        self.session.turn_to(dir.as_fd())?;
        let pids = pids_below(at).unwrap_or_default();
        self.session.found(tables, &found::processes(&pids))?;
        self.session.guard(dir.as_fd())?;
        Ok(root)
    }
}

/// Through which sockets the run may have asked for the start of a unit; none where the kernel does not show that.
fn asked(run: &Session) -> Option<Vec<String>> {
    let seen = [
        Feature::UnixSockets,
        Feature::Contacts,
        Feature::ContactCalls,
    ];
    if !seen.into_iter().any(|feature| run.has(feature)) {
        return None;
    }
    let mut paths = BTreeSet::new();
    let read = run.contacts(&mut |row| {
        if SOCKETS.contains(&row.path.as_str()) {
            paths.insert(row.path);
        }
    });
    read.ok().map(|()| paths.into_iter().collect())
}

/// For how long some of these processes had run, of those that are a unit's: systemd's own child has done nothing of
/// the unit's before it executes.
pub(crate) fn unseen(pids: &[i32]) -> Option<Duration> {
    let now = u128::from(boot_ns());
    let ticks = u128::from(rustix::param::clock_ticks_per_second());
    let ages = pids.iter().filter_map(|pid| {
        let pid = pid.cast_unsigned();
        let stat = process::stat(pid)?;
        let exe = process::exe(pid).unwrap_or_default();
        let file = exe.rsplit('/').next();
        if stat.kernel || matches!(file, Some("systemd" | "systemd-executor")) {
            return None;
        }
        let started = u128::from(stat.started) * 1_000_000_000 / ticks;
        u64::try_from(now.saturating_sub(started)).ok()
    });
    ages.max().map(Duration::from_nanos)
}

/// Had this process started before that?
fn is_older(pid: i32, then_ns: u64) -> bool {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    // In whole ticks: one that may have started in the same is not said to be.
    process::stat(pid.cast_unsigned())
        .is_some_and(|stat| stat.started.saturating_add(1).saturating_mul(tick) <= then_ns)
}

fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
