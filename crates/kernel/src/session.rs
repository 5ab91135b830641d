//! One run's programs and maps: load, attach, pin, read, remove.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use blackstart_core::name::Name;
use blackstart_core::record::{DelegateRow, Row, SocketKind, SubjectId, SubjectRow, Verdict};
use blackstart_core::report::Mode;
use blackstart_core::tables::{Tables, Uses};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, OpenProgramMut, ProgramMut, RingBuffer, RingBufferBuilder,
};
use rustix::time::ClockId;

use crate::abi;
use crate::fill::{NameKeys, Offsets, PolicyRows, address, words};

use crate::probe;
use crate::read::{Record, nanoseconds, verdict, wire_text};
use crate::{AnswerWanted, Error, ErrorKind, Event};
use forward::{Listening, Unwritten};
use found::Known;
use reload::{Room, write_policy};

mod claim;
pub mod forward;
pub mod found;
mod reload;

/// A group of programs that is loaded as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// `cgroup_skb`: DNS queries and answers, backstop, bytes, handshakes.
    Names,
    /// `connect4/6`, `sendmsg4/6`: verdicts with an errno.
    Addresses,
    /// `sock_create`: whose the sockets are that only packets show; refusing them where the default denies.
    SocketKinds,
    /// `sock_release`: what a socket had sent, and whether a connect was given up.
    Outcomes,
    /// `tp_btf/sched_process_*`: subjects.
    Processes,
    /// `tp_btf/cgroup_attach_task`: leaving the run.
    Leavers,
    /// `connect_unix`, `sendmsg_unix` (6.7): delegates.
    UnixSockets,
    /// `sockops` and `sk_msg`: whom connections say that they are for.
    Claims,
}

impl Feature {
    /// As the report and `doctor` name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Addresses => "addresses",
            Self::SocketKinds => "socket_kinds",
            Self::Outcomes => "outcomes",
            Self::Processes => "processes",
            Self::Leavers => "leavers",
            Self::UnixSockets => "unix_sockets",
            Self::Claims => "claims",
        }
    }

    /// The programs that it is made of.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Names => &["bs_egress", "bs_ingress"],
            Self::Addresses => &[
                "bs_connect4",
                "bs_connect6",
                "bs_sendmsg4",
                "bs_sendmsg6",
                "bs_getpeername4",
                "bs_getpeername6",
            ],
            Self::SocketKinds => &["bs_create"],
            Self::Outcomes => &["bs_release"],
            Self::Processes => &["bs_fork", "bs_exec", "bs_exit"],
            Self::Leavers => &["bs_move"],
            Self::UnixSockets => &["bs_connect_unix", "bs_sendmsg_unix"],
            // First who reads, then who brings something to read.
            Self::Claims => &[claim::READER, claim::BRINGER],
        }
    }

    /// Attached to tracepoints of the whole host, not to the cgroup. Their programs are whole from the start: a
    /// tracepoint's cannot be replaced in one step, and two at once would count everything twice.
    fn is_tracing(self) -> bool {
        matches!(self, Self::Processes | Self::Leavers)
    }
}

/// What a run's tables are filled with.
#[derive(Debug)]
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
    ring: RingBuffer<'static>,
    links: Vec<(String, Link)>,
    record: Record,
    skeleton: abi::BlackstartSkel<'static>,
    live: Live,
    events: Rc<RefCell<Vec<RawEvent>>>,
    features: BTreeSet<Feature>,
    pins: Option<std::path::PathBuf>,
    /// What the programs are attached to.
    cgroup: Option<OwnedFd>,
    keys: NameKeys,
    room: Room,
    /// The programs of any policy, once another than the first has judged.
    whole: Option<abi::BlackstartSkel<'static>>,
    /// The program that writes rows for user space, where `whole` does not have it.
    filler: Option<abi::BlackstartSkel<'static>>,
    /// The programs that read names which connections give, where a later policy was the first to want them.
    reader: Option<abi::BlackstartSkel<'static>>,
    /// Rules of all policies so far: the next one's are numbered from there.
    rules: u32,
    /// Rules of the policies before the one that judges.
    first_rule: u32,
    /// Where lookups over TCP are turned to.
    forwarder: Option<Listening>,
    unwritten: Unwritten,
    left_out: LeftOut,
}

/// `struct bs_live` in the map's memory, which is mapped as long as the skeleton lives. The kernel reads each
/// word with plain loads at any time; so they are written volatile, whole, and one at a time.
struct Live {
    heartbeat_ns: NonNull<u64>,
    cgroup_id: NonNull<u64>,
    enforce: NonNull<u32>,
    break_glass: NonNull<u32>,
    open_families: NonNull<u32>,
    generation: NonNull<u32>,
    coming: NonNull<u32>,
    suspended_ns: NonNull<u64>,
    cgroup_level: NonNull<u32>,
    subject_count: NonNull<u64>,
    policies: [NonNull<abi::bs_policy>; 2],
    kinds: [NonNull<[[u8; 256]; 2]>; 2],
}

impl Live {
    fn new(variables: &mut abi::bss) -> Self {
        let abi::bss {
            live,
            subject_count,
            policies: [even, odd],
            kinds_of_octets: [even_kinds, odd_kinds],
            ..
        } = variables;
        Self {
            heartbeat_ns: NonNull::from(&mut live.heartbeat_ns),
            cgroup_id: NonNull::from(&mut live.cgroup_id),
            enforce: NonNull::from(&mut live.enforce),
            break_glass: NonNull::from(&mut live.break_glass),
            open_families: NonNull::from(&mut live.open_families),
            generation: NonNull::from(&mut live.generation),
            coming: NonNull::from(&mut live.coming),
            suspended_ns: NonNull::from(&mut live.suspended_ns),
            cgroup_level: NonNull::from(&mut live.cgroup_level),
            subject_count: NonNull::from(subject_count),
            policies: [NonNull::from(even), NonNull::from(odd)],
            kinds: [NonNull::from(even_kinds), NonNull::from(odd_kinds)],
        }
    }

    /// Describe a policy in a place that no program reads yet.
    fn set_policy(&self, place: usize, rows: &PolicyRows) {
        // SAFETY: points into the mapped map; until the generation is raised no program reads this place.
        unsafe { self.policies[place].write_volatile(rows.head) };
        // SAFETY: as above.
        unsafe { self.kinds[place].write_volatile(rows.kinds) };
    }

    fn generation(&self) -> u32 {
        // SAFETY: points into the mapped map, and only this thread writes it.
        unsafe { self.generation.read_volatile() }
    }

    fn set_generation(&self, generation: u32) {
        // SAFETY: as above.
        unsafe { self.generation.write_volatile(generation) };
    }

    fn enforce(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.enforce.read_volatile() != 0 }
    }

    fn break_glass(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.break_glass.read_volatile() != 0 }
    }

    fn set_coming(&self, coming: u32) {
        // SAFETY: as above.
        unsafe { self.coming.write_volatile(coming) };
    }

    fn set_break_glass(&self) {
        // SAFETY: as above.
        unsafe { self.break_glass.write_volatile(1) };
    }

    fn set_open_families(&self) {
        // SAFETY: as above.
        unsafe { self.open_families.write_volatile(1) };
    }

    fn set_heartbeat(&self, now_ns: u64) {
        // SAFETY: points into the mapped map, and only this process's one supervisor thread writes.
        unsafe { self.heartbeat_ns.write_volatile(now_ns) };
    }

    /// How long the host was suspended up to now: what the cheap clock of the programs does not know.
    fn set_suspended(&self) {
        let suspended = nanoseconds(ClockId::Boottime) - nanoseconds(ClockId::Monotonic);
        // SAFETY: as above.
        unsafe { self.suspended_ns.write_volatile(suspended.max(0) as u64) };
    }

    fn set_cgroup_id(&self, id: u64) {
        // SAFETY: as above.
        unsafe { self.cgroup_id.write_volatile(id) };
    }

    /// How deep the cgroup lies is to be found out again.
    fn forget_level(&self) {
        // SAFETY: as above; a program that finds it out again writes a whole word as well.
        unsafe { self.cgroup_level.write_volatile(0) };
    }

    /// A number for a subject, which no program gives to another one.
    fn number_subject(&self) -> u64 {
        // SAFETY: points into the mapped map, aligned; programs add to it by atomic instructions only.
        let count = unsafe { AtomicU64::from_ptr(self.subject_count.as_ptr()) };
        count.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn set_enforce(&self, enforce: bool) {
        // SAFETY: as above.
        unsafe { self.enforce.write_volatile(u32::from(enforce)) };
    }
}

/// An event before the ids in it are resolved.
enum RawEvent {
    Short(abi::bs_event),
    Lookup(Box<abi::bs_lookup_event>),
}

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
        libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, say)));
        let forwarder = settings
            .forwarder
            .filter(|_| forward::NEEDS.iter().all(|need| features.contains(need)));
        let mut open = opened(features, forwarder.is_some())?;
        let keys = NameKeys::random()?;
        let mut rows = PolicyRows::new(settings.tables, keys, &Offsets::default());
        let room = Room::for_policy(&rows);
        let fixed = settings.hosts.len() + known(settings.known()).0.len();
        room.size(&mut open, fixed as u32)?;
        set_constants(
            &mut open,
            keys,
            spared(settings.tables.uses()),
            forwarder.as_ref(),
        );

        let mut skeleton = open.load().map_err(load_error)?;
        let record = Record::new(|name| {
            let map = skeleton
                .object()
                .maps()
                .find(|map| map.name() == name)
                .ok_or_else(|| Error::new(ErrorKind::Layout, format!("find the map {name}")))?;
            MapHandle::try_from(&map).map_err(|error| {
                Error::caused(ErrorKind::Io, format!("hold the map {name}"), error)
            })
        })?;
        let variables = skeleton.maps.bss_data.as_deref_mut();
        let live = Live::new(variables.expect("the object has variables"));
        live.set_suspended();
        write_policy(&skeleton, &live, &mut rows, &room, 0)?;
        let left_out = write_known(&skeleton, settings, keys)?;

        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&events);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&skeleton.maps.bs_events, move |octets| {
                sink.borrow_mut().extend(raw_event(octets));
                0
            })
            .map_err(|error| Error::caused(ErrorKind::Io, "listen to the live view", error))?;
        let ring = builder
            .build()
            .map_err(|error| Error::caused(ErrorKind::Io, "listen to the live view", error))?;
        Ok(Self {
            ring,
            links: Vec::new(),
            record,
            skeleton,
            live,
            events,
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
        for feature in self.features.clone() {
            for name in feature.programs() {
                if !meant(feature) {
                    continue;
                }
                let mut programs = self.skeleton.object_mut().progs_mut();
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
                drop(programs);
                self.links.push(((*name).to_owned(), link));
            }
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
        claim::pin_table(&self.skeleton.maps.bs_claimants, &layout)?;
        for (name, link) in &mut self.links {
            link.pin(layout.join(format!("link_{name}")))
                .map_err(|error| {
                    Error::caused(ErrorKind::Io, format!("pin the link of {name}"), error)
                })?;
        }
        Ok(())
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
        let leases = MapHandle::try_from(&self.skeleton.maps.bs_leases).map_err(failed)?;
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
        self.events.borrow_mut().clear();
        self.ring.consume().map_err(failed)?;
        self.events.borrow_mut().clear();
        let tried = outcome?;
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
        if self.features.contains(&Feature::Processes)
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

    /// Say that a supervisor lives and will answer denied lookups. To be called at least once a second.
    pub fn heartbeat(&self) -> Result<(), Error> {
        let now = nanoseconds(ClockId::Boottime) as u64;
        self.live.set_heartbeat(now);
        self.live.set_suspended();
        Ok(())
    }

    /// Readable when events wait.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.epoll_fd();
        // SAFETY: the descriptor belongs to `ring`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Hand waiting events to `each`, without blocking; `most` of them, since more may come as fast as they are read.
    pub fn drain_events(&mut self, most: usize, each: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let read = self.ring.consume_raw_n(most);
        if read < 0 {
            let error = std::io::Error::from_raw_os_error(-read);
            return Err(Error::caused(ErrorKind::Io, "read the live view", error));
        }
        let waiting = std::mem::take(&mut *self.events.borrow_mut());
        for raw in waiting {
            each(self.resolve(raw));
        }
        Ok(())
    }

    fn resolve(&self, raw: RawEvent) -> Event {
        match raw {
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_LEFT.0 => {
                Event::Left {
                    subject: event.subject,
                    tgid: event.tgid,
                    cgroup: event.name,
                }
            }
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_CONTACT.0 => {
                Event::Contact
            }
            RawEvent::Short(event) if event.kind == abi::bs_event_kind::BS_EVENT_SOCKET.0 => {
                Event::Socket {
                    subject: event.subject,
                    tgid: self
                        .record
                        .subject(event.subject)
                        .map_or(0, |subject| subject.tgid),
                    kind: SocketKind {
                        family: (event.name >> 32) as u16,
                        kind: (event.name >> 16) as u8,
                        protocol: event.name as u16,
                    },
                    verdict: verdict(event.verdict),
                    rule: event.rule,
                }
            }
            RawEvent::Short(event) => Event::Attempt {
                subject: event.subject,
                tgid: self
                    .record
                    .subject(event.subject)
                    .map_or(0, |subject| subject.tgid),
                name: event.name,
                address: address(event.addr),
                port: event.port,
                protocol: event.protocol,
                verdict: verdict(event.verdict),
                rule: event.rule,
            },
            RawEvent::Lookup(event) => {
                let question = event.wire[..usize::from(event.len).min(event.wire.len())].to_vec();
                Event::Lookup {
                    subject: event.subject,
                    tgid: event.tgid,
                    name: wire_text(&question.to_ascii_lowercase()),
                    qtype: event.qtype,
                    verdict: verdict(event.verdict),
                    rule: event.rule,
                    answer: (event.answer != 0).then(|| AnswerWanted {
                        tgid: event.tgid,
                        id: event.id,
                        flags: event.flags,
                        question,
                        qtype: event.qtype,
                        qclass: event.qclass,
                        edns: event.edns != 0,
                        client: SocketAddr::new(address(event.client), event.client_port),
                        server: SocketAddr::new(address(event.server), event.server_port),
                    }),
                }
            }
        }
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
            .skeleton
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
        let mut failed = Ok(());
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

/// A run whose supervisor is gone: its pinned maps, read by another process.
pub struct Orphan {
    record: Record,
}

impl Orphan {
    /// Open the pins below `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::Layout`] if they were left by a release with other maps.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let layout = layout_dir(dir);
        if !layout.is_dir() {
            return Err(Error::new(
                ErrorKind::Layout,
                format!(
                    "read {}: its maps are not of layout {LAYOUT}",
                    dir.display()
                ),
            ));
        }
        Ok(Self {
            record: Record::pinned(&layout)?,
        })
    }

    /// Hand the record to `each`, row by row.
    pub fn read(&self, each: &mut dyn FnMut(Row)) -> Result<(), Error> {
        self.record.read(each)
    }

    /// Remove every pin below `dir`, whatever its layout, and `dir` itself: programs are detached with their last
    /// link.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::caused(
                ErrorKind::Io,
                format!("remove the pins {}", dir.display()),
                error,
            )),
            _ => Ok(()),
        }
    }
}

/// The object, from which the programs of `features` are to be loaded.
fn opened(
    features: &BTreeSet<Feature>,
    forwards: bool,
) -> Result<abi::OpenBlackstartSkel<'static>, Error> {
    // The skeleton borrows this for its whole life, and a process supervises one run: it is never given back.
    let storage = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = abi::BlackstartSkelBuilder::default()
        .open(storage)
        .map_err(|error| Error::caused(ErrorKind::Unsupported, "open the BPF object", error))?;
    for mut program in open.open_object_mut().progs_mut() {
        let spared = !forwards && forward::PEERS.iter().any(|name| program.name() == *name);
        let wanted = features.iter().any(|feature| is_of(&program, *feature));
        program.set_autoload(wanted && !spared);
    }
    open.maps
        .data_types
        .set_autocreate(false)
        .map_err(|error| {
            Error::caused(
                ErrorKind::Unsupported,
                "leave out the types' section",
                error,
            )
        })?;
    Ok(open)
}

/// What is constant for the programs, before they are loaded.
fn set_constants(
    open: &mut abi::OpenBlackstartSkel<'_>,
    keys: NameKeys,
    spared: abi::bs_spared,
    forwarder: Option<&Listening>,
) {
    let constants = open.maps.rodata_data.as_deref_mut();
    let constants = constants.expect("the object has constants");
    constants.config.name_key = keys.name;
    constants.config.label_key = keys.label;
    constants.config.multiplier = keys.multiplier;
    constants.spared = spared;
    constants.forward = forwarder.map_or_else(abi::zeroed, Listening::row);
}

/// What a run's first programs go without: all that its policy does not use, and what only a change of policy needs.
fn spared(uses: Uses) -> abi::bs_spared {
    abi::bs_spared {
        reload: 1,
        processes: u32::from(!uses.processes),
        prefixes: u32::from(!uses.prefixes),
        sockets: u32::from(!uses.sockets),
        refusals: u32::from(!uses.refusals),
        expiry: u32::from(!uses.expiry),
    }
}

fn is_of(program: &OpenProgramMut<'_>, feature: Feature) -> bool {
    feature
        .programs()
        .iter()
        .any(|name| program.name() == *name)
}

fn attach_one(
    program: &ProgramMut<'_>,
    feature: Feature,
    cgroup: BorrowedFd<'_>,
) -> Result<Link, libbpf_rs::Error> {
    if feature.is_tracing() {
        program.attach_trace()
    } else {
        program.attach_cgroup(cgroup.as_raw_fd())
    }
}

thread_local! {
    /// The last complaint of libbpf's: its errors carry a number only.
    static COMPLAINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What libbpf says while it works goes to the log, verifier's complaints included.
fn say(level: libbpf_rs::PrintLevel, text: String) {
    let text = text.trim_end();
    tracing::debug!(target: "libbpf", "{text}");
    // A refused program's whole log comes as one text: not that, but the line that names it.
    if level == libbpf_rs::PrintLevel::Warn && text.contains("failed") && text.lines().count() == 1
    {
        COMPLAINT.with(|last| {
            last.borrow_mut()
                .get_or_insert_with(|| text.trim_start_matches("libbpf: ").to_owned());
        });
    }
}

fn load_error(error: libbpf_rs::Error) -> Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
            ErrorKind::Permission
        }
        libbpf_rs::ErrorKind::PermissionDenied | libbpf_rs::ErrorKind::InvalidInput => {
            ErrorKind::Verifier
        }
        _ => ErrorKind::Unsupported,
    };
    let doing = match COMPLAINT.with(RefCell::take) {
        Some(complaint) => format!("load the BPF programs ({complaint})"),
        None => "load the BPF programs".to_owned(),
    };
    Error::caused(kind, doing, error)
}

/// Addresses that are known without a lookup. More are not marked: each takes a row of `bs_leases`.
const KNOWN_MOST: usize = 4000;

/// Write what is known before the first lookup: the host's own addresses, its resolvers, and names from /etc/hosts,
/// which never ask a server.
fn write_known(
    skeleton: &abi::BlackstartSkel<'_>,
    settings: &Settings<'_>,
    keys: NameKeys,
) -> Result<LeftOut, Error> {
    let failed = |error| Error::caused(ErrorKind::Io, "write the leases of /etc/hosts", error);
    let maps = &skeleton.maps;
    let (known, own_addresses) = known(settings.known());
    let mut left_out = LeftOut {
        own_addresses,
        hosts: 0,
    };
    for (address, flags) in known {
        let key = abi::bs_address {
            addr: words(address),
        };
        let lease = abi::bs_lease {
            known: flags,
            ..abi::zeroed()
        };
        maps.bs_leases
            .update(abi::octets(&key), abi::octets(&lease), MapFlags::ANY)
            .map_err(|error| Error::caused(ErrorKind::Io, "write the known addresses", error))?;
    }
    for (text, ip) in settings.hosts {
        // A line that is no name gives no lease; resolv.conf's parser has dropped what it could tell.
        let Ok(name) = Name::parse(text) else {
            continue;
        };
        let id = keys.of_name(&name);
        let class = settings.tables.class_of_name(&name);
        let mut row: abi::bs_name = abi::zeroed();
        let wire = name.as_wire();
        row.wire[..wire.len()].copy_from_slice(wire);
        row.len = wire.len() as u16;
        row.hash = id;
        row.class_id = class;
        maps.bs_names
            .update(&id.to_ne_bytes(), abi::octets(&row), MapFlags::ANY)
            .map_err(failed)?;

        let answer = abi::bs_answer {
            fixed: 1,
            ..abi::zeroed()
        };
        let key = abi::bs_answer_key {
            name: id,
            addr: words(*ip),
        };
        maps.bs_answers
            .update(abi::octets(&key), abi::octets(&answer), MapFlags::ANY)
            .map_err(failed)?;

        let at = abi::bs_address { addr: words(*ip) };
        let mut lease: abi::bs_lease = maps
            .bs_leases
            .lookup(abi::octets(&at), MapFlags::ANY)
            .map_err(failed)?
            .and_then(|octets| abi::value(&octets))
            .unwrap_or_else(abi::zeroed);
        let used = lease.used as usize;
        let slots = lease.slot.len();
        match lease.slot[..used]
            .iter_mut()
            .find(|slot| slot.class_id == class)
        {
            Some(slot) => slot.several = 1,
            None if used < slots => {
                lease.slot[used] = abi::bs_lease_slot {
                    name: id,
                    class_id: class,
                    // A slot that was never seen is one to write over.
                    seen: 1,
                    ..abi::zeroed()
                };
                lease.used += 1;
            }
            // More classes on one address than a lease holds; the ones that came first stay.
            None => left_out.hosts += 1,
        }
        maps.bs_leases
            .update(abi::octets(&at), abi::octets(&lease), MapFlags::ANY)
            .map_err(failed)?;
    }
    Ok(left_out)
}

/// The addresses that are known without a lookup, and as what; and how many more there would be. The resolvers come
/// first: without one, no name could be looked up under an allow-list.
fn known(of: Known<'_>) -> (Vec<(IpAddr, u32)>, usize) {
    let (own, resolver) = (
        abi::bs_known::BS_KNOWN_OWN.0,
        abi::bs_known::BS_KNOWN_RESOLVER.0,
    );
    let canonical = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
        addresses.iter().map(IpAddr::to_canonical).collect()
    };
    let (own_addresses, resolvers) = (canonical(of.own_addresses), canonical(of.resolvers));
    let both = |address: &IpAddr| {
        if own_addresses.contains(address) {
            own
        } else {
            0
        }
    };
    let mut known: Vec<_> = resolvers
        .iter()
        .map(|address| (*address, resolver | both(address)))
        .collect();
    known.extend(
        own_addresses
            .difference(&resolvers)
            .map(|address| (*address, own)),
    );
    let more = known.len().saturating_sub(KNOWN_MOST);
    known.truncate(KNOWN_MOST);
    (known, more)
}

fn raw_event(octets: &[u8]) -> Option<RawEvent> {
    let kind: u32 = abi::value(octets)?;
    if kind == abi::bs_event_kind::BS_EVENT_LOOKUP.0 {
        abi::value(octets).map(|event| RawEvent::Lookup(Box::new(event)))
    } else {
        abi::value(octets).map(RawEvent::Short)
    }
}

#[cfg(test)]
mod tests;
