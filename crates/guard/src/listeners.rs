//! Who listens behind the unix sockets that a run reaches for, and behind TCP ports of loopback.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_core::path::usual;
use blackstart_core::record::{DelegateRow, FlowRow, Listener, Reached, Row, Verdict};

use crate::process;

/// Sockets that are looked at. A run that reaches for more of them is told without who listens.
const MOST: usize = 1024;
/// How often one that nobody was found behind is looked at again.
const TRIES: u32 = 3;
/// How long one look may go through the host's processes.
const PATIENCE: Duration = Duration::from_millis(50);

/// What was found out behind each path while it was there.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    listener: Option<Listener>,
    tries: u32,
}

impl Seen {
    fn is_open(&self) -> bool {
        self.listener.is_none() && self.tries < TRIES
    }
}

impl Listeners {
    /// Look at these sockets as far as they are new. `inside` tells of a process whether it is the run's.
    ///
    /// A place is a path as the record writes it, or an address; with who reached for it.
    pub(crate) fn look(&mut self, places: &[(String, u32)], inside: impl Fn(u32) -> bool) {
        let mut wanted = BTreeMap::new();
        for (place, tgid) in places {
            if self.seen.len() >= MOST && !self.seen.contains_key(place) {
                continue;
            }
            let seen = self.seen.entry(place.clone()).or_default();
            if seen.is_open() {
                seen.tries += 1;
                if let Some(inode) = inode_behind(place, *tgid) {
                    wanted.insert(inode, place.clone());
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        for (inode, pid) in owners(&wanted, Instant::now() + PATIENCE) {
            let listener = Listener {
                pid,
                exe: process::exe(pid),
                inside: inside(pid),
            };
            if let Some(seen) = wanted.get(&inode).and_then(|path| self.seen.get_mut(path)) {
                seen.listener = Some(listener);
            }
        }
    }

    /// Is there a socket that another look may find somebody behind?
    pub(crate) fn wants_another_look(&self) -> bool {
        self.seen.values().any(Seen::is_open)
    }

    /// May a look find somebody behind this place?
    pub(crate) fn wants(&self, place: &str) -> bool {
        self.seen.get(place).is_none_or(Seen::is_open)
    }

    /// Say in a row of the record who listens.
    pub(crate) fn complete(&self, row: &mut Row) {
        if let Row::Delegate(row) = row
            && row.listener.is_none()
        {
            let bound = match &row.reached {
                Reached::Alias(name) => name,
                Reached::AsAsked | Reached::Unknown => &row.path,
            };
            let seen = self.seen.get(bound);
            row.listener = seen.and_then(|seen| seen.listener.clone());
        }
    }

    /// A connection to a port of loopback that somebody outside of the run takes: a delegate, as one behind a path is. A
    /// row beside the flow's own.
    pub(crate) fn beside(&self, row: &Row) -> Option<Row> {
        let Row::Flow(flow) = row else { return None };
        let path = place_of(flow)?;
        let listener = self.seen.get(&path)?.listener.clone()?;
        (!listener.inside).then_some(Row::Delegate(DelegateRow {
            subject: flow.subject,
            path,
            verdict: flow.verdict,
            rule: flow.rule,
            attempts: flow.attempts,
            listener: Some(listener),
            reached: Reached::AsAsked,
        }))
    }
}

/// As a place, where the flow is one of TCP to loopback that was let through.
fn place_of(flow: &FlowRow) -> Option<String> {
    near(flow.address, flow.port, flow.protocol, flow.verdict)
}

/// The place that such an attempt reached for, if somebody may listen there on this host.
pub(crate) fn near(address: IpAddr, port: u16, protocol: u8, verdict: Verdict) -> Option<String> {
    const TCP: u8 = 6;
    let address = address.to_canonical();
    let reached = protocol == TCP && address.is_loopback() && verdict == Verdict::Allow;
    reached.then(|| SocketAddr::new(address, port).to_string())
}

/// The inode of the socket that takes what `tgid` sends to this place.
fn inode_behind(place: &str, tgid: u32) -> Option<u64> {
    match place.parse() {
        Ok(address) => port_behind(address, tgid),
        Err(_) => path_behind(place, tgid),
    }
}

/// By the tables of the process's own network namespace: loopback is another in each.
fn port_behind(to: SocketAddr, tgid: u32) -> Option<u64> {
    let whose = if process::numbered_as_recorded() {
        tgid.to_string()
    } else {
        "self".to_owned()
    };
    ["tcp", "tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(format!("/proc/{whose}/net/{table}")).ok()?;
        table.lines().find_map(|line| listens_on(line, to))
    })
}

/// A line of `/proc/net/tcp` or `tcp6`: the inode, if it listens on this.
fn listens_on(line: &str, to: SocketAddr) -> Option<u64> {
    /// `TCP_LISTEN`
    const LISTENS: &str = "0A";
    // Number, local and other address, state, queues, timer, retransmits, user, timeout, inode.
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (state, inode) = (fields.nth(1)?, fields.nth(5)?);
    let at = hex_address(address)?;
    let takes = at.is_unspecified() || at.to_canonical() == to.ip();
    let same = takes && u16::from_str_radix(port, 16) == Ok(to.port());
    (same && state == LISTENS).then(|| inode.parse().ok())?
}

/// Words in this machine's order, each of four octets in the network's.
fn hex_address(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::new();
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets)
            .ok()
            .map(|it| Ipv4Addr::from(it).into()),
        _ => <[u8; 16]>::try_from(octets)
            .ok()
            .map(|it| Ipv6Addr::from(it).into()),
    }
}

fn path_behind(path: &str, tgid: u32) -> Option<u64> {
    let of = |process: &str| fs::read_to_string(format!("/proc/{process}/net/unix")).ok();
    // The table is of one network namespace. The run may have another one, and a daemon that it finds by a path the host's.
    let theirs = tgid.to_string();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let mut looked = Vec::new();
    for process in ["self", &theirs, "1"] {
        let there = namespace(process);
        let foreign = process != "self" && !process::numbered_as_recorded();
        if foreign || there.is_none() || looked.contains(&there) {
            continue;
        }
        if let Some(found) = of(process).and_then(|table| behind(&table, path, tgid)) {
            return Some(found);
        }
        looked.push(there);
    }
    None
}

/// By text alone: to ask a file system could mean to wait for it, and the supervisor waits for nobody.
fn behind(table: &str, path: &str, tgid: u32) -> Option<u64> {
    let asked = seen_by(path, tgid);
    let bound_there = |(_, bound): &(u64, &str)| {
        *bound == path || usual(bound.as_bytes()) == usual(asked.as_bytes())
    };
    let mut all = table.lines().filter_map(taking);
    all.find(bound_there).map(|(inode, _)| inode)
}

/// A socket of `/proc/net/unix` that takes connections or datagrams: its inode and what it is bound to.
fn taking(line: &str) -> Option<(u64, &str)> {
    /// `SOCK_DGRAM`, and `__SO_ACCEPTCON` of the others.
    const DATAGRAM: &str = "0002";
    const ACCEPTS: u32 = 0x10000;
    // Address, references, protocol, flags, type, state, inode, path; the path may have blanks in it.
    let mut fields = line.split_ascii_whitespace().skip(3);
    let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
    let kind = fields.next()?;
    let inode = fields.nth(1)?;
    let (_, path) = line.split_once(&format!(" {inode} "))?;
    (kind == DATAGRAM || flags & ACCEPTS != 0).then_some((inode.parse().ok()?, path))
}

/// The path as the process means it: where it is relative, below the directory that it works in.
fn seen_by(path: &str, tgid: u32) -> String {
    if path.starts_with(['/', '@']) || !process::numbered_as_recorded() {
        return path.to_owned();
    }
    let below = |at: PathBuf| at.join(path.trim_start_matches("./"));
    fs::read_link(format!("/proc/{tgid}/cwd")).map_or_else(
        |_| path.to_owned(),
        |at| below(at).to_string_lossy().into_owned(),
    )
}

/// Who holds these sockets, as far as it is found by `deadline`. Where several do, not PID 1, which listens for others.
fn owners(wanted: &BTreeMap<u64, String>, deadline: Instant) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // Daemons are older than what asks them.
    pids.sort_unstable_by_key(|pid| (*pid == 1, *pid));
    for pid in pids {
        if found.len() == wanted.len() || Instant::now() > deadline {
            break;
        }
        for fd in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let held = fs::read_link(fd.path()).ok();
            let inode = held.as_deref().and_then(Path::to_str).and_then(socket_of);
            if let Some(inode) = inode.filter(|inode| wanted.contains_key(inode)) {
                found.entry(inode).or_insert(pid);
            }
        }
    }
    found
}

/// `socket:[INODE]`
fn socket_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn row(path: &str) -> DelegateRow {
        DelegateRow {
            subject: 1,
            path: path.to_owned(),
            verdict: Verdict::Allow,
            rule: 0,
            attempts: 1,
            listener: None,
            reached: Reached::AsAsked,
        }
    }

    #[test]
    fn lines_of_the_table_are_told_apart() {
        let takes = |line| taking(line);
        assert_eq!(
            takes("0000000000000000: 00000002 00000000 00010000 0001 01 20475 /run/a b"),
            Some((20475, "/run/a b"))
        );
        assert_eq!(
            takes("0000000000000000: 00000002 00000000 00000000 0002 01 31 @log"),
            Some((31, "@log"))
        );
        for other in [
            // Connected, unbound, and the heading.
            "0000000000000000: 00000003 00000000 00000000 0001 03 20475 /run/a",
            "0000000000000000: 00000003 00000000 00000000 0001 03 20475",
            "Num       RefCount Protocol Flags    Type St Inode Path",
            "",
        ] {
            assert_eq!(takes(other), None, "{other}");
        }
    }

    #[test]
    fn a_port_of_loopback_is_found_by_any_address_that_it_listens_on() {
        let lines = [
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0",
            "   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0",
            "   2: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0",
            "   0: 00000000000000000000000001000000:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 44 1 0 100 0",
        ];
        let found = |to: &str| {
            let to = to.parse().unwrap();
            lines.iter().find_map(|line| listens_on(line, to))
        };
        if cfg!(target_endian = "little") {
            assert_eq!(found("127.0.0.1:8080"), Some(41));
            assert_eq!(found("127.0.0.1:8081"), Some(42));
            assert_eq!(
                (found("127.0.0.2:8080"), found("127.0.0.1:8082")),
                (None, None)
            );
            assert_eq!(
                (found("[::1]:8083"), found("127.0.0.1:8083")),
                (Some(44), None)
            );
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut listeners = Listeners::default();
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        listeners.look(&[(address.to_string(), own)], |_| false);
        let flow = |verdict| {
            Row::Flow(FlowRow {
                subject: 3,
                name: 0,
                address: address.ip(),
                port: address.port(),
                protocol: 6,
                verdict,
                rule: 0,
                attribution: blackstart_core::record::Attribution::Exact,
                attempts: 5,
                connected: 5,
                refused: 0,
                timed_out: 0,
                bytes_sent: 1,
                first_ns: 1,
                last_ns: 2,
            })
        };
        let Some(Row::Delegate(row)) = listeners.beside(&flow(Verdict::Allow)) else {
            panic!("nobody behind {address}: {listeners:?}");
        };
        assert_eq!((row.path, row.attempts), (address.to_string(), 5));
        assert_eq!(row.listener.unwrap().pid, own);
        assert_eq!(listeners.beside(&flow(Verdict::Deny)), None);
    }

    #[test]
    fn paths_that_mean_the_same_are_one() {
        let table = "0000: 00000002 00000000 00010000 0001 01 7 /run/a.sock\n\
                     0000: 00000002 00000000 00010000 0001 01 8 /var/run/b.sock\n\
                     0000: 00000002 00000000 00010000 0001 01 9 @c\n";
        let own = std::process::id();
        let found = |path: &str| behind(table, path, own);
        assert_eq!(found("/run/a.sock"), Some(7));
        assert_eq!(found("/var/run/a.sock"), Some(7));
        assert_eq!(found("/run/b.sock"), Some(8));
        assert_eq!(found("@c"), Some(9));
        assert_eq!((found("/variable/run/a.sock"), found("c")), (None, None));
        let here = std::env::current_dir().unwrap().join("d");
        let table = format!("0: 2 0 00010000 0001 01 5 {}", here.display());
        assert_eq!(behind(&table, "./d", own), Some(5));
    }

    #[test]
    fn whoever_listens_is_found_while_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _stream = UnixListener::bind(at("stream")).unwrap();
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        let own = std::process::id();
        let path = |name: &str| at(name).display().to_string();
        let names = ["stream", "datagrams", "nobody"].map(path);
        let rows: Vec<_> = names.iter().map(|name| (name.clone(), own)).collect();
        let found = |listeners: &mut Listeners, inside: bool| {
            listeners.look(&rows, |_| inside);
            names.each_ref().map(|name| {
                let mut row = Row::Delegate(row(name));
                listeners.complete(&mut row);
                match row {
                    Row::Delegate(row) => row.listener.map(|it| (it.pid, it.inside)),
                    other => panic!("{other:?}"),
                }
            })
        };
        let us = Some((own, false));
        // A look has its time, which may pass on a busy machine before it comes to us.
        let mut tries = 0;
        let mut listeners = loop {
            let mut listeners = Listeners::default();
            if found(&mut listeners, false) == [us, us, None] {
                break listeners;
            }
            tries += 1;
            assert!(tries < 200, "{:?}", found(&mut listeners, false));
        };
        // Once is enough: it may be somebody else's by now.
        assert_eq!(found(&mut listeners, true), [us, us, None]);
    }
}
