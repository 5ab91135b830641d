//! The record out of the kernel's tables, for a run's own supervisor and for whoever adopts an orphan.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr;

use blackstart_core::name::Name;
use blackstart_core::record::{
    AnswerRow, Attribution, Counters, DelegateRow, FlowRow, LeaverRow, NameRow, QueryRow, Reached,
    Row, Snapshot, SocketKind, SocketRow, SubjectId, SubjectRow, Verdict,
};
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use rustix::time::{ClockId, clock_gettime};

use crate::abi::{self, Plain};
use crate::fill::address;
use crate::skipped::Skipped;
use crate::{Error, ErrorKind};

/// Rows read with one system call, to begin with.
const BATCH: u32 = 512;

/// The maps that hold the record: pinned, so that they outlive the supervisor.
pub(crate) struct Record {
    maps: Vec<(&'static str, MapHandle)>,
    /// What the programs that follow processes and contacts were not called for.
    pub(crate) skipped: Skipped,
}

/// In the order in which they are read: a row that refers to another is read first, so that what it
/// refers to is there.
pub(crate) const RECORD_MAPS: [&str; 13] = [
    "bs_counters",
    "bs_seats",
    "bs_sockets",
    "bs_overflow",
    "bs_flows",
    "bs_queries",
    "bs_answers",
    "bs_delegates",
    "bs_made",
    "bs_leavers",
    "bs_names",
    "bs_argv_rest",
    "bs_subjects",
];

impl Record {
    /// From the maps that `find` gives for each name.
    pub(crate) fn new(
        mut find: impl FnMut(&'static str) -> Result<MapHandle, Error>,
    ) -> Result<Self, Error> {
        let maps = RECORD_MAPS
            .iter()
            .map(|&name| Ok((name, find(name)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            maps,
            skipped: Skipped::default(),
        })
    }

    /// From the pins below `dir`.
    pub(crate) fn pinned(dir: &Path) -> Result<Self, Error> {
        Self::new(|name| {
            MapHandle::from_pinned_path(dir.join(name)).map_err(|error| {
                Error::caused(ErrorKind::Io, format!("open the pinned map {name}"), error)
            })
        })
    }

    fn map(&self, name: &str) -> &MapHandle {
        let (_, map) = self
            .maps
            .iter()
            .find(|(known, _)| *known == name)
            .expect("named in RECORD_MAPS");
        map
    }

    /// Hand every row of a table to `each`, a batch at a time.
    fn rows<K: Plain, V: Plain>(
        &self,
        name: &str,
        each: &mut dyn FnMut(K, V),
    ) -> Result<(), Error> {
        let failed = |error| Error::caused(ErrorKind::Io, format!("read the table {name}"), error);
        let map = self.map(name);
        let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
        if key_size != size_of::<K>() || value_size < size_of::<V>() {
            return Err(Error::new(
                ErrorKind::Layout,
                format!("read the table {name}: its rows have another size than this release's"),
            ));
        }
        let mut batches = Batches::new(map);
        while let Some((keys, values)) = batches.next().map_err(failed)? {
            let pairs = keys
                .chunks_exact(key_size)
                .zip(values.chunks_exact(value_size));
            for (key, row) in pairs {
                if let (Some(key), Some(row)) = (abi::value(key), abi::value(row)) {
                    each(key, row);
                }
            }
        }
        Ok(())
    }

    /// The name of one id.
    pub(crate) fn name(&self, id: u64) -> Option<String> {
        let row = self
            .map("bs_names")
            .lookup(&id.to_ne_bytes(), MapFlags::ANY)
            .ok()??;
        Some(presentation(&abi::value(&row)?))
    }

    /// One subject; where it never called exec, with the program and the arguments of who did.
    pub(crate) fn subject(&self, id: SubjectId) -> Option<SubjectRow> {
        let mut found = self.one_subject(id)?;
        let mut parent = found.parent;
        // A chain of forks is as long as somebody made it; a name is not worth more.
        for _ in 0..16 {
            if !found.argv.is_empty() {
                break;
            }
            let Some(row) = self.one_subject(parent) else {
                break;
            };
            (found.exe, found.argv, found.argv_truncated) = (row.exe, row.argv, row.argv_truncated);
            parent = row.parent;
        }
        Some(found)
    }

    fn one_subject(&self, id: SubjectId) -> Option<SubjectRow> {
        let row = self
            .map("bs_subjects")
            .lookup(&id.to_ne_bytes(), MapFlags::ANY)
            .ok()??;
        Some(self.with_all_arguments(id, &abi::value(&row)?))
    }

    /// A subject's row, with what of its arguments did not fit there.
    fn with_all_arguments(&self, id: SubjectId, row: &abi::bs_subject) -> SubjectRow {
        let rest = || {
            let octets = self
                .map("bs_argv_rest")
                .lookup(&id.to_ne_bytes(), MapFlags::ANY)
                .ok()??;
            abi::value(&octets)
        };
        let rest = (usize::from(row.argv_len) > row.argv.len())
            .then(rest)
            .flatten();
        subject(id, row, rest.as_ref())
    }

    /// Hand the whole record to `each`, row by row.
    pub(crate) fn read(&self, each: &mut dyn FnMut(Row)) -> Result<(), Error> {
        each(Row::Clock(boot_offset_ns()));
        // Not among what is asked for now and then: the kernel tells it as text, one program after the other.
        each(Row::Counters(Counters {
            hooks_skipped: self.skipped.count(),
            ..self.counters()?
        }));
        let held = self.held_by_sockets()?;
        self.rows(
            "bs_flows",
            &mut |key: abi::bs_flow_key, row: abi::bs_flow| {
                let held = held.get(&FlowId::of_flow(&key)).copied();
                let held = held.unwrap_or_default();
                // All of its attempts turned out to be for another name.
                if row.attempts + held.attempts == 0 {
                    return;
                }
                each(Row::Flow(FlowRow {
                    subject: key.subject,
                    name: key.name,
                    address: address(key.addr),
                    port: key.port,
                    protocol: key.protocol,
                    verdict: verdict(key.verdict),
                    rule: key.rule,
                    attribution: attribution(row.attribution),
                    attempts: row.attempts + held.attempts,
                    connected: row.connected + held.connected,
                    refused: row.refused,
                    timed_out: row.timed_out,
                    bytes_sent: row.bytes + held.bytes,
                    first_ns: row.first_ns,
                    last_ns: row.last_ns.max(held.last_ns),
                }));
            },
        )?;
        self.rows(
            "bs_queries",
            &mut |key: abi::bs_query_key, row: abi::bs_query| {
                each(Row::Query(QueryRow {
                    name: key.name,
                    subject: key.subject,
                    qtype: key.qtype,
                    verdict: verdict(key.verdict),
                    rule: key.rule,
                    queries: row.queries,
                    first_ns: row.first_ns,
                    last_ns: row.last_ns,
                }));
            },
        )?;
        self.rows(
            "bs_answers",
            &mut |key: abi::bs_answer_key, row: abi::bs_answer| {
                let length = (row.chain_len as usize).min(row.chain.len());
                each(Row::Answer(AnswerRow {
                    name: key.name,
                    address: address(key.addr),
                    chain: row.chain[..length].to_vec(),
                    fixed: row.fixed != 0,
                }));
            },
        )?;
        self.contacts(&mut |row| each(Row::Delegate(row)))?;
        self.rows("bs_made", &mut |key: abi::bs_made_key, times: u64| {
            each(Row::Socket(SocketRow {
                subject: key.subject,
                kind: SocketKind {
                    family: key.family,
                    kind: key.r#type,
                    protocol: key.protocol,
                },
                verdict: verdict(key.verdict),
                rule: key.rule,
                times,
            }));
        })?;
        self.rows("bs_leavers", &mut |key: abi::bs_leaver_key, _: u64| {
            each(Row::Leaver(LeaverRow {
                subject: key.subject,
                tgid: key.tgid,
                cgroup: key.cgroup,
                returned: false,
            }));
        })?;
        self.rows("bs_names", &mut |id: u64, row: abi::bs_name| {
            each(Row::Name(NameRow {
                id,
                name: presentation(&row),
            }));
        })?;
        self.rows("bs_subjects", &mut |id: u64, row: abi::bs_subject| {
            each(Row::Subject(self.with_all_arguments(id, &row)));
        })
    }

    /// Hand every unix socket that was reached for to `each`.
    pub(crate) fn contacts(&self, each: &mut dyn FnMut(DelegateRow)) -> Result<(), Error> {
        self.rows(
            "bs_delegates",
            &mut |key: abi::bs_delegate_key, attempts: u64| {
                let length = usize::from(key.path_len).min(key.path.len());
                let path = &key.path[..length];
                let path = match path.strip_prefix(&[0]) {
                    Some(rest) => format!("@{}", String::from_utf8_lossy(rest)),
                    None => String::from_utf8_lossy(path).into_owned(),
                };
                each(DelegateRow {
                    subject: key.subject,
                    path,
                    verdict: verdict(key.verdict),
                    rule: key.rule,
                    attempts,
                    listener: None,
                    reached: Reached::AsAsked,
                });
            },
        )
    }

    /// The whole record at once. For small ones.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = Snapshot::default();
        self.read(&mut |row| snapshot.add(row))?;
        Ok(snapshot)
    }

    /// What a socket's row holds for its flow comes to it when the row is taken for another one; until then it is there.
    fn held_by_sockets(&self) -> Result<HashMap<FlowId, Held>, Error> {
        let mut all: HashMap<FlowId, Held> = HashMap::new();
        let mut add = |socket: &abi::bs_socket| {
            if socket.bytes > 0 || socket.attempts > 0 || socket.connected > 0 {
                all.entry(FlowId::of_socket(socket))
                    .or_default()
                    .add(socket);
            }
        };
        self.rows("bs_seats", &mut |_: u32, seat: abi::bs_seat| {
            add(&seat.socket);
        })?;
        self.rows("bs_sockets", &mut |_: u64, socket: abi::bs_socket| {
            add(&socket);
        })?;
        Ok(all)
    }

    /// What was counted so far.
    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        let failed = |error| Error::caused(ErrorKind::Io, "read the counters", error);
        let mut sums = Counters::default();
        let cpus = self
            .map("bs_counters")
            .lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(failed)?
            .unwrap_or_default();
        for one in cpus
            .iter()
            .filter_map(|octets| abi::value::<abi::bs_counters>(octets))
        {
            sums.attempts += one.attempts;
            // One CPU may take back what another one has counted.
            sums.overflow = sums.overflow.wrapping_add(one.overflow);
            sums.lost = sums.lost.wrapping_add(one.lost);
            sums.subjects_lost += one.subjects_lost;
            sums.queries_lost += one.queries_lost;
            sums.leases_lost += one.leases_lost;
            sums.leases_evicted += one.leases_evicted;
            sums.queries_malformed += one.queries_malformed;
            sums.answers_malformed += one.answers_malformed;
            sums.answers_unasked += one.answers_unasked;
            sums.answers_dropped += one.answers_dropped;
            sums.dns_over_tcp += one.dns_over_tcp;
            sums.events_lost += one.events_lost;
            sums.backstop += one.backstop;
            sums.delegates_lost += one.delegates_lost;
            sums.answers_forged += one.answers_forged;
            sums.sockets_lost += one.sockets_lost;
            sums.claims_busy = sums.claims_busy.wrapping_add(one.claims_busy);
            sums.claims_full += one.claims_full;
            sums.claims_unseen += one.claims_unseen;
            sums.claims_unread += one.claims_unread;
            sums.claims_later += one.claims_later;
            sums.claims_unnamed += one.claims_unnamed;
            sums.claims_hidden += one.claims_hidden;
        }
        // The CPUs are not read at one moment: what was taken back may be seen, and not yet what it was taken from.
        for sum in [&mut sums.overflow, &mut sums.lost, &mut sums.claims_busy] {
            *sum = sum.cast_signed().max(0).cast_unsigned();
        }
        Ok(sums)
    }

    /// Forget everything that was recorded: what the self-probe did is not the run's.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        for (name, map) in &self.maps {
            let failed =
                |error| Error::caused(ErrorKind::Io, format!("clear the table {name}"), error);
            match *name {
                "bs_counters" => {
                    let zero = vec![
                        abi::octets(&abi::zeroed::<abi::bs_counters>()).to_vec();
                        libbpf_rs::num_possible_cpus().map_err(failed)?
                    ];
                    map.update_percpu(&0u32.to_ne_bytes(), &zero, MapFlags::ANY)
                        .map_err(failed)?;
                }
                // /etc/hosts is in the first two; rows of the last go with their sockets.
                "bs_answers" | "bs_names" | "bs_sockets" => {}
                // Nobody sits there any more, and what is held is the self-probe's.
                "bs_seats" => {
                    let free = abi::zeroed::<abi::bs_seat>();
                    for key in map.keys() {
                        map.update(&key, abi::octets(&free), MapFlags::ANY)
                            .map_err(failed)?;
                    }
                }
                _ => {
                    for key in map.keys().collect::<Vec<_>>() {
                        map.delete(&key).map_err(failed)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Pin each map below `dir` under its name.
    pub(crate) fn pin(&mut self, dir: &Path) -> Result<(), Error> {
        for (name, map) in &mut self.maps {
            map.pin(dir.join(*name)).map_err(|error| {
                Error::caused(ErrorKind::Io, format!("pin the map {name}"), error)
            })?;
        }
        Ok(())
    }
}

/// What rows of sockets hold for a flow.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    attempts: u64,
    connected: u64,
    bytes: u64,
    last_ns: u64,
}

impl Held {
    fn add(&mut self, socket: &abi::bs_socket) {
        self.attempts += u64::from(socket.attempts);
        self.connected += u64::from(socket.connected);
        self.bytes += socket.bytes;
        if socket.attempts > 0 {
            self.last_ns = self.last_ns.max(socket.last_ns);
        }
    }
}

/// Which flow a socket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowId {
    subject: SubjectId,
    name: u64,
    addr: [u32; 4],
    rule: u32,
    port: u16,
    protocol: u8,
    verdict: u8,
}

impl FlowId {
    fn of_flow(key: &abi::bs_flow_key) -> Self {
        Self {
            subject: key.subject,
            name: key.name,
            addr: key.addr,
            rule: key.rule,
            port: key.port,
            protocol: key.protocol,
            verdict: key.verdict,
        }
    }

    fn of_socket(socket: &abi::bs_socket) -> Self {
        Self {
            subject: socket.subject,
            name: socket.name,
            addr: socket.addr,
            rule: socket.rule,
            port: socket.port,
            protocol: socket.protocol,
            verdict: socket.flow_verdict,
        }
    }
}

/// A hash table's rows, a few hundred with one system call.
///
/// By hand, since libbpf-rs takes a batch that is not full for the last one, while the kernel also ends a batch
/// early where the next bucket does not fit whole (kernel/bpf/hashtab.c). The last one is the one with ENOENT.
struct Batches<'a> {
    map: &'a MapHandle,
    keys: Vec<u8>,
    values: Vec<u8>,
    rows: u32,
    /// The kernel's place in the table; opaque, at most as large as a key or a bucket's number.
    place: Option<Vec<u8>>,
    done: bool,
}

impl<'a> Batches<'a> {
    fn new(map: &'a MapHandle) -> Self {
        let mut batches = Self {
            map,
            keys: Vec::new(),
            values: Vec::new(),
            rows: 0,
            place: None,
            done: false,
        };
        batches.make_room(BATCH);
        batches
    }

    fn make_room(&mut self, rows: u32) {
        self.rows = rows;
        self.keys
            .resize(rows as usize * self.map.key_size() as usize, 0);
        self.values
            .resize(rows as usize * self.map.value_size() as usize, 0);
    }

    /// Keys and values of the next batch, each row after the other; `None` behind the last.
    fn next(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        if self.done {
            return Ok(None);
        }
        let mut next = vec![0; (self.map.key_size() as usize).max(size_of::<u64>())];
        loop {
            let mut count = self.rows;
            let place = self
                .place
                .as_mut()
                .map_or(ptr::null_mut(), |place| place.as_mut_ptr().cast());
            // SAFETY: the map's descriptor is open; keys and values have room for `count` rows of the map's sizes,
            // both places for a key or a bucket's number; no options are given.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.map.as_fd().as_raw_fd(),
                    place,
                    next.as_mut_ptr().cast(),
                    self.keys.as_mut_ptr().cast(),
                    self.values.as_mut_ptr().cast(),
                    &raw mut count,
                    ptr::null(),
                )
            };
            match -result {
                0 => {}
                libc::ENOENT => self.done = true,
                libc::EINTR | libc::EAGAIN => continue,
                // A bucket with more rows than that.
                libc::ENOSPC if self.rows < self.map.max_entries() => {
                    self.make_room(self.rows.saturating_mul(2).min(self.map.max_entries()));
                    continue;
                }
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            self.place = Some(next);
            let count = count as usize;
            return Ok(Some((
                &self.keys[..count * self.map.key_size() as usize],
                &self.values[..count * self.map.value_size() as usize],
            )));
        }
    }
}

fn subject(id: u64, row: &abi::bs_subject, rest: Option<&abi::bs_argv_rest>) -> SubjectRow {
    let mut argv = Vec::new();
    let kept = usize::from(row.argv_len);
    argv.extend_from_slice(&row.argv[..kept.min(row.argv.len())]);
    if let Some(rest) = rest {
        let more = kept.saturating_sub(row.argv.len());
        argv.extend_from_slice(&rest.text[..more.min(rest.text.len())]);
    }
    let exe = &row.exe[..usize::from(row.exe_len).min(row.exe.len())];
    SubjectRow {
        id,
        parent: row.parent,
        tgid: row.tgid,
        exe: String::from_utf8_lossy(exe).into_owned(),
        argv: split_argv(&argv),
        argv_truncated: row.argv_cut != 0,
        forked: row.forked != 0,
        late: row.late == abi::bs_late::BS_LATE_ACTED.0 as u8,
        found: row.late == abi::bs_late::BS_LATE_FOUND.0 as u8,
        started_ns: row.started_ns,
        ended_ns: row.ended_ns,
        wait_status: row.wait_status,
        replaced: row.replaced != 0,
    }
}

/// NUL-terminated arguments; the last one may have been cut before its NUL.
fn split_argv(octets: &[u8]) -> Vec<String> {
    let octets = octets.strip_suffix(&[0]).unwrap_or(octets);
    if octets.is_empty() {
        return Vec::new();
    }
    octets
        .split(|&octet| octet == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

/// A kept name as text.
fn presentation(row: &abi::bs_name) -> String {
    let wire = &row.wire[..usize::from(row.len).min(row.wire.len())];
    wire_text(wire)
}

/// A name of the record; none if its octets are not one.
pub(crate) fn name_of(row: &abi::bs_name) -> Option<Name> {
    Name::from_wire(&row.wire[..usize::from(row.len).min(row.wire.len())]).ok()
}

/// A name in wire form as text, or its octets in hexadecimal if it is none.
pub(crate) fn wire_text(wire: &[u8]) -> String {
    match Name::from_wire(wire) {
        Ok(name) => name.to_string(),
        Err(_) => wire.iter().map(|octet| format!("{octet:02x}")).collect(),
    }
}

/// A verdict's code.
pub(crate) fn verdict(code: u8) -> Verdict {
    match abi::bs_verdict(u32::from(code)) {
        abi::bs_verdict::BS_DENY => Verdict::Deny,
        abi::bs_verdict::BS_WOULD_DENY => Verdict::WouldDeny,
        abi::bs_verdict::BS_WAIVED => Verdict::Waived,
        abi::bs_verdict::BS_BREAK_GLASS => Verdict::BreakGlass,
        _ => Verdict::Allow,
    }
}

fn attribution(code: u32) -> Attribution {
    match abi::bs_attribution(code) {
        abi::bs_attribution::BS_EXACT => Attribution::Exact,
        abi::bs_attribution::BS_INHERITED => Attribution::Inherited,
        abi::bs_attribution::BS_AMBIGUOUS => Attribution::Ambiguous,
        abi::bs_attribution::BS_UNNAMED => Attribution::Unnamed,
        _ => Attribution::Unknown,
    }
}

/// Wall clock minus CLOCK_BOOTTIME, in nanoseconds.
fn boot_offset_ns() -> i64 {
    nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime)
}

/// A clock's time in nanoseconds.
pub(crate) fn nanoseconds(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::split_argv;

    #[test]
    fn arguments_split_at_their_ends() {
        assert_eq!(split_argv(b"curl\0-s\0\0x\0"), ["curl", "-s", "", "x"]);
        assert_eq!(split_argv(b"cut off he"), ["cut off he"]);
        assert!(split_argv(b"").is_empty());
    }
}
