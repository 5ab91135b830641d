//! One connection of a client, and ours to the server that it asked for.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blackstart_core::name::Name;
use blackstart_kernel::{Asker, Unread};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, socket_error};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::frames::{Incoming, Outgoing, PIECE};
use super::message::{Answer, Query, Question, answer, query};
use super::{Ask, Reply, Unjudged};

/// Queries of one connection that may wait for a verdict or an answer; more are not read meanwhile.
const WAITING: usize = 64;
/// Octets that may wait to be judged, or to be sent each way, before no more are read. One message may go beyond it.
const ROOM: usize = 64 << 10;
/// How long nothing may happen. No resolver waits as long for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    asker: Option<Arc<Asker>>,
    server: Server,
    from_client: Incoming,
    to_client: Outgoing,
    from_server: Incoming,
    to_server: Outgoing,
    /// What was asked of the supervisor's loop, in order.
    judged: VecDeque<Judged>,
    /// What the server was asked, and has not answered.
    expected: Vec<Expected>,
    /// The client says no more.
    client_done: bool,
    /// The server says no more.
    server_done: bool,
    ending: Ending,
    /// When something was last read or sent.
    last: Instant,
}

#[derive(Debug)]
enum Server {
    /// Nothing was to be sent there yet.
    Unneeded,
    Connecting(TcpStream),
    Open(TcpStream),
    Gone,
}

/// How a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// Once what waits for the client is sent.
    Soon,
    Now,
}

/// A message, while it is judged.
#[derive(Debug)]
enum Judged {
    Nothing,
    Lookup(Question, Vec<u8>),
    Unjudged(Vec<u8>),
    Answer(Vec<u8>),
}

#[derive(Debug)]
enum Expected {
    Answer(Question),
    /// To something that could not be judged, and has this id if any.
    Whatever(Option<u16>),
}

/// What to poll for.
pub(super) struct Interest<'a> {
    pub(super) client: (BorrowedFd<'a>, PollFlags),
    pub(super) server: Option<(BorrowedFd<'a>, PollFlags)>,
}

impl Connection {
    /// One that was accepted; nothing is read before it is known whose it is.
    pub(super) fn new(client: TcpStream, now: Instant) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        Ok(Self {
            client,
            asker: None,
            server: Server::Unneeded,
            from_client: Incoming::default(),
            to_client: Outgoing::default(),
            from_server: Incoming::default(),
            to_server: Outgoing::default(),
            judged: VecDeque::from([Judged::Nothing]),
            expected: Vec::new(),
            client_done: false,
            server_done: false,
            ending: Ending::No,
            last: now,
        })
    }

    pub(super) fn interest(&self) -> Interest<'_> {
        let flag = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let client = flag(self.hears_client() && !self.client_done, PollFlags::IN)
            | flag(!self.to_client.is_empty(), PollFlags::OUT);
        let server = match &self.server {
            Server::Unneeded | Server::Gone => None,
            Server::Connecting(stream) => Some((stream.as_fd(), PollFlags::OUT)),
            Server::Open(stream) => Some((
                stream.as_fd(),
                flag(self.hears_server(), PollFlags::IN)
                    | flag(!self.to_server.is_empty(), PollFlags::OUT),
            )),
        };
        Interest {
            client: (self.client.as_fd(), client),
            server,
        }
    }

    fn hears_client(&self) -> bool {
        self.asker.is_some()
            && !self.server_done
            && self.ending == Ending::No
            && self.judged.len() + self.expected.len() < WAITING
            && self.octets_judged() < ROOM
            && self.to_server.len() < ROOM
            && self.to_client.len() < ROOM
    }

    fn hears_server(&self) -> bool {
        self.judged.len() < WAITING && self.octets_judged() < ROOM && self.to_client.len() < ROOM
    }

    fn octets_judged(&self) -> usize {
        let octets = self.judged.iter().map(|judged| match judged {
            Judged::Nothing => 0,
            Judged::Lookup(_, message) | Judged::Unjudged(message) | Judged::Answer(message) => {
                message.len()
            }
        });
        octets.sum()
    }

    /// Something happened on the client's socket.
    pub(super) fn client_ready(&mut self, ready: PollFlags, now: Instant, asks: &mut Vec<Ask>) {
        if ready.contains(PollFlags::IN) && self.hears_client() && !self.client_done {
            let mut piece = [0; PIECE];
            match self.client.read(&mut piece) {
                Ok(0) => self.client_done = true,
                Ok(length) => {
                    self.last = now;
                    self.from_client.add(&piece[..length]);
                }
                Err(error) if is_later(&error) => {}
                Err(_) => self.ending = Ending::Now,
            }
        } else if ready.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            // Nobody is there to be answered.
            self.ending = Ending::Now;
        }
        self.go_on(now, asks);
    }

    /// Send what waits; then there may be room for more to be judged.
    fn go_on(&mut self, now: Instant, asks: &mut Vec<Ask>) {
        self.send(now);
        self.hear_client(asks);
        self.hear_server(asks);
        self.send(now);
    }

    /// Have the client's messages judged, as many as may wait.
    fn hear_client(&mut self, asks: &mut Vec<Ask>) {
        let Some(asker) = self.asker.clone() else {
            return;
        };
        while self.hears_client() {
            let Some(message) = self.from_client.next() else {
                break;
            };
            match query(&message) {
                Some(Query::Lookup(question)) => {
                    asks.push(Ask::Lookup(Arc::clone(&asker), question.clone()));
                    self.judged.push_back(Judged::Lookup(question, message));
                }
                Some(Query::Other) => {
                    asks.push(Ask::Unjudged(Unjudged::NoLookup));
                    self.judged.push_back(Judged::Unjudged(message));
                }
                None => {
                    asks.push(Ask::Unjudged(Unjudged::Unreadable));
                    self.judged.push_back(Judged::Unjudged(message));
                }
            }
        }
    }

    /// Something happened on the server's socket.
    pub(super) fn server_ready(&mut self, ready: PollFlags, now: Instant, asks: &mut Vec<Ask>) {
        if let Server::Connecting(stream) = &self.server {
            if !matches!(socket_error(stream), Ok(Ok(()))) {
                self.server_failed();
                return;
            }
            self.last = now;
            if let Server::Connecting(stream) = std::mem::replace(&mut self.server, Server::Gone) {
                self.server = Server::Open(stream);
            }
        }
        let broken = ready.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if (ready.contains(PollFlags::IN) || broken)
            && let Server::Open(stream) = &mut self.server
        {
            let mut piece = [0; PIECE];
            match stream.read(&mut piece) {
                Ok(0) => {
                    self.server_done = true;
                    self.server = Server::Gone;
                }
                Ok(length) => {
                    self.last = now;
                    self.from_server.add(&piece[..length]);
                }
                Err(error) if is_later(&error) => {}
                Err(_) => self.server_failed(),
            }
        }
        self.go_on(now, asks);
    }

    /// The server is not there, or not any more: what the client would have met.
    fn server_failed(&mut self) {
        self.server = Server::Gone;
        self.server_done = true;
        if self.ending == Ending::No && !self.expected.is_empty() {
            self.reset();
        }
    }

    /// End the connection as a server would that is not there.
    fn reset(&mut self) {
        // Closed with nothing left to wait for, it is a reset.
        let _ = set_socket_linger(&self.client, Some(Duration::ZERO));
        self.ending = Ending::Now;
    }

    /// Have the server's messages judged, as many as may wait.
    fn hear_server(&mut self, asks: &mut Vec<Ask>) {
        let Some(asker) = self.asker.clone() else {
            return;
        };
        while self.hears_server() {
            let Some(message) = self.from_server.next() else {
                break;
            };
            let ask = match answer(&message) {
                None => {
                    if let Some(id) = message.first_chunk() {
                        self.answered(u16::from_be_bytes(*id));
                    }
                    Ask::Stray(Unread::Answer)
                }
                Some(Answer::Bare(id)) => {
                    self.answered(id);
                    self.to_client.put(&message);
                    continue;
                }
                Some(Answer::Full(full)) => match self.take(full.id, &full.name, full.qtype) {
                    Some(question) if full.has_records() && !question.is_transfer() => {
                        Ask::Answer(Arc::clone(&asker), full.name.clone(), full.given())
                    }
                    Some(_) => {
                        self.to_client.put(&message);
                        continue;
                    }
                    None if self.whatever(full.id) => {
                        self.to_client.put(&message);
                        continue;
                    }
                    None => Ask::Stray(Unread::Unasked),
                },
            };
            asks.push(ask);
            self.judged.push_back(Judged::Answer(message));
        }
    }

    /// The question that this answers. A transfer goes on to be expected, for as long as the connection lasts.
    fn take(&mut self, id: u16, name: &Name, qtype: u16) -> Option<Question> {
        let at = self.expected.iter().position(|expected| match expected {
            Expected::Answer(asked) => {
                asked.id == id && asked.qtype == qtype && asked.name == *name
            }
            Expected::Whatever(_) => false,
        })?;
        match &self.expected[at] {
            Expected::Answer(asked) if asked.is_transfer() => Some(asked.clone()),
            _ => match self.expected.swap_remove(at) {
                Expected::Answer(asked) => Some(asked),
                Expected::Whatever(_) => None,
            },
        }
    }

    /// What has no question that can be read answers whatever has its id.
    fn answered(&mut self, id: u16) {
        let at = self.expected.iter().position(|expected| match expected {
            Expected::Answer(asked) => asked.id == id,
            Expected::Whatever(other) => *other == Some(id),
        });
        if let Some(at) = at {
            self.expected.swap_remove(at);
        }
    }

    /// Was something asked that could not be judged, with this id?
    fn whatever(&mut self, id: u16) -> bool {
        let has_it = |expected: &Expected| matches!(expected, Expected::Whatever(Some(other)) if *other == id);
        let at = self.expected.iter().position(has_it);
        at.map(|at| self.expected.swap_remove(at)).is_some()
    }

    /// What the supervisor's loop says to what was asked first.
    pub(super) fn replied(&mut self, reply: Reply, now: Instant, asks: &mut Vec<Ask>) {
        match (self.judged.pop_front(), reply) {
            (Some(Judged::Nothing), Reply::Asker(asker)) => self.asker = Some(Arc::new(asker)),
            (Some(Judged::Lookup(question, message)), Reply::Pass) => {
                self.expected.push(Expected::Answer(question));
                self.pass(&message);
            }
            (Some(Judged::Lookup(..)), Reply::Refuse(message)) => self.to_client.put(&message),
            (Some(Judged::Lookup(..)), Reply::Deny) => self.ending = Ending::Soon,
            (Some(Judged::Lookup(..)), Reply::Lose) => {}
            (Some(Judged::Unjudged(message)), Reply::Pass) => {
                let id = message.first_chunk().copied().map(u16::from_be_bytes);
                self.expected.push(Expected::Whatever(id));
                self.pass(&message);
            }
            (Some(Judged::Unjudged(message)), Reply::Deny) => match not_understood(&message) {
                Some(error) => self.to_client.put(&error),
                None => self.ending = Ending::Soon,
            },
            (Some(Judged::Answer(message)), Reply::Pass) => self.to_client.put(&message),
            (Some(Judged::Answer(_)), Reply::Lose) => {}
            // Whoever waits for it is not to wait in vain.
            (Some(Judged::Answer(_)), Reply::Deny) => self.ending = Ending::Soon,
            // Nobody of this run, or a loop that cannot say.
            _ => self.reset(),
        }
        self.go_on(now, asks);
    }

    fn pass(&mut self, message: &[u8]) {
        self.to_server.put(message);
        if let (Server::Unneeded, Some(asker)) = (&self.server, &self.asker) {
            match reach(asker.server) {
                Ok(stream) => self.server = Server::Connecting(stream),
                Err(error) => {
                    tracing::debug!(%error, server = %asker.server, "a lookup over TCP");
                    self.server_failed();
                }
            }
        }
    }

    /// As much as the sockets take.
    fn send(&mut self, now: Instant) {
        match drain(&mut self.client, &mut self.to_client) {
            Ok(true) => self.last = now,
            Ok(false) => {}
            Err(_) => self.ending = Ending::Now,
        }
        if let Server::Open(stream) = &mut self.server {
            match drain(stream, &mut self.to_server) {
                Ok(true) => self.last = now,
                Ok(false) => {}
                Err(_) => self.server_failed(),
            }
        }
    }

    /// Is there nothing more to do? What is left is then to be dropped.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let quiet = self.judged.is_empty() && self.to_client.is_empty();
        match self.ending {
            Ending::Now => true,
            Ending::Soon => quiet,
            Ending::No => {
                let idle = now.saturating_duration_since(self.last) >= PATIENCE;
                let served = self.client_done && self.expected.is_empty();
                idle || (quiet && (served || self.server_done))
            }
        }
    }

    /// Does it wait for nothing, and since when?
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.judged.is_empty() && self.expected.is_empty() && self.to_client.is_empty();
        idle.then_some(self.last)
    }
}

/// Begin to connect to a server.
fn reach(server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Send what waits. Whether anything was sent.
fn drain(stream: &mut TcpStream, outgoing: &mut Outgoing) -> io::Result<bool> {
    let mut any = false;
    while !outgoing.is_empty() {
        match stream.write(outgoing.front()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => {
                outgoing.sent(sent);
                any = true;
            }
            Err(error) if is_later(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(any)
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Format error, for a query of which not more is understood than that it is one.
fn not_understood(message: &[u8]) -> Option<Vec<u8>> {
    let &[high, low, flags] = message.first_chunk()?;
    if message.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([high, low]);
    let opcode = OpCode::from_u8(flags >> 3 & 15);
    let mut error = Message::new(id, MessageType::Response, opcode);
    error.metadata.response_code = ResponseCode::FormErr;
    error.to_vec().ok()
}
