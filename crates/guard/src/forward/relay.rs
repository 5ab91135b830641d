//! The thread that moves octets.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};

use super::connection::Connection;
use super::{Ask, Bell, Listeners, Reply};

/// Connections at a time, with two sockets each. Where all of them wait for something, more wait to be accepted.
const MOST: usize = 128;
/// How often connections are looked at on which nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// How long nobody is accepted after that failed, for want of descriptors as a rule.
const REST: Duration = Duration::from_millis(200);

/// All connections.
pub(super) struct Relay {
    listeners: Arc<Listeners>,
    asks: Sender<(u64, Ask)>,
    replies: Receiver<(u64, Reply)>,
    /// Rung when something is asked.
    bell: Arc<Bell>,
    /// Rings when something was replied.
    waker: Arc<Bell>,
    connections: BTreeMap<u64, Connection>,
    /// How many there may be.
    most: usize,
    accepted: u64,
    rests_until: Option<Instant>,
}

impl Relay {
    pub(super) fn new(
        listeners: Arc<Listeners>,
        asks: Sender<(u64, Ask)>,
        replies: Receiver<(u64, Reply)>,
        bell: Arc<Bell>,
        waker: Arc<Bell>,
    ) -> Self {
        Self {
            listeners,
            asks,
            replies,
            bell,
            waker,
            connections: BTreeMap::new(),
            most: most(getrlimit(Resource::Nofile).current),
            accepted: 0,
            rests_until: None,
        }
    }

    /// Until nobody replies any more.
    pub(super) fn run(mut self) {
        loop {
            let ready = self.wait();
            let now = Instant::now();
            self.waker.hush();
            if !self.hear_replies(now) {
                return;
            }
            for (id, client, server) in ready {
                let mut asks = Vec::new();
                if let Some(connection) = self.connections.get_mut(&id) {
                    // The server first: what it has said still goes to a client that is about to leave.
                    if !server.is_empty() {
                        connection.server_ready(server, now, &mut asks);
                    }
                    if !client.is_empty() {
                        connection.client_ready(client, now, &mut asks);
                    }
                }
                self.ask(id, asks);
            }
            self.connections
                .retain(|_, connection| !connection.is_over(now));
            self.accept(now);
        }
    }

    /// Wait for something to happen; which connections it happened on.
    fn wait(&self) -> Vec<(u64, PollFlags, PollFlags)> {
        let none = PollFlags::empty();
        let waker = self.waker.0.as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(waker, PollFlags::IN)];
        let accepts = self.rests_until.is_none() && self.has_room();
        for listener in self.listeners.all().filter(|_| accepts) {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        let mut places = Vec::new();
        for (id, connection) in &self.connections {
            let interest = connection.interest();
            let client = fds.len();
            let (fd, flags) = interest.client;
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            let server = interest.server.map(|(fd, flags)| {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                fds.len() - 1
            });
            places.push((*id, client, server));
        }
        let at_most = if self.rests_until.is_some() {
            Some(REST)
        } else if self.connections.is_empty() {
            None
        } else {
            Some(TICK)
        };
        let at_most = at_most.and_then(|time| Timespec::try_from(time).ok());
        if poll(&mut fds, at_most.as_ref()).is_err() {
            // Interrupted: what there is to see will be seen next time.
            return Vec::new();
        }
        let ready = |at: usize| fds[at].revents();
        places
            .into_iter()
            .map(|(id, client, server)| (id, ready(client), server.map_or(none, ready)))
            .filter(|(_, client, server)| !(client.is_empty() && server.is_empty()))
            .collect()
    }

    /// False once nobody replies any more.
    fn hear_replies(&mut self, now: Instant) -> bool {
        loop {
            match self.replies.try_recv() {
                Ok((id, reply)) => {
                    let mut asks = Vec::new();
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.replied(reply, now, &mut asks);
                    }
                    self.ask(id, asks);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn ask(&self, id: u64, asks: Vec<Ask>) {
        let any = !asks.is_empty();
        for ask in asks {
            let _ = self.asks.send((id, ask));
        }
        if any {
            self.bell.ring();
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len() < self.most || self.longest_idle().is_some()
    }

    fn longest_idle(&self) -> Option<u64> {
        let idle = self
            .connections
            .iter()
            .filter_map(|(id, connection)| Some((connection.idle_since()?, *id)));
        idle.min().map(|(_, id)| id)
    }

    fn accept(&mut self, now: Instant) {
        if self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        self.rests_until = None;
        while self.has_room() {
            match accepted(&self.listeners) {
                Ok(Some((stream, from))) => {
                    if self.connections.len() >= self.most
                        && let Some(idle) = self.longest_idle()
                    {
                        self.connections.remove(&idle);
                    }
                    let Ok(connection) = Connection::new(stream, now) else {
                        continue;
                    };
                    self.accepted += 1;
                    self.connections.insert(self.accepted, connection);
                    self.ask(self.accepted, vec![Ask::Who(from)]);
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "a lookup over TCP cannot be accepted");
                    self.rests_until = Some(now + REST);
                    return;
                }
            }
        }
    }
}

/// Connections where this process may have so many descriptors: half of them are left to the rest of the supervisor.
fn most(descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |limit| limit / 4);
    usize::try_from(share).unwrap_or(MOST).clamp(1, MOST)
}

/// The next that waits on one of our sockets, if any does.
fn accepted(listeners: &Listeners) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    for listener in listeners.all() {
        if let Some(found) = accepted_by(listener)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn accepted_by(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    match listener.accept() {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            // It went before it was accepted; another may wait behind it.
            io::ErrorKind::ConnectionAborted => accepted_by(listener),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_to_others() {
        assert_eq!(most(Some(1024)), 128);
        assert_eq!(most(Some(100)), 25);
        assert_eq!(most(Some(0)), 1);
        assert_eq!(most(None), 128);
    }
}
