//! The forwarder of lookups over TCP.
//!
//! The kernel turns a connect to one of the run's own resolvers, at port 53, to a socket of ours on loopback. A thread
//! takes the stream apart into messages; each is judged by the supervisor's loop, which owns the tables and the record,
//! and goes on to the server that was asked for, or is refused. Answers come back the same way: what they give is
//! leased before the asker can read it.
//!
//! The thread decides nothing, and the loop waits for nobody: they talk through two queues. Whoever connects and is not
//! of this run is cut off before a word of it is read.

use std::cell::{Cell, OnceCell};
use std::io;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use blackstart_core::name::Name;
use blackstart_kernel::{Asker, Listening, Unread};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

mod connection;
mod frames;
mod message;
mod relay;

pub(crate) use message::{Given, Question};
use relay::Relay;

/// Within this time loopback is reached, or not at all.
const REACHED: Duration = Duration::from_millis(500);

/// Our sockets on loopback, before anybody is turned to them.
#[derive(Debug)]
pub(crate) struct Listeners {
    v4: Option<TcpListener>,
    v6: Option<TcpListener>,
}

impl Listeners {
    /// Listen in this network namespace, for each family that some server is of; and why not where that fails.
    pub(crate) fn open(servers: &[IpAddr]) -> (Self, Vec<String>) {
        let mut failed = Vec::new();
        let mut open = |wanted: bool, loopback: IpAddr| {
            let listener: io::Result<TcpListener> = wanted.then(|| {
                let listener = TcpListener::bind((loopback, 0))?;
                // An address can be had of a link that is down, and a firewall may stand before it. Whoever is turned
                // here must get here.
                TcpStream::connect_timeout(&listener.local_addr()?, REACHED)?;
                listener.set_nonblocking(true)?;
                let _ = listener.accept();
                Ok(listener)
            })?;
            match listener {
                Ok(listener) => Some(listener),
                // Without IPv6 nobody asks a server of that family.
                Err(error) if loopback.is_ipv6() && is_absent(&error) => None,
                Err(error) => {
                    failed.push(format!(
                        "{loopback} cannot be listened on and reached: {error}"
                    ));
                    None
                }
            }
        };
        let is_v4 = |server: &IpAddr| server.to_canonical().is_ipv4();
        let v4 = open(servers.iter().any(is_v4), Ipv4Addr::LOCALHOST.into());
        let v6 = open(!servers.iter().all(is_v4), Ipv6Addr::LOCALHOST.into());
        (Self { v4, v6 }, failed)
    }

    /// At these ports, for each family (0: not), as a supervisor did that has ended: the programs go on turning lookups to them.
    pub(crate) fn again(ports: [u16; 2]) -> io::Result<Self> {
        let open = |loopback: IpAddr, port: u16| {
            let listener: io::Result<Option<TcpListener>> = (port != 0)
                .then(|| {
                    let listener = TcpListener::bind((loopback, port))?;
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                })
                .transpose();
            listener
        };
        Ok(Self {
            v4: open(Ipv4Addr::LOCALHOST.into(), ports[0])?,
            v6: open(Ipv6Addr::LOCALHOST.into(), ports[1])?,
        })
    }

    /// Where, as the kernel knows it; none where nothing listens.
    pub(crate) fn place(&self) -> io::Result<Option<Listening>> {
        Listening::on(self.v4.as_ref(), self.v6.as_ref())
    }

    /// Has somebody connected?
    fn are_wanted(&self) -> bool {
        let mut fds: Vec<_> = self
            .all()
            .map(|listener| PollFd::new(listener, PollFlags::IN))
            .collect();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn all(&self) -> impl Iterator<Item = &TcpListener> {
        self.v4.iter().chain(&self.v6)
    }
}

/// Is this host without the family of that address?
fn is_absent(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// When a thread is tried for again, after there was none to be had.
const REST: Duration = Duration::from_secs(1);

/// What the thread wants to know.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Whose connection is this?
    Who(SocketAddr),
    /// May this be looked up?
    Lookup(Arc<Asker>, Question),
    /// A query that looks nothing up, or that cannot be read: does it pass?
    Unjudged(Unjudged),
    /// An answer that has come: what it gives to the name that was asked for, or none where that cannot be read.
    /// Does it pass?
    Answer(Arc<Asker>, Name, Option<Given>),
    /// An answer that cannot be read, or that nobody waits for: does it pass?
    Stray(Unread),
}

/// Why a query cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unjudged {
    /// An update or a notification.
    NoLookup,
    /// Nobody knows what it asks for.
    Unreadable,
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Theirs.
    Asker(Asker),
    /// To the server, or to the client.
    Pass,
    /// Not to the server: the client has this instead.
    Refuse(Vec<u8>),
    /// To nobody, and nobody is told.
    Lose,
    /// To nobody, and whoever waits is told as well as can be.
    Deny,
    /// None of this run's, or nothing can be judged: the connection is to end.
    Close,
}

/// The supervisor's side. The thread is there from the first connection on: few resolvers ever make one.
pub(crate) struct Forwarder {
    listeners: Arc<Listeners>,
    asked: Receiver<(u64, Ask)>,
    replies: Option<Sender<(u64, Reply)>>,
    bell: Arc<Bell>,
    waker: Arc<Bell>,
    /// The other side, until it has a thread.
    relay: Cell<Option<Box<Relay>>>,
    thread: OnceCell<thread::JoinHandle<()>>,
    /// When it is tried again to start that.
    rests_until: Cell<Option<Instant>>,
}

impl Forwarder {
    /// Wait for somebody to connect.
    pub(crate) fn new(listeners: Listeners) -> io::Result<Self> {
        let listeners = Arc::new(listeners);
        let (asks, asked) = channel();
        let (replies, answered) = channel();
        let bell = Arc::new(Bell::new()?);
        let waker = Arc::new(Bell::new()?);
        let relay = Relay::new(
            Arc::clone(&listeners),
            asks,
            answered,
            Arc::clone(&bell),
            Arc::clone(&waker),
        );
        Ok(Self {
            listeners,
            asked,
            replies: Some(replies),
            bell,
            waker,
            relay: Cell::new(Some(Box::new(relay))),
            thread: OnceCell::new(),
            rests_until: Cell::new(None),
        })
    }

    /// One of them is readable when something is asked, or somebody is the first to connect.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let waits = self.thread.get().is_none() && !self.rests();
        let listeners = self.listeners.all().filter(move |_| waits);
        iter::once(self.bell.0.as_fd()).chain(listeners.map(TcpListener::as_fd))
    }

    fn rests(&self) -> bool {
        self.rests_until
            .get()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Give the other side a thread, if somebody has connected.
    fn begin(&self) {
        if self.thread.get().is_some() || self.rests() || !self.listeners.are_wanted() {
            return;
        }
        let (hand, handed) = sync_channel::<Box<Relay>>(1);
        let started = thread::Builder::new()
            .name("lookups".to_owned())
            .spawn(move || {
                if let Ok(relay) = handed.recv() {
                    relay.run();
                }
            });
        match started {
            Ok(thread) => {
                if let Some(relay) = self.relay.take() {
                    let _ = hand.send(relay);
                }
                let _first = self.thread.set(thread);
            }
            // Whoever has connected waits meanwhile.
            Err(error) => {
                tracing::warn!(%error, "no thread for lookups over TCP");
                self.rests_until.set(Some(Instant::now() + REST));
            }
        }
    }

    /// Reply to what is asked, up to a moment; the rest is for the next time.
    pub(crate) fn serve(&self, until: Instant, mut judge: impl FnMut(Ask) -> Reply) {
        self.begin();
        self.bell.hush();
        let Some(replies) = &self.replies else { return };
        let mut any = false;
        while let Ok((connection, ask)) = self.asked.try_recv() {
            // A thread that has ended wants no reply.
            any |= replies.send((connection, judge(ask))).is_ok();
            if Instant::now() >= until {
                self.bell.ring();
                break;
            }
        }
        if any {
            self.waker.ring();
        }
    }

    fn end(&mut self) {
        // Without anybody to ask, the thread ends, and its connections with it.
        self.replies = None;
        self.waker.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Wakes who polls.
#[derive(Debug)]
struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// It rings until it is hushed; more than that there is none.
    fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn hush(&self) {
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

#[cfg(test)]
mod tests;
