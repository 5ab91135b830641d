//! One run's programs and maps: load, attach, pin, read, remove.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use blackstart_core::record::{Counters, DelegateRow, Row, SubjectId, SubjectRow, Verdict};
use blackstart_core::report::Mode;
use blackstart_core::tables::Tables;
use libbpf_rs::skel::{OpenSkel as _, Skel as _};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

use crate::abi;
use crate::complaint::{load_error, say};
use crate::fill::{NameKeys, Offsets, PolicyRows, words};
use crate::memory::give_back_memory;
use crate::probe;
use crate::read::Record;
use crate::tracer::{Enrolled, Tracer};
use crate::{Error, ErrorKind};
use events::View;
use feature::attach_one;
use forward::{Listening, Unwritten};
use found::Known;
use known::{known_addresses, write_known};
use live::Live;
use maps::Maps;
use object::{note_refusals, opened, set_constants, share, spared};
use reload::{Room, SPARE_FIXED, write_policy};

pub use feature::Feature;
pub use live::Heart;
pub use orphan::Orphan;

mod calls;
mod claim;
mod events;
mod feature;
pub mod forward;
pub mod found;
mod known;
mod live;
mod maps;
mod moved;
mod object;
mod orphan;
mod reload;
mod resume;
mod turns;

/// What a run's tables are filled with.
pub struct Settings<'a> {
    /// The compiled policy.
    pub tables: &'a Tables,
    /// How many rules it has.
    pub rules: u32,
    /// The run's own resolvers (resolv.conf as the run sees it).
    pub resolvers: &'a [IpAddr],
    /// The host's own addresses, loopback aside.
    pub own_addresses: &'a [IpAddr],
    /// Names with a fixed address (/etc/hosts as the run sees it).
    pub hosts: &'a [(String, IpAddr)],
    /// Where lookups over TCP are to be turned to; none: nowhere.
    pub forwarder: Option<Listening>,
    /// Hundreds of guards are in this process: each takes less memory, and tells less at once of what happens.
    pub one_of_many: bool,
    /// They share this one; none: it has its own.
    pub tracer: Option<&'a Arc<Tracer>>,
}

/// What of the settings found no room in the kernel's tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Own addresses that are like any others for it.
    pub own_addresses: usize,
    /// Names of /etc/hosts at an address that has more of them, as rules tell names apart, than one may have.
    pub hosts: usize,
}

impl Settings<'_> {
    fn known(&self) -> Known<'_> {
        Known {
            resolvers: self.resolvers,
            own_addresses: self.own_addresses,
        }
    }
}

/// A run's programs and maps, held by its supervisor.
pub struct Session {
    // Fields are dropped in this order: nothing may outlive what it reads from.
    view: View,
    links: Vec<(&'static str, Link)>,
    /// Its place among those that share a tracer.
    enrolled: Option<Enrolled>,
    record: Record,
    maps: Maps,
    /// The programs, as long as they may be attached anew.
    skeleton: Option<Box<abi::BlackstartSkel<'static>>>,
    live: Live,
    features: BTreeSet<Feature>,
    pins: Option<std::path::PathBuf>,
    /// What the programs are attached to.
    cgroup: Option<OwnedFd>,
    keys: NameKeys,
    room: Room,
    /// The programs of any policy, once another than the first has judged.
    whole: Option<Box<abi::BlackstartSkel<'static>>>,
    /// The program that writes rows for user space, where `whole` does not have it.
    filler: Option<Box<abi::BlackstartSkel<'static>>>,
    /// The programs that read names which connections give, where a later policy was the first to want them.
    reader: Option<Box<abi::BlackstartSkel<'static>>>,
    /// Rules of all policies so far: the next one's are numbered from there.
    rules: u32,
    /// Rules of the policies before the one that judges.
    first_rule: u32,
    /// Where lookups over TCP are turned to.
    forwarder: Option<Listening>,
    unwritten: Unwritten,
    left_out: LeftOut,
    /// No policy's names are in the tables yet.
    nameless: bool,
    /// See [`Settings`].
    one_of_many: bool,
}

/// Octets of the live view of one guard among many. All of it is resident twice.
const SMALL_RING: u32 = 16 << 10;

/// The layout's own directory below a run's pins.
fn layout_dir(pins: &Path) -> std::path::PathBuf {
    pins.join(format!("v{}", LAYOUT))
}

/// Version of `abi.h`; pins of another one are removed, never read.
pub const LAYOUT: u32 = abi::bs_layout::BS_LAYOUT.0;

impl Session {
    /// Load the programs of `features` and fill their tables. Nothing is attached yet.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] without the capabilities, [`ErrorKind::Verifier`] where the kernel refuses a
    /// program, [`ErrorKind::Io`] where a table cannot be filled.
    pub fn load(features: &BTreeSet<Feature>, settings: &Settings<'_>) -> Result<Self, Error> {
        let keys = NameKeys::random()?;
        let rows = PolicyRows::new(settings.tables, keys, &Offsets::default());
        let room = Room::for_policy(&rows);
        let fixed = settings.hosts.len() + known_addresses(settings.known()).0.len();
        let spared = spared(settings.tables.uses(), features);
        Self::load_with(features, settings, keys, rows, room, fixed, spared)
    }

    /// The same for a policy that is not known yet: the programs know everything, and [`Session::fill`] gives them one to judge
    /// by. `settings` are those until then.
    pub fn spare(features: &BTreeSet<Feature>, settings: &Settings<'_>) -> Result<Self, Error> {
        let keys = NameKeys::random()?;
        let rows = PolicyRows::new(settings.tables, keys, &Offsets::default());
        let room = Room::for_any_usual();
        let spared = abi::bs_spared {
            reload: 1,
            ..abi::zeroed()
        };
        Self::load_with(features, settings, keys, rows, room, SPARE_FIXED, spared)
    }

    fn load_with(
        features: &BTreeSet<Feature>,
        settings: &Settings<'_>,
        keys: NameKeys,
        mut rows: PolicyRows,
        room: Room,
        fixed: usize,
        spared: abi::bs_spared,
    ) -> Result<Self, Error> {
        libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, say)));
        let forwarder = settings
            .forwarder
            .filter(|_| forward::NEEDS.iter().all(|need| features.contains(need)));
        let mut open = opened(features, forwarder.is_some())?;
        room.size(&mut open, fixed as u32)?;
        // The ring is mapped twice, whole: hundreds of guards in one process have smaller ones.
        if settings.one_of_many {
            let map = &mut open.maps.bs_events;
            map.set_max_entries(SMALL_RING)
                .map_err(|error| Error::caused(ErrorKind::Io, "size the live view", error))?;
        }
        let traced = features.iter().any(|feature| feature.is_shared());
        let tracer = settings.tracer.filter(|_| traced);
        let enrolled = tracer.map(Tracer::enrol).transpose()?;
        share(&mut open, enrolled.as_ref())?;
        set_constants(&mut open, keys, spared, forwarder.as_ref());
        note_refusals(&mut open, features);

        let skeleton = Box::new(open.load().map_err(load_error)?);
        let maps = Maps::of(&skeleton)?;
        let record = Record::new(|name| maps.hold(name))?;
        let live = Live::new(&maps.bss)?;
        live.heart().set_suspended();
        write_policy(&maps, &live, &mut rows, &room, 0)?;
        let left_out = write_known(&maps, settings, keys)?;

        let view = View::of(&maps.bs_events)?;
        if settings.one_of_many {
            // What loading took is many times what is kept.
            give_back_memory();
        }
        Ok(Self {
            view,
            links: Vec::new(),
            enrolled,
            record,
            maps,
            skeleton: Some(skeleton),
            live,
            features: features.clone(),
            pins: None,
            cgroup: None,
            keys,
            room,
            whole: None,
            filler: None,
            reader: None,
            rules: settings.rules,
            first_rule: 0,
            forwarder,
            unwritten: Unwritten::default(),
            left_out,
            nameless: rows.edges.is_empty(),
            one_of_many: settings.one_of_many,
        })
    }

    /// What of the settings found no room.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Attach everything to `cgroup` (a cgroup2 directory that this run made). Mode is still observe.
    pub fn attach(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        self.attach_where(cgroup, |_| true)
    }

    /// Attach the programs of the features that are `meant`.
    fn attach_where(
        &mut self,
        cgroup: BorrowedFd<'_>,
        meant: impl Fn(Feature) -> bool,
    ) -> Result<(), Error> {
        let id = rustix::fs::fstat(cgroup)
            .map_err(|error| Error::caused(ErrorKind::Io, "look at the run's cgroup", error))?
            .st_ino;
        self.live.set_cgroup_id(id);
        let held = cgroup
            .try_clone_to_owned()
            .map_err(|error| Error::caused(ErrorKind::Io, "hold the run's cgroup", error))?;
        self.cgroup = Some(held);
        let claimants = self.claimants();
        // Let go, and wanted again after all, as by a unit that restarts in a loop: loaded anew, over the same maps.
        let skeleton = match self.skeleton.take() {
            Some(skeleton) => skeleton,
            None => self.load_beside(&self.features)?,
        };
        let skeleton = self.skeleton.insert(skeleton);
        for feature in self.features.clone() {
            for name in feature.programs() {
                if !meant(feature) || feature.is_shared() && self.enrolled.is_some() {
                    continue;
                }
                let mut programs = skeleton.object_mut().progs_mut();
                let Some(program) = programs.find(|program| program.name() == *name) else {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("find the program {name}"),
                    ));
                };
                // Left out of what was loaded.
                if !program.autoload() {
                    continue;
                }
                if *name == claim::READER {
                    claim::attach_reader(&program, claimants)?;
                    continue;
                }
                let link = attach_one(&program, feature, cgroup).map_err(|error| {
                    Error::caused(
                        ErrorKind::Unsupported,
                        format!("attach the program {name}"),
                        error,
                    )
                })?;
                if feature.is_tracing() {
                    self.record.skipped.watch(program.as_fd())?;
                }
                drop(programs);
                self.links.push((*name, link));
            }
        }
        if let Some(enrolled) = &mut self.enrolled {
            if self.features.iter().any(|of| of.is_shared() && meant(*of)) {
                enrolled.watch(&mut self.record.skipped)?;
                enrolled.call(skeleton.object(), &self.maps.bs_processes)?;
            }
            enrolled.live_in(id)?;
        }
        Ok(())
    }

    /// Everything is attached, and is likely to stay where it is: let go what only attaching takes, a megabyte.
    pub fn settle(&mut self) {
        if self.skeleton.take().is_some()
            && self.one_of_many
            && let Err(error) = self.hold_anew()
        {
            tracing::debug!(%error, "what is held stays where it is");
        }
    }

    /// What was taken hold of while the programs were loaded lies scattered among what that took, and each piece keeps a page of it
    /// from being given back: hold all of it by new handles, which lie together.
    fn hold_anew(&mut self) -> Result<(), Error> {
        let maps = self.maps.again()?;
        let mut record = Record::new(|name| maps.hold(name))?;
        record.skipped = std::mem::take(&mut self.record.skipped);
        self.record = record;
        self.maps = maps;
        for (name, link) in &mut self.links {
            let Some(path) = link.pin_path() else {
                continue;
            };
            *link = Link::open(path).map_err(|error| {
                Error::caused(ErrorKind::Io, format!("open the link of {name}"), error)
            })?;
        }
        Ok(())
    }

    /// Pin links and maps below `dir` (a directory on a bpffs; made by the caller), so that they outlive this
    /// process.
    pub fn pin(&mut self, dir: &Path) -> Result<(), Error> {
        let layout = layout_dir(dir);
        fs::create_dir(&layout).map_err(|error| {
            Error::caused(ErrorKind::Io, format!("make {}", layout.display()), error)
        })?;
        self.pins = Some(dir.to_owned());
        self.record.pin(&layout)?;
        claim::pin_table(&self.maps.bs_claimants, &layout)?;
        if let Some(enrolled) = &mut self.enrolled {
            enrolled.pin(&layout)?;
        }
        for (name, link) in &mut self.links {
            link.pin(layout.join(format!("link_{name}")))
                .map_err(|error| {
                    Error::caused(ErrorKind::Io, format!("pin the link of {name}"), error)
                })?;
        }
        // One among many is taken over by whoever takes the place of this process.
        match self.enrolled {
            Some(_) => self.pin_unheld(&layout),
            None => Ok(()),
        }
    }

    /// One denied and one allowed synthetic attempt from inside `cgroup` must come out right, for each family.
    /// Leaves no trace in the record. To be called after [`Self::attach`] and before the child is started.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]: the programs are attached and do not judge.
    pub fn self_probe(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        if !self.features.contains(&Feature::Addresses) {
            return Ok(());
        }
        let failed = |error| Error::caused(ErrorKind::Io, "set up the self-probe", error);
        let leases = MapHandle::try_from(&self.maps.bs_leases).map_err(failed)?;
        let flagged = [
            (probe::DENIED, abi::bs_known::BS_KNOWN_DENIED),
            (probe::ALLOWED, abi::bs_known::BS_KNOWN_ALLOWED),
        ];
        let mut before = Vec::new();
        for (address, flag) in flagged {
            let key = abi::bs_address {
                addr: words(address.into()),
            };
            let key = abi::octets(&key).to_vec();
            let row = leases.lookup(&key, MapFlags::ANY).map_err(failed)?;
            let mut probed: abi::bs_lease = row
                .as_deref()
                .and_then(abi::value)
                .unwrap_or_else(abi::zeroed);
            probed.known = flag.0;
            before.push((key.clone(), row));
            leases
                .update(&key, abi::octets(&probed), MapFlags::ANY)
                .map_err(failed)?;
        }
        self.set_mode(Mode::Enforce)?;
        let outcome = probe::from_inside(cgroup);
        self.set_mode(Mode::Observe)?;
        for (key, before) in before {
            let restored = match before {
                Some(row) => leases.update(&key, &row, MapFlags::ANY),
                None => leases.delete(&key),
            };
            restored.map_err(failed)?;
        }
        let counted = self.record.snapshot()?;
        self.record.clear()?;
        self.view.clear().map_err(failed)?;
        let (tried, born) = outcome?;
        let recorded = |address: Ipv4Addr, verdict: Verdict| -> u64 {
            let rows = counted.flows.iter();
            rows.filter(|row| row.address == IpAddr::V4(address) && row.verdict == verdict)
                .map(|row| row.attempts)
                .sum()
        };
        let (denied, allowed) = (
            recorded(probe::DENIED, Verdict::Deny),
            recorded(probe::ALLOWED, Verdict::Allow),
        );
        if denied != tried || allowed != tried {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "pass the self-probe: of {tried} attempts each, {denied} were refused and {allowed} let through"
                ),
            ));
        }
        // What was not born there is met when it acts, or at its exec.
        if born
            && self.features.contains(&Feature::Processes)
            && counted.subjects.iter().all(|subject| subject.late)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "pass the self-probe: its process was not seen to start",
            ));
        }
        Ok(())
    }

    /// Observe or enforce, from the next attempt on.
    pub fn set_mode(&mut self, mode: Mode) -> Result<(), Error> {
        self.live.set_enforce(mode == Mode::Enforce);
        Ok(())
    }

    /// Let sockets be made that only packets show, though the default denies. To be called before the child is started.
    pub fn open_families(&mut self) {
        self.live.set_open_families();
    }

    /// Unix sockets that are denied are out of the command's sight. To be called before the child is started.
    pub fn hide_sockets(&mut self) {
        self.live.set_hides();
    }

    /// Is anything refused?
    pub fn enforces(&self) -> bool {
        self.live.enforce()
    }

    /// Are they?
    pub fn hides(&self) -> bool {
        self.live.hides()
    }

    /// Say that a supervisor lives and will answer denied lookups. To be called at least once a second.
    pub fn heartbeat(&self) -> Result<(), Error> {
        self.live.heart().beat();
        Ok(())
    }

    /// For somebody who says the same in this thread's place, as long as that waits for something to happen.
    pub fn heart(&self) -> Heart {
        self.live.heart().clone()
    }

    /// The presentation form of a name id, if the kernel knows it.
    pub fn name(&self, id: u64) -> Option<String> {
        self.record.name(id)
    }

    /// One subject, as the kernel knows it now. Not redacted.
    pub fn subject(&self, id: SubjectId) -> Option<SubjectRow> {
        self.record.subject(id)
    }

    /// Which subject a process of the run is now, 0 where that is not known; none for a process of others, and for one
    /// that has ended.
    pub fn process(&self, tgid: u32) -> Option<SubjectId> {
        let row = self
            .maps
            .bs_processes
            .lookup(&tgid.to_ne_bytes(), MapFlags::ANY)
            .ok()??;
        abi::value(&row).map(|row: abi::bs_process| row.subject)
    }

    /// Hand the unix sockets that were reached for so far to `each`.
    pub fn contacts(&self, each: &mut dyn FnMut(DelegateRow)) -> Result<(), Error> {
        self.record.contacts(each)
    }

    /// Hand the record so far to `each`, row by row.
    pub fn read(&self, each: &mut dyn FnMut(Row)) -> Result<(), Error> {
        self.record.read(each)
    }

    /// What tells whether the record may have changed since the last time, without reading it: attempts, and processes. None
    /// where that cannot be told.
    pub fn pulse(&self) -> Option<(Counters, u64)> {
        let counted = self.record.counters().ok()?;
        Some((counted, self.live.subjects()))
    }

    /// Names of the features in use, for the report.
    pub fn features(&self) -> Vec<String> {
        self.features
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect()
    }

    /// Is this feature in use?
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Take the programs off, so that nothing more is judged or counted; the record stays readable.
    pub fn detach(&mut self) -> Result<(), Error> {
        let mut failed = self.enrolled.as_mut().map_or(Ok(()), Enrolled::leave);
        self.record.skipped.end();
        for (name, link) in std::mem::take(&mut self.links) {
            // At once, where the kernel can (a cgroup's links): the last reference may go a moment later.
            let _ = link.detach();
            let Some(pins) = &self.pins else { continue };
            match fs::remove_file(layout_dir(pins).join(format!("link_{name}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failed = Err(Error::caused(
                        ErrorKind::Io,
                        format!("remove the pinned link of {name}"),
                        error,
                    ));
                }
                _ => {}
            }
        }
        self.let_claimants_go();
        failed
    }

    /// Detach and unpin everything. Dropping a pinned `Session` instead leaves the run guarded.
    pub fn remove(self) -> Result<(), Error> {
        let pins = self.pins.clone();
        drop(self);
        match pins {
            Some(dir) => Orphan::remove(&dir),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
