//! The live view: what the programs tell as it happens.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;

use blackstart_core::record::SocketKind;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Session;
use crate::fill::address;
use crate::read::{verdict, wire_text};
use crate::{AnswerWanted, Error, ErrorKind, Event, abi};

/// An event before the ids in it are resolved.
enum RawEvent {
    Short(abi::bs_event),
    Lookup(Box<abi::bs_lookup_event>),
}

/// The ring in which the programs tell what happens. It is mapped, every page of it twice, only while there is something to read:
/// of hundreds of guards that do nothing, none has it.
pub(super) struct View {
    ring: Option<RingBuffer<'static>>,
    events: Rc<RefCell<Vec<RawEvent>>>,
}

impl View {
    /// That of a run's map, as it can be read.
    pub(super) fn of(map: &MapHandle) -> Result<Self, Error> {
        let mut view = Self {
            ring: None,
            events: Rc::default(),
        };
        view.ring(map)?;
        Ok(view)
    }

    fn ring(&mut self, map: &MapHandle) -> Result<&RingBuffer<'static>, Error> {
        if let Some(ring) = self.ring.take() {
            return Ok(self.ring.insert(ring));
        }
        let failed = |error| Error::caused(ErrorKind::Io, "listen to the live view", error);
        let sink = Rc::clone(&self.events);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(map, move |octets| {
                sink.borrow_mut().extend(raw_event(octets));
                0
            })
            .map_err(failed)?;
        Ok(self.ring.insert(builder.build().map_err(failed)?))
    }

    /// Forget what was told so far.
    pub(super) fn clear(&mut self) -> Result<(), libbpf_rs::Error> {
        let read = self.ring.as_ref().map_or(Ok(()), RingBuffer::consume);
        self.events.borrow_mut().clear();
        read
    }
}

impl Session {
    /// Readable when events wait.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.maps.bs_events.as_fd()
    }

    /// Nothing happens just now: let go what only reading events takes.
    pub fn look_away(&mut self) {
        self.view.ring = None;
    }

    /// Hand waiting events to `each`, without blocking; `most` of them, since more may come as fast as they are read.
    pub fn drain_events(&mut self, most: usize, each: &mut dyn FnMut(Event)) -> Result<(), Error> {
        if self.view.ring.is_none() && !is_readable(self.events_fd()) {
            return Ok(());
        }
        let read = self.view.ring(&self.maps.bs_events)?.consume_raw_n(most);
        if read < 0 {
            let error = std::io::Error::from_raw_os_error(-read);
            return Err(Error::caused(ErrorKind::Io, "read the live view", error));
        }
        let waiting = std::mem::take(&mut *self.view.events.borrow_mut());
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
}

/// Is there something to read, by the kernel's word?
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // What cannot be asked is read.
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

/// An event as it lies in the ring; none for one that is too short.
fn raw_event(octets: &[u8]) -> Option<RawEvent> {
    let kind: u32 = abi::value(octets)?;
    if kind == abi::bs_event_kind::BS_EVENT_LOOKUP.0 {
        abi::value(octets).map(|event| RawEvent::Lookup(Box::new(event)))
    } else {
        abi::value(octets).map(RawEvent::Short)
    }
}
