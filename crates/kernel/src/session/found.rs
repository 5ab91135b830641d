//! Guarding a cgroup that was there before: its processes, its sockets, and the move from the cgroup in which the
//! programs have shown that they judge.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use blackstart_core::record::SubjectId;
use blackstart_core::tables::Tables;
use libbpf_rs::{MapCore, MapFlags, libbpf_sys};

use super::reload::row;
use super::{Feature, Session, known_addresses};
use crate::abi;
use crate::fill::words;
use crate::{Error, ErrorKind};

/// A process that was there before the programs, as /proc tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundProcess {
    /// Its thread group id, initial pid namespace.
    pub tgid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its start, by CLOCK_BOOTTIME.
    pub started_ns: u64,
    /// Its executable.
    pub exe: Vec<u8>,
    /// Its arguments, each with a NUL behind it.
    pub argv: Vec<u8>,
}

/// A datagram socket that was there before the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSocket {
    /// Its cookie.
    pub cookie: u64,
    /// A process that holds it.
    pub tgid: u32,
}

impl Session {
    /// Leave the cgroup that the programs are attached to, which is empty, for another one, of which processes are
    /// followed from here on. [`Self::guard`] is to come.
    pub fn move_to(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let of_cgroup = |name: &str| {
            let mut tracing = self.features.iter().filter(|feature| feature.is_tracing());
            !tracing.any(|feature| feature.programs().contains(&name))
        };
        for (name, link) in &self.links {
            if of_cgroup(name) {
                link.detach().map_err(|error| {
                    Error::caused(ErrorKind::Io, format!("detach the program {name}"), error)
                })?;
            }
        }
        let links = std::mem::take(&mut self.links);
        self.links = links
            .into_iter()
            .filter(|(name, _)| !of_cgroup(name))
            .collect();
        self.live.forget_level();
        self.attach_where(cgroup, |_| false)
    }

    /// Attach the programs that judge. The other half of [`Self::move_to`].
    pub fn guard(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        self.attach_where(cgroup, |feature| !feature.is_tracing())
    }

    /// Give processes their subjects that have none; parents come before what they have started. To be called after
    /// [`Self::move_to`]. Their numbers, by thread group id; there is none for whom there was no room.
    pub fn found(
        &mut self,
        tables: &Tables,
        processes: &[FoundProcess],
    ) -> Result<HashMap<u32, SubjectId>, Error> {
        let mut subjects = HashMap::new();
        let mut selectors = HashMap::new();
        if !self.has(Feature::Processes) {
            return Ok(subjects);
        }
        let failed = |error| Error::caused(ErrorKind::Io, "write the row of a process", error);
        let maps = &self.maps;
        for process in processes {
            if let Some(known) = row::<_, abi::bs_process>(&maps.bs_processes, &process.tgid) {
                subjects.insert(process.tgid, known.subject);
                continue;
            }
            let parent = subjects.get(&process.parent).copied().unwrap_or(0);
            let inherited = selectors.get(&parent).copied().unwrap_or(0);
            let holds = inherited & tables.tree_selectors() | tables.selectors_of(&process.exe);
            let id = self.live.number_subject();
            let place = (self.live.generation() & 1) as usize;
            let mut subject = abi::bs_subject {
                parent,
                tgid: process.tgid,
                started_ns: process.started_ns,
                late: abi::bs_late::BS_LATE_FOUND.0 as u8,
                ..abi::zeroed()
            };
            subject.selectors[place] = holds;
            subject.exe_len = fill(&mut subject.exe, &process.exe) as u16;
            let mut rest: abi::bs_argv_rest = abi::zeroed();
            let head = fill(&mut subject.argv, &process.argv);
            let tail = fill(&mut rest.text, &process.argv[head..]);
            let is_long = tail > 0
                && maps
                    .bs_argv_rest
                    .update(&id.to_ne_bytes(), abi::octets(&rest), MapFlags::ANY)
                    .is_ok();
            let kept = if is_long { head + tail } else { head };
            subject.argv_len = kept as u16;
            subject.argv_cut = u8::from(kept < process.argv.len());
            let written =
                maps.bs_subjects
                    .update(&id.to_ne_bytes(), abi::octets(&subject), MapFlags::ANY);
            if written.is_err() {
                // No room: what it does has no process, which the record shows.
                continue;
            }
            let acts = abi::bs_process {
                subject: id,
                active: 1,
                pad: 0,
            };
            let key = process.tgid.to_ne_bytes();
            let place = &maps.bs_processes;
            if place
                .update(&key, abi::octets(&acts), MapFlags::NO_EXIST)
                .is_ok()
            {
                if let Some(enrolled) = &self.enrolled {
                    enrolled.met(process.tgid);
                }
                subjects.insert(process.tgid, id);
                selectors.insert(id, holds);
            } else {
                // It forked, executed or acted in between, and has its row by that.
                maps.bs_subjects.delete(&id.to_ne_bytes()).map_err(failed)?;
            }
        }
        Ok(subjects)
    }

    /// Tell whose these sockets are, since no hook has seen them being made. To be called before [`Self::guard`], while
    /// no program looks at a socket.
    pub fn found_sockets(
        &mut self,
        sockets: &[FoundSocket],
        subjects: &HashMap<u32, SubjectId>,
    ) -> Result<(), Error> {
        let failed = |error| Error::caused(ErrorKind::Io, "write the row of a socket", error);
        let maps = &self.maps;
        for found in sockets {
            let Some(&subject) = subjects.get(&found.tgid) else {
                continue;
            };
            let number = (found.cookie % u64::from(maps.bs_seats.max_entries())) as u32;
            let Some(mut seat) = row::<_, abi::bs_seat>(&maps.bs_seats, &number) else {
                continue;
            };
            let socket = abi::bs_socket {
                subject,
                ..abi::zeroed()
            };
            if seat.cookie == 0 {
                seat.cookie = found.cookie;
                seat.socket = socket;
            } else {
                let key = found.cookie.to_ne_bytes();
                let written = maps
                    .bs_sockets
                    .update(&key, abi::octets(&socket), MapFlags::ANY);
                if written.is_err() {
                    continue;
                }
                seat.elsewhere += 1;
            }
            let key = number.to_ne_bytes();
            maps.bs_seats
                .update(&key, abi::octets(&seat), MapFlags::ANY)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Has a hook judged the socket with this cookie?
    pub fn is_judged(&self, cookie: u64) -> bool {
        let maps = &self.maps;
        let number = (cookie % u64::from(maps.bs_seats.max_entries())) as u32;
        row::<_, abi::bs_seat>(&maps.bs_seats, &number)
            .filter(|seat| seat.cookie == cookie)
            .map(|seat| seat.socket)
            .or_else(|| row::<_, abi::bs_socket>(&maps.bs_sockets, &cookie))
            .is_some_and(|socket| socket.hooked != 0)
    }

    /// Which selectors of the policy hold for a process.
    pub fn holding(&self, tables: &Tables, subject: SubjectId) -> u64 {
        self.selectors(tables, subject)
    }

    /// The kernel's ids of what is attached.
    pub fn links(&self) -> Vec<u32> {
        let ids = self.links.iter().filter_map(|(_, link)| link.info().ok());
        ids.map(|link| link.id).collect()
    }

    /// Other resolvers, and other addresses of the host's own, than were known before: both whole.
    pub fn know(&mut self, before: Known<'_>, now: Known<'_>) -> Result<(), Error> {
        let rows = |of| {
            known_addresses(of)
                .0
                .into_iter()
                .collect::<BTreeMap<_, _>>()
        };
        let (before, now) = (rows(before), rows(now));
        for address in before.keys().chain(now.keys()) {
            let flags = now.get(address).copied().unwrap_or(0);
            if before.get(address).copied().unwrap_or(0) == flags {
                continue;
            }
            self.refill(&abi::bs_refill {
                kind: abi::bs_refill_kind::BS_REFILL_KNOWN.0,
                addr: words(*address),
                bits: flags.into(),
                ..abi::zeroed()
            })?;
        }
        Ok(())
    }
}

/// Detach the links with these ids from the cgroup with this id, wherever they are pinned. How many there were.
pub fn detach_links(ids: &[u32], cgroup: u64) -> usize {
    let mut detached = 0;
    for id in ids {
        // SAFETY: takes a plain number, and gives a descriptor that is ours, or a negative error.
        let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(*id) };
        if fd < 0 {
            continue;
        }
        // SAFETY: as above.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        // A number may have come to mean another one's.
        if cgroup_of(&link) != Some(cgroup) {
            continue;
        }
        // SAFETY: the descriptor is open, and of a link.
        detached += usize::from(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) } == 0);
    }
    detached
}

/// The cgroup that a link is attached to; none if it is to something else.
fn cgroup_of(link: &OwnedFd) -> Option<u64> {
    // SAFETY: plain numbers, and a union of such.
    let mut info: libbpf_sys::bpf_link_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libbpf_sys::bpf_link_info>() as u32;
    // SAFETY: the descriptor is open, and `info` has room for as much as is told.
    let told = unsafe {
        libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut length)
    };
    if told != 0 || info.type_ != libbpf_sys::BPF_LINK_TYPE_CGROUP {
        return None;
    }
    // SAFETY: any octets are a valid number; by the type the kernel wrote this member of the union.
    Some(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
}

/// What needs no lookup to be known.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The name servers.
    pub resolvers: &'a [IpAddr],
    /// The host's own addresses.
    pub own_addresses: &'a [IpAddr],
}

/// As much as there is room for; how much that is.
fn fill(room: &mut [u8], octets: &[u8]) -> usize {
    let fits = octets.len().min(room.len());
    room[..fits].copy_from_slice(&octets[..fits]);
    fits
}
