//! Internet sockets that are older than the guard: which there are, whose, and how one is ended.
//!
//! The kernel tells of them by its socket diagnostics (sock_diag(7)), in each network namespace for itself, and with
//! the cgroup that each was made in, by which the programs judge it as well. Why by hand: docs/decisions/0022-attach.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::fd::OwnedFd;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Network namespaces that are looked at.
const NAMESPACES: usize = 64;

/// Standard input, output and error.
const STREAMS: u32 = 2;

const TCP: u8 = 6;
const UDP: u8 = 17;

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
pub(crate) const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const SOCKID: usize = 48;
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;
pub(crate) const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
pub(crate) const REQUESTED: u16 = 1;
const ACKNOWLEDGED: u16 = 4;
pub(crate) const DUMPED: u16 = 0x300;
const CGROUP_ID: u16 = 21;

// States of TCP (net/tcp_states.h), which a datagram socket with a peer shares.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// With a peer, and somebody who can still send: from its request for a connection to the close of both ends.
const LIVE: [u8; 5] = [ESTABLISHED, 2, 4, 5, 8];
const UNCONNECTED: u8 = 7;

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    /// What identifies it to the kernel, in its network namespace.
    id: [u8; SOCKID],
    family: u8,
    /// IP protocol number.
    pub(crate) protocol: u8,
    state: u8,
    pub(crate) local: SocketAddr,
    /// Unspecified where it has none.
    pub(crate) peer: SocketAddr,
    pub(crate) cookie: u64,
    inode: u32,
    /// Of the cgroup that it was made in; none if the kernel does not tell.
    cgroup: Option<u64>,
    /// A process that holds it.
    pub(crate) pid: Option<u32>,
    /// The network namespace that it is in.
    namespace: u64,
    /// A socket beside it listens at its port.
    pub(crate) incoming: bool,
}

impl Open {
    /// Has it a peer?
    pub(crate) fn is_connection(&self) -> bool {
        LIVE.contains(&self.state) && self.peer.port() != 0
    }

    /// Of datagrams?
    pub(crate) fn is_datagrams(&self) -> bool {
        self.protocol == UDP
    }
}

/// What there is in some processes' network namespaces.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Made in one of the cgroups, or held by one of the processes where the kernel does not tell.
    pub(crate) own: Vec<Open>,
    /// Held by one of the processes, and made elsewhere.
    pub(crate) foreign: Vec<Open>,
    /// Network namespaces that could not be looked at, and why.
    pub(crate) unseen: Vec<String>,
    namespaces: BTreeMap<u64, File>,
}

impl Sockets {
    /// Those of these processes, which are in these cgroups.
    pub(crate) fn of(pids: &[i32], cgroups: &[u64]) -> Self {
        let cgroups: BTreeSet<u64> = cgroups.iter().copied().collect();
        let mut found = Self::default();
        let mut holders: HashMap<u32, u32> = HashMap::new();
        for pid in pids {
            for inode in held_by(*pid) {
                holders.entry(inode).or_insert(pid.cast_unsigned());
            }
            // The descriptor held keeps the namespace, so that its inode number cannot come to mean another.
            let namespace = File::open(format!("/proc/{pid}/ns/net"));
            if let Some((inode, namespace)) = namespace
                .ok()
                .and_then(|file| Some((file.metadata().ok()?.ino(), file)))
                && found.namespaces.len() < NAMESPACES
            {
                found.namespaces.entry(inode).or_insert(namespace);
            }
        }
        for (&inode, namespace) in &found.namespaces {
            match within(namespace, all_sockets) {
                Ok(sockets) => {
                    let mut sockets = sockets;
                    for socket in &mut sockets {
                        socket.namespace = inode;
                        socket.pid = holders.get(&socket.inode).copied();
                    }
                    mark_incoming(&mut sockets);
                    for socket in sockets {
                        match socket.cgroup {
                            Some(cgroup) if cgroups.contains(&cgroup) => found.own.push(socket),
                            None if socket.pid.is_some() => found.own.push(socket),
                            _ if socket.pid.is_some() => found.foreign.push(socket),
                            _ => {}
                        }
                    }
                }
                Err(error) => found.unseen.push(error.to_string()),
            }
        }
        found
    }

    /// End these, each at once, for whoever holds it. Which could not be, and why.
    pub(crate) fn end(&self, doomed: &[&Open]) -> Vec<(Open, String)> {
        let mut failed = Vec::new();
        for (inode, namespace) in &self.namespaces {
            let here = doomed.iter().filter(|socket| socket.namespace == *inode);
            let here: Vec<Open> = here.map(|socket| (*socket).clone()).collect();
            if here.is_empty() {
                continue;
            }
            let sockets = here.clone();
            let ended = within(namespace, move || {
                let netlink = open()?;
                let each = here.iter().map(|socket| destroy(&netlink, socket));
                Ok(each.collect::<Vec<_>>())
            });
            match ended {
                Ok(each) => {
                    let each = sockets.into_iter().zip(each);
                    failed.extend(
                        each.filter_map(|(one, done)| Some((one, done.err()?.to_string()))),
                    );
                }
                Err(error) => {
                    failed.extend(sockets.into_iter().map(|one| (one, error.to_string())));
                }
            }
        }
        failed
    }
}

/// Does any of these, of a unit that starts just now, hold a socket of its own? Not the streams of a service, which lead to the
/// journal, and not what the child of systemd's holds that is to become the service.
pub(crate) fn hold_sockets(pids: &[i32]) -> bool {
    let dir_of = |pid: i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        exe.parent().map(Path::to_owned)
    };
    let of_systemd = dir_of(1);
    let mut own = pids
        .iter()
        .filter(|pid| of_systemd.is_none() || dir_of(**pid) != of_systemd);
    own.any(|pid| sockets_of(*pid).any(|(descriptor, _)| descriptor > STREAMS))
}

/// Inodes of the sockets that a process holds.
fn held_by(pid: i32) -> Vec<u32> {
    sockets_of(pid).map(|(_, inode)| inode).collect()
}

/// The descriptors of a process that are sockets, and the inode of each.
fn sockets_of(pid: i32) -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        let descriptor = entry.file_name().to_str()?.parse().ok()?;
        Some((descriptor, inode.parse().ok()?))
    })
}

/// An answer is sent from the port that was asked at.
fn mark_incoming(sockets: &mut [Open]) {
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|socket| socket.protocol == TCP && socket.state == LISTEN)
        .map(|socket| socket.local.port())
        .collect();
    for socket in sockets {
        socket.incoming = socket.protocol == TCP
            && socket.is_connection()
            && listening.contains(&socket.local.port());
    }
}

/// Do something in a network namespace, on a thread of its own: the main loop's must not change.
pub(crate) fn within<T: Send + 'static>(
    namespace: &File,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.try_clone()?;
    let thread = thread::Builder::new()
        .name("sockets".to_owned())
        .spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread for it ended early")))
}

/// A socket by which the kernel tells of those in this thread's network namespace.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(SOCK_DIAG),
    )?;
    // Nobody is waited for without end.
    let patience = std::time::Duration::from_secs(2);
    rustix::net::sockopt::set_socket_timeout(
        &netlink,
        rustix::net::sockopt::Timeout::Recv,
        Some(patience),
    )?;
    Ok(netlink)
}

fn all_sockets() -> io::Result<Vec<Open>> {
    let netlink = open()?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let family = u8::try_from(family.as_raw()).unwrap_or_default();
        for protocol in [TCP, UDP] {
            dump(&netlink, family, protocol, &mut found)?;
        }
    }
    Ok(found)
}

fn dump(netlink: &OwnedFd, family: u8, protocol: u8, found: &mut Vec<Open>) -> io::Result<()> {
    let states = LIVE.into_iter().chain([LISTEN, UNCONNECTED]);
    let states = states.fold(0_u32, |all, state| all | 1 << state);
    send(
        netlink,
        BY_FAMILY,
        REQUESTED | DUMPED,
        family,
        protocol,
        states,
        &[0; SOCKID],
    )?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (got, _) = recv(netlink, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..got];
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match kind {
                DONE => return Ok(()),
                ERROR => return errno(body),
                BY_FAMILY => found.extend(socket(body, protocol)),
                _ => {}
            }
        }
    }
}

/// End a socket, as `ss -K` does: who reads from it or writes to it gets ECONNABORTED.
fn destroy(netlink: &OwnedFd, socket: &Open) -> io::Result<()> {
    send(
        netlink,
        DESTROY,
        REQUESTED | ACKNOWLEDGED,
        socket.family,
        socket.protocol,
        u32::MAX,
        &socket.id,
    )?;
    let mut buffer = [0; 4096];
    let (got, _) = recv(netlink, &mut buffer, RecvFlags::empty())?;
    match message(&buffer[..got]) {
        Some((ERROR, body, _)) => errno(body),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send(
    netlink: &OwnedFd,
    kind: u16,
    flags: u16,
    family: u8,
    protocol: u8,
    states: u32,
    id: &[u8; SOCKID],
) -> io::Result<()> {
    let mut text = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).unwrap_or_default();
    text.extend(length.to_ne_bytes());
    text.extend(kind.to_ne_bytes());
    text.extend(flags.to_ne_bytes());
    text.extend([0; 8]);
    text.extend([family, protocol, 0, 0]);
    text.extend(states.to_ne_bytes());
    text.extend(id);
    sendto(
        netlink,
        &text,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    Ok(())
}

/// The first of some messages, what it says, and what follows.
pub(crate) fn message(octets: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(octets.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(octets.get(4..6)?.try_into().ok()?);
    let body = octets.get(HEADER..length)?;
    let next = length.next_multiple_of(4).min(octets.len());
    Some((kind, body, &octets[next..]))
}

/// What an error says; zero is an acknowledgement.
pub(crate) fn errno(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|octets| octets.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn socket(body: &[u8], protocol: u8) -> Option<Open> {
    let head = body.get(..MESSAGE)?;
    let (family, state) = (head[0], head[1]);
    let id: [u8; SOCKID] = head[4..4 + SOCKID].try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let is_v6 = i32::from(family) == i32::from(AddressFamily::INET6.as_raw());
    let address = |at: usize| -> Option<IpAddr> {
        Some(if is_v6 {
            let octets: [u8; 16] = id[at..at + 16].try_into().ok()?;
            Ipv6Addr::from(octets).to_canonical()
        } else {
            let octets: [u8; 4] = id[at..at + 4].try_into().ok()?;
            Ipv4Addr::from(octets).into()
        })
    };
    let word = |octets: &[u8]| u32::from_ne_bytes(octets.try_into().unwrap_or_default());
    let cookie = u64::from(word(&id[40..44])) | u64::from(word(&id[44..48])) << 32;
    Some(Open {
        id,
        family,
        protocol,
        state,
        local: SocketAddr::new(address(4)?, port(0)),
        peer: SocketAddr::new(address(20)?, port(2)),
        cookie,
        inode: word(&head[68..72]),
        cgroup: cgroup(&body[MESSAGE..]),
        pid: None,
        namespace: 0,
        incoming: false,
    })
}

/// Among the attributes behind a socket.
fn cgroup(octets: &[u8]) -> Option<u64> {
    let value = attribute(octets, CGROUP_ID)?;
    Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))
}

/// One of the attributes behind a message.
pub(crate) fn attribute(mut octets: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(octets.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(octets.get(2..4)?.try_into().ok()?);
        let value = octets.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        octets = octets.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn own() -> Sockets {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut own = Sockets::of(&[pid], &[]);
        assert_eq!(own.unseen, [] as [String; 0]);
        // Of no cgroup that was named: all that this process holds was made elsewhere.
        own.own.append(&mut own.foreign);
        own
    }

    #[test]
    fn connections_are_found_and_ended() {
        crate::need_root();
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect("127.0.0.1:9").unwrap();
        let found = own();
        let of = |local: SocketAddr| {
            let mut all = found.own.iter();
            all.find(|socket| socket.local == local && socket.is_connection())
        };
        let client = of(stream.local_addr().unwrap()).unwrap();
        assert_eq!(client.peer, listener.local_addr().unwrap());
        assert_eq!(client.pid, Some(std::process::id()));
        assert!(!client.incoming && client.cgroup.is_some() && client.cookie != 0);
        let server = found
            .own
            .iter()
            .find(|socket| socket.is_connection() && socket.peer == stream.local_addr().unwrap());
        assert!(server.unwrap().incoming);
        let asking = of(datagrams.local_addr().unwrap()).unwrap();
        assert!(asking.is_datagrams() && asking.peer.port() == 9);

        assert_eq!(found.end(&[client]), []);
        let mut octet = [0];
        let error = io::Read::read(&mut &stream, &mut octet).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        // It is gone by now.
        assert_eq!(found.end(&[client]).len(), 1);
        drop(accepted);
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        assert_eq!(message(&[0; 3]), None);
        assert_eq!(message(&[255; 16]), None);
        assert_eq!(message(&[4, 0, 0, 0, 3, 0, 0, 0]), None);
        assert!(socket(&[0; MESSAGE - 1], TCP).is_none());
        assert_eq!(cgroup(&[3, 0, 21, 0, 0]), None);
        assert_eq!(cgroup(&[0; 8]), None);
        assert!(errno(&[]).is_err());
    }
}
