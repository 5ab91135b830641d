//! The final answer to a denied lookup, given in the server's place.
//!
//! The kernel has dropped the query already: this is courtesy, so that the asker ends at once instead
//! of waiting or trying again. Whatever fails here is counted and changes no verdict.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use blackstart_kernel::AnswerWanted;
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process;

mod message;
mod packet;

/// Answers that may wait for the thread. A burst beyond it loses courtesy, not enforcement.
const WAITING: usize = 1024;

/// Network namespaces whose sockets are kept. A run has one, seldom a handful.
const NAMESPACES: usize = 8;

/// Hands answers to a thread of its own: it changes network namespaces, which the main loop must not.
#[derive(Debug)]
pub(crate) struct Answerer {
    queue: Option<SyncSender<(AnswerWanted, String)>>,
    failed: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Answerer {
    /// Start the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, wanted) = sync_channel(WAITING);
        let failed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&failed);
        let thread = thread::Builder::new()
            .name("answers".to_owned())
            .spawn(move || answer_all(&wanted, &count))?;
        Ok(Self {
            queue: Some(queue),
            failed,
            thread: Some(thread),
        })
    }

    /// Answer a lookup that `rule` (its text) denied. Never waits.
    pub(crate) fn answer(&self, wanted: AnswerWanted, rule: String) {
        let taken = self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.try_send((wanted, rule)).is_ok());
        if !taken {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Answerer {
    /// Give the answers that still wait; how many, of all, could not be given.
    pub(crate) fn finish(mut self) -> u64 {
        self.join();
        self.failed.load(Ordering::Relaxed)
    }

    fn join(&mut self) {
        drop(self.queue.take());
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

fn answer_all(wanted: &Receiver<(AnswerWanted, String)>, failed: &AtomicU64) {
    let mut namespaces = Namespaces::default();
    while let Ok((wanted, rule)) = wanted.recv() {
        if let Err(error) = give(&mut namespaces, &wanted, &rule) {
            tracing::debug!(%error, client = %wanted.client, "no final answer for a denied lookup");
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn give(namespaces: &mut Namespaces, wanted: &AnswerWanted, rule: &str) -> io::Result<()> {
    let text = format!("blocked by blackstart: {rule}");
    let message = message::refusal(wanted, &text).ok_or(io::ErrorKind::InvalidData)?;
    let packet = packet::datagram(wanted.server, wanted.client, &message)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let sockets = namespaces.of(wanted.tgid)?;
    sockets.send(&packet, wanted.client)
}

/// Sockets by network namespace, the most recently used at the back.
#[derive(Default)]
struct Namespaces {
    open: VecDeque<Sockets>,
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
        move_into_link_name_space(sockets.namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
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
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let socket = UdpSocket::bind((client, 0)).unwrap();
        socket.connect(server).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let answerer = Answerer::start().unwrap();
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
        let answerer = Answerer::start().unwrap();
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
}
