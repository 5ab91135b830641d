//! The final answer to a denied lookup, given in the server's place.
//!
//! The kernel has dropped the query already: this is courtesy, so that the asker ends at once instead
//! of waiting or trying again. Whatever fails here is counted and changes no verdict.

use std::cell::OnceCell;
use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use blackstart_kernel::AnswerWanted;
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process;

pub(crate) mod message;
mod packet;

/// Answers that may wait for the thread. Beyond it askers wait in vain for as long as they have patience: where
/// their query passed, its real answer is dropped.
const WAITING: usize = 4096;

/// Network namespaces whose sockets are kept. A run has one, seldom a handful.
const NAMESPACES: usize = 8;

/// Hands answers to a thread of its own: it changes network namespaces, which the main loop must not. It is there from the first
/// answer on: most runs are denied nothing.
#[derive(Debug, Default)]
pub(crate) struct Answerer {
    queue: Arc<Queue>,
    thread: OnceCell<thread::JoinHandle<()>>,
}

impl Answerer {
    /// Answer a lookup that `rule` (its text) denied. Never waits.
    pub(crate) fn answer(&self, wanted: AnswerWanted, rule: String) {
        match self.begun() {
            Ok(()) => self.queue.put(wanted, rule),
            Err(error) => {
                tracing::debug!(%error, "no thread for answers");
                self.queue.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn begun(&self) -> io::Result<()> {
        if self.thread.get().is_none() {
            let wanted = Arc::clone(&self.queue);
            let thread = thread::Builder::new()
                .name("answers".to_owned())
                .spawn(move || answer_all(&wanted))?;
            let _first = self.thread.set(thread);
        }
        Ok(())
    }

    /// Give the answers that still wait; how many, of all, could not be given.
    pub(crate) fn finish(mut self) -> u64 {
        self.join();
        self.queue.failed.load(Ordering::Relaxed)
    }

    fn join(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.join();
    }
}

/// What waits for the thread.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: VecDeque<(AnswerWanted, String)>,
    /// A query sent again before it was answered: one answer does.
    asked: HashSet<Asked>,
    closed: bool,
}

/// What makes two queries the same to their asker.
type Asked = (SocketAddr, SocketAddr, u16, u16, Vec<u8>);

fn asked(wanted: &AnswerWanted) -> Asked {
    let question = wanted.question.clone();
    (
        wanted.client,
        wanted.server,
        wanted.id,
        wanted.qtype,
        question,
    )
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, wanted: AnswerWanted, rule: String) {
        let mut waiting = self.waiting();
        let same = asked(&wanted);
        if waiting.asked.contains(&same) {
            return;
        }
        if waiting.answers.len() >= WAITING {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.asked.insert(same);
        waiting.answers.push_back((wanted, rule));
        drop(waiting);
        self.changed.notify_one();
    }

    /// The next one, waited for; none once the queue is closed and empty.
    fn take(&self) -> Option<(AnswerWanted, String)> {
        let mut waiting = self
            .changed
            .wait_while(self.waiting(), |waiting| {
                waiting.answers.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (wanted, rule) = waiting.answers.pop_front()?;
        waiting.asked.remove(&asked(&wanted));
        Some((wanted, rule))
    }

    fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }
}

fn answer_all(queue: &Queue) {
    let mut namespaces = Namespaces::default();
    while let Some((wanted, rule)) = queue.take() {
        if let Err(error) = give(&mut namespaces, &wanted, &rule) {
            tracing::debug!(%error, client = %wanted.client, "no final answer for a denied lookup");
            queue.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn give(namespaces: &mut Namespaces, wanted: &AnswerWanted, rule: &str) -> io::Result<()> {
    let message = message::refusal(wanted, rule).ok_or(io::ErrorKind::InvalidData)?;
    let packet = packet::datagram(wanted.server, wanted.client, &message)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let sockets = match namespaces.of(wanted.tgid) {
        // Many a tool goes on at once when its query cannot be sent, and has ended by now: nobody waits for this.
        Err(_) if process::has_ended(wanted.tgid) => return Ok(()),
        other => other?,
    };
    sockets.send(&packet, wanted.client)
}

/// Sockets by network namespace, the most recently used at the back.
#[derive(Default)]
struct Namespaces {
    open: VecDeque<Sockets>,
    /// The one that the thread is in, which keeps it.
    entered: Option<u64>,
}

/// Raw sockets of one network namespace, each made when first needed.
struct Sockets {
    inode: u64,
    namespace: fs::File,
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Namespaces {
    /// That of a process, which is entered.
    fn of(&mut self, tgid: u32) -> io::Result<&mut Sockets> {
        // In a pid namespace of our own the asker cannot be named. It is most likely in the network
        // namespace that we began in; what is sent stays on this host in any case.
        let path = if process::numbered_as_recorded() {
            format!("/proc/{tgid}/ns/net")
        } else {
            "/proc/self/ns/net".to_owned()
        };
        let namespace = fs::File::open(path)?;
        // The descriptor held keeps the namespace, so that its inode number cannot come to mean another.
        let inode = namespace.metadata()?.ino();
        let sockets = match self.open.iter().position(|sockets| sockets.inode == inode) {
            Some(at) => self.open.remove(at),
            None => None,
        };
        let sockets = sockets.unwrap_or(Sockets {
            inode,
            namespace,
            v4: None,
            v6: None,
        });
        if self.entered != Some(inode) {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(sockets.namespace.as_fd(), network)?;
            self.entered = Some(inode);
        }
        if self.open.len() >= NAMESPACES {
            self.open.pop_front();
        }
        self.open.push_back(sockets);
        self.open
            .back_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Sockets {
    /// Send a packet, headers and all, to a client in this namespace, in which the thread is.
    fn send(&mut self, packet: &[u8], client: SocketAddr) -> io::Result<()> {
        // A packet with a forged source must not leave the host: its target has to be an address of
        // this namespace, and only such a one can be bound to.
        let flags = SocketFlags::CLOEXEC;
        let family = if client.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let probe = socket_with(family, SocketType::DGRAM, flags, None)?;
        let mut here = client;
        here.set_port(0);
        if let SocketAddr::V6(here) = &mut here
            && here.ip().is_unicast_link_local()
        {
            // The address of a link means nothing without the link, which the record does not know.
            let table = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
            let link = link_of(&table, *here.ip()).ok_or(io::ErrorKind::AddrNotAvailable)?;
            here.set_scope_id(link);
        }
        bind(&probe, &here)?;

        // Sockets of this protocol take the IP header from the sender, in both families.
        let raw = || -> io::Result<OwnedFd> {
            Ok(socket_with(
                family,
                SocketType::RAW,
                flags | SocketFlags::NONBLOCK,
                Some(protocol()),
            )?)
        };
        let slot = if client.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        let socket = match slot {
            Some(socket) => socket,
            None => slot.insert(raw()?),
        };
        // The header names the port; the address given here must not: raw IPv6 sockets take it for a protocol.
        sendto(&*socket, packet, SendFlags::empty(), &here)?;
        Ok(())
    }
}

/// The interface that has this address, by the kernel's table of its own IPv6 addresses.
fn link_of(table: &str, address: Ipv6Addr) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let own = u128::from_str_radix(words.next()?, 16).ok()?;
        let link = u32::from_str_radix(words.next()?, 16).ok()?;
        (Ipv6Addr::from(own) == address).then_some(link)
    })
}

/// IPPROTO_RAW: the packet comes with its IP header.
fn protocol() -> Protocol {
    ipproto::RAW
}

/// An IPv4 address in IPv6 clothing is an IPv4 address on the wire.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Both ends in the same family, as the wire has them.
fn on_the_wire(from: SocketAddr, to: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let (from, to) = (plain(from), plain(to));
    matches!(
        (from.ip(), to.ip()),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
    )
    .then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn wanted(client: SocketAddr, server: SocketAddr) -> AnswerWanted {
        AnswerWanted {
            tgid: std::process::id(),
            id: 0x1234,
            flags: 0x0100,
            question: b"\x06GitHub\x03com\x00".to_vec(),
            qtype: 1,
            qclass: 1,
            edns: true,
            client,
            server,
        }
    }

    /// The whole way: a connected socket hears an answer from a server that does not exist.
    fn answered(client: &str, server: &str) {
        crate::need_root();
        let socket = UdpSocket::bind((client, 0)).unwrap();
        socket.connect(server).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let answerer = Answerer::default();
        answerer.answer(
            wanted(socket.local_addr().unwrap(), server.parse().unwrap()),
            "deny .github.com".to_owned(),
        );
        let mut got = [0; 512];
        let length = socket.recv(&mut got).unwrap();
        assert_eq!(answerer.finish(), 0);
        assert_eq!(got[..2], [0x12, 0x34]);
        assert!(length > 12 && got[..length].windows(16).any(|w| w == b"deny .github.com"));
    }

    #[test]
    fn an_ipv4_asker_hears_it() {
        answered("127.0.0.1", "127.9.9.9:53");
    }

    #[test]
    fn an_ipv6_asker_hears_it() {
        answered("::1", "[::1]:53");
    }

    #[test]
    fn nothing_is_sent_to_another_host() {
        let answerer = Answerer::default();
        // TEST-NET-1: never an address of this host.
        answerer.answer(
            wanted(
                "192.0.2.1:4000".parse().unwrap(),
                "192.0.2.2:53".parse().unwrap(),
            ),
            String::new(),
        );
        assert_eq!(answerer.finish(), 1);
    }

    #[test]
    fn who_has_ended_has_no_answer_to_miss() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut wanted = wanted(
            "127.0.0.1:4000".parse().unwrap(),
            "127.9.9.9:53".parse().unwrap(),
        );
        wanted.tgid = child.id();
        child.wait().unwrap();
        let answerer = Answerer::default();
        answerer.answer(wanted, String::new());
        assert_eq!(answerer.finish(), 0);
    }

    #[test]
    fn a_query_sent_again_waits_once_and_a_flood_is_counted() {
        let queue = Queue::default();
        let client = "127.0.0.1:4000".parse().unwrap();
        let query = wanted(client, "127.9.9.9:53".parse().unwrap());
        for _ in 0..3 {
            queue.put(query.clone(), String::new());
        }
        let mut other = query.clone();
        for id in 0..=u16::try_from(WAITING).unwrap() {
            other.id = id;
            queue.put(other.clone(), String::new());
        }
        assert_eq!(queue.waiting().answers.len(), WAITING);
        assert_eq!(queue.failed.load(Ordering::Relaxed), 2);
        assert_eq!(queue.take().unwrap().0, query);
        queue.put(query, String::new());
        assert_eq!(queue.waiting().answers.len(), WAITING);
        queue.close();
        while queue.take().is_some() {}
        assert!(queue.waiting().asked.is_empty());
    }

    #[test]
    fn the_link_of_an_address_is_in_the_kernels_table() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000000000000000000a 1f 40 20 80     eth0\nshort 1\n";
        assert_eq!(link_of(table, "fe80::a".parse().unwrap()), Some(31));
        assert_eq!(link_of(table, "fe80::b".parse().unwrap()), None);
    }
}
